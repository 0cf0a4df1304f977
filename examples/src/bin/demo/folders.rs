//! Where the demo keeps its files.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The demo's folders, which exist.
#[derive(Clone, Debug)]
pub(crate) struct Folders {
    /// What people sent. It stays after the task: a retry by hand needs it again.
    pub(crate) uploads: PathBuf,
    /// Mails that would have been sent.
    pub(crate) outbox: PathBuf,
    /// Small versions of pictures.
    pub(crate) thumbnails: PathBuf,
    /// Imported contacts, a file for each import.
    pub(crate) contacts: PathBuf,
}

impl Folders {
    /// Makes what is missing below `root`.
    pub(crate) fn below(root: &Path) -> io::Result<Self> {
        // Tasks keep running if the process changes its folder.
        let root = std::path::absolute(root)?;
        let folders = Self {
            uploads: root.join("uploads"),
            outbox: root.join("outbox"),
            thumbnails: root.join("thumbnails"),
            contacts: root.join("contacts"),
        };
        for folder in [
            &folders.uploads,
            &folders.outbox,
            &folders.thumbnails,
            &folders.contacts,
        ] {
            fs::create_dir_all(folder).map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("cannot make the folder {}: {error}", folder.display()),
                )
            })?;
        }
        Ok(folders)
    }
}

/// Writes a file whole or not at all, so that an attempt that dies half-way leaves nothing that looks finished.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension("part");
    fs::write(&unfinished, bytes)?;
    fs::rename(&unfinished, path)
}
