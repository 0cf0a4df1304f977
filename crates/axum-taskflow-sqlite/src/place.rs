//! Whether the files that are open still lie where they were opened.

use std::{
    fs::{self, File, Metadata},
    io,
    path::{Path, PathBuf},
};

use crate::fault::Fault;

/// A path, and which file lay there at the beginning, and its log beside it. SQLite goes on in files that somebody has
/// deleted: what is stored there is gone when the process ends, and no error says so.
#[derive(Debug)]
pub(crate) struct Place {
    file: Lying,
    /// The log, once it was there. SQLite never makes it anew while somebody has the file open.
    log: Option<Lying>,
    log_path: PathBuf,
}

/// A file at a path.
#[derive(Debug)]
struct Lying {
    path: PathBuf,
    id: FileId,
}

/// Device and number, where the system has them.
type FileId = Option<(u64, u64)>;

impl Place {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let mut log_path = path.as_os_str().to_owned();
        log_path.push("-wal");
        Ok(Self {
            file: Lying::at(path)?,
            log: None,
            log_path: log_path.into(),
        })
    }

    /// # Errors
    /// If the file or its log was deleted or replaced.
    pub(crate) fn is_same(&mut self) -> Result<(), Fault> {
        self.file
            .is_there("deleted or moved away", "replaced by another one")?;
        match &self.log {
            Some(log) => log.is_there(
                "separated from its log, which somebody has deleted or moved away,",
                "separated from its log, which somebody has replaced,",
            ),
            None => {
                self.log = match Lying::at(&self.log_path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => None, // nothing was written yet
                    looked => Some(looked?),
                };
                Ok(())
            }
        }
    }
}

impl Lying {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            id: file_id(&fs::metadata(path)?),
        })
    }

    fn is_there(&self, gone: &'static str, replaced: &'static str) -> Result<(), Fault> {
        match fs::metadata(&self.path) {
            Ok(metadata) if file_id(&metadata) == self.id => Ok(()),
            Ok(_) => Err(Fault::Lost(replaced)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Fault::Lost(gone)),
            Err(error) => Err(error.into()),
        }
    }
}

/// True if this file is mounted by itself, as containers may do: what lies beside it then lies elsewhere.
#[cfg(target_os = "linux")]
pub(crate) fn is_mounted(path: &Path) -> bool {
    // Without /proc it cannot be told.
    fs::read_to_string("/proc/self/mountinfo").is_ok_and(|mounts| is_among(&mounts, path))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn is_mounted(_: &Path) -> bool {
    false
}

/// <https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html>
#[cfg(target_os = "linux")]
fn is_among(mounts: &str, path: &Path) -> bool {
    let Some(path) = path.to_str() else {
        return false;
    };
    // These are written by their numbers, as they would end the field.
    let escaped = path
        .replace('\\', "\\134")
        .replace(' ', "\\040")
        .replace('\t', "\\011")
        .replace('\n', "\\012");
    mounts
        .lines()
        .any(|mount| mount.split(' ').nth(4) == Some(&escaped))
}

/// True if this open file is the one that lies at `path`.
pub(crate) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(file_id(&metadata) == file_id(&file.metadata()?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(unix)]
fn file_id(metadata: &Metadata) -> FileId {
    use std::os::unix::fs::MetadataExt;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn file_id(_: &Metadata) -> FileId {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_mounted_file_is_told_from_one_in_a_mounted_folder() {
        let mounts = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                      30 22 8:1 /srv /data rw - ext4 /dev/sda1 rw\n\
                      31 22 8:1 /srv/my\\040tasks.db /app/my\\040tasks.db rw - ext4 /dev/sda1 rw\n";

        assert!(is_among(mounts, Path::new("/app/my tasks.db")));
        assert!(!is_among(mounts, Path::new("/data/tasks.db")));
        assert!(!is_among(mounts, Path::new("/app/my")));
    }
}
