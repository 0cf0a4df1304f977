//! Whether the file that is open still lies where it was opened.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::fault::Fault;

/// A path, and which file lay there at the beginning. SQLite goes on in a file that somebody has deleted: what is
/// stored there is gone when the process ends, and no error says so.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    file: Option<FileId>,
}

/// Device and number, where the system has them.
type FileId = (u64, u64);

impl Place {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: file_id(path)?,
        })
    }

    /// # Errors
    /// If the file was deleted or replaced.
    pub(crate) fn is_same(&self) -> Result<(), Fault> {
        match file_id(&self.path) {
            Ok(file) if file == self.file => Ok(()),
            Ok(_) => Err(Fault::Lost("replaced by another one")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Fault::Lost("deleted or moved away"))
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(unix)]
fn file_id(path: &Path) -> io::Result<Option<FileId>> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(path)?;
    Ok(Some((metadata.dev(), metadata.ino())))
}

#[cfg(not(unix))]
fn file_id(path: &Path) -> io::Result<Option<FileId>> {
    fs::metadata(path).map(|_| None)
}
