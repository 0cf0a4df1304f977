//! An instance is alive as long as it holds the lock on its file: the kernel lets go of it at death, whatever the
//! death was like, and no clock is asked.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use axum_taskflow_core::InstanceId;

/// Where the lock files of all instances of one database lie.
#[derive(Clone, Debug)]
pub(crate) struct LockFolder(PathBuf);

/// The locks that are held here.
#[derive(Debug)]
pub(crate) struct Locks {
    pub(crate) folder: LockFolder,
    /// Of the instances that joined through this backend: one, as a rule. A file is locked as long as it is here.
    held: Vec<(InstanceId, File)>,
}

impl LockFolder {
    /// Beside the database: `tasks.db-instances/`.
    pub(crate) fn beside(database: &Path) -> Self {
        let mut folder = database.as_os_str().to_owned();
        folder.push("-instances");
        Self(folder.into())
    }

    /// True if nobody holds the lock of this instance. What this process holds counts too: a lock belongs to an open
    /// file, and this opens another one.
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

    fn path(&self, id: InstanceId) -> PathBuf {
        self.0.join(format!("{id}.lock"))
    }
}

impl Locks {
    pub(crate) fn of(folder: LockFolder) -> Self {
        Self {
            folder,
            held: Vec::new(),
        }
    }

    /// Takes the lock of a new instance. Others must learn of the instance afterwards only: before, they would take
    /// it for dead.
    pub(crate) fn take(&mut self, id: InstanceId) -> io::Result<()> {
        if self.held.iter().any(|(held, _)| *held == id) {
            return Ok(());
        }
        fs::create_dir_all(&self.folder.0)?;
        let path = self.folder.path(id);
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)?;
        match file.try_lock() {
            Ok(()) => {
                self.held.push((id, file));
                Ok(())
            }
            Err(TryLockError::WouldBlock) => Err(io::Error::other(format!(
                "{path:?} is locked: an instance with this id is running"
            ))),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// The instances whose locks are held here.
    pub(crate) fn held(&self) -> Vec<InstanceId> {
        self.held.iter().map(|(id, _)| *id).collect()
    }

    /// Lets go of a lock: to the others the instance is dead.
    pub(crate) fn release(&mut self, id: InstanceId) {
        self.held.retain(|(held, _)| *held != id);
    }

    /// Removes the file of an instance that is dead, or that is held here and owns nothing.
    pub(crate) fn remove(&mut self, id: InstanceId) -> io::Result<()> {
        let removed = fs::remove_file(self.folder.path(id));
        self.release(id);
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
