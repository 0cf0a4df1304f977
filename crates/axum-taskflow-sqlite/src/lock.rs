//! An instance is alive as long as it holds the lock on its file: the kernel lets go of it at death, whatever the
//! death was like, and no clock is asked.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use axum_taskflow_core::InstanceId;

/// The locks of all instances of one database.
#[derive(Clone, Debug)]
pub(crate) struct Locks {
    folder: PathBuf,
}

/// The lock of a living instance, held as long as this value lives.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
}

impl Locks {
    /// Beside the database: `tasks.db-instances/`.
    pub(crate) fn beside(database: &Path) -> Self {
        let mut folder = database.as_os_str().to_owned();
        folder.push("-instances");
        Self {
            folder: folder.into(),
        }
    }

    /// Takes the lock of an instance that nobody knows yet. Others must learn of the instance afterwards only: they
    /// would take it for dead.
    pub(crate) fn take(&self, id: InstanceId) -> io::Result<Lock> {
        fs::create_dir_all(&self.folder)?;
        let path = self.path(id);
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { file, path }),
            Err(TryLockError::WouldBlock) => Err(io::Error::other(format!(
                "{path:?} is locked: an instance with this id is running"
            ))),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// True if nobody holds the lock of this instance.
    pub(crate) fn is_dead(&self, id: InstanceId) -> io::Result<bool> {
        let file = match File::options().write(true).open(self.path(id)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        match file.try_lock() {
            // Let go of at the end of this function; the id is never used again, so nobody can miss it.
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Removes the file of a dead instance, if it is still there.
    pub(crate) fn remove(&self, id: InstanceId) -> io::Result<()> {
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn path(&self, id: InstanceId) -> PathBuf {
        self.folder.join(format!("{id}.lock"))
    }
}

impl Lock {
    /// Removes the file and lets go.
    pub(crate) fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)?;
        self.file.unlock()
    }
}
