//! An instance is alive as long as it holds the lock on its file: the kernel lets go of it at death, whatever the
//! death was like, and no clock is asked.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use axum_taskflow_core::InstanceId;

/// The lock files of all instances of one database, and the locks that are held here.
#[derive(Debug)]
pub(crate) struct Locks {
    folder: PathBuf,
    /// Of the instances that joined through this backend: one, as a rule. A file is locked as long as it is here.
    held: Vec<(InstanceId, File)>,
}

impl Locks {
    /// Beside the database: `tasks.db-instances/`.
    pub(crate) fn beside(database: &Path) -> Self {
        let mut folder = database.as_os_str().to_owned();
        folder.push("-instances");
        Self {
            folder: folder.into(),
            held: Vec::new(),
        }
    }

    /// Takes the lock of a new instance. Others must learn of the instance afterwards only: before, they would take
    /// it for dead.
    pub(crate) fn take(&mut self, id: InstanceId) -> io::Result<()> {
        if self.is_held(id) {
            return Ok(());
        }
        fs::create_dir_all(&self.folder)?;
        let path = self.path(id);
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

    /// True if nobody holds the lock of this instance.
    pub(crate) fn is_dead(&self, id: InstanceId) -> io::Result<bool> {
        if self.is_held(id) {
            return Ok(false);
        }
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

    /// The instances whose locks are held here.
    pub(crate) fn held(&self) -> Vec<InstanceId> {
        self.held.iter().map(|(id, _)| *id).collect()
    }

    /// Removes the file of an instance that is dead, or that is held here and owns nothing.
    pub(crate) fn remove(&mut self, id: InstanceId) -> io::Result<()> {
        let removed = fs::remove_file(self.path(id));
        self.held.retain(|(held, _)| *held != id);
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn is_held(&self, id: InstanceId) -> bool {
        self.held.iter().any(|(held, _)| *held == id)
    }

    fn path(&self, id: InstanceId) -> PathBuf {
        self.folder.join(format!("{id}.lock"))
    }
}
