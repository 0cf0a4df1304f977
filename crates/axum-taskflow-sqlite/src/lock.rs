//! An instance is alive as long as it holds the lock on its file: the kernel lets go of it at death, whatever the
//! death was like, and no clock is asked.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum_taskflow_core::{InstanceId, TaskId, Timestamp};

use crate::{fault::say, place};

/// For how long an instance whose lock is gone must be silent until it counts as dead: its next beat makes the lock
/// again ([`Locks::keep`]), and two of them are hardly more than a second apart.
const SILENT_FOR: Duration = Duration::from_secs(4);

/// The extension of a lock that is made again and has not its name yet.
const NEW: &str = "new";

/// Where the lock files of all instances of one database lie.
#[derive(Clone, Debug)]
pub(crate) struct LockFolder {
    path: PathBuf,
    /// Instances whose locks somebody has deleted: the last beat of each, and since when no other was seen. A std
    /// mutex: held for one look.
    missing: Arc<Mutex<HashMap<InstanceId, (Timestamp, Instant)>>>,
    /// Instances of other users, whose locks this process may not look at: it is said once. A std mutex: as above.
    hidden: Arc<Mutex<HashSet<InstanceId>>>,
}

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
        Self {
            path: folder.into(),
            missing: Arc::default(),
            hidden: Arc::default(),
        }
    }

    /// True if nobody holds the lock of this instance. What this process holds counts too: a lock belongs to an open
    /// file, and this opens another one. `beat_at` is its last beat, if it has joined and not left: somebody may have
    /// deleted the file of one that lives.
    pub(crate) fn is_dead(&self, id: InstanceId, beat_at: Option<Timestamp>) -> io::Result<bool> {
        match is_unlocked(&self.path(id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(beat_at.is_none_or(|beat_at| self.is_silent(id, beat_at)))
            }
            // What one of them hides must not keep all others from being taken over.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.say_hidden(id, &error);
                Ok(false)
            }
            looked => {
                self.missing().remove(&id);
                looked
            }
        }
    }

    fn say_hidden(&self, id: InstanceId, error: &io::Error) {
        let mut hidden = self.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        if hidden.insert(id) {
            let path = self.path(id);
            say(|| {
                tracing::warn!(%id, ?path, %error, "the lock of an instance cannot be looked at: it counts as alive, and nobody \
                    takes over its tasks; let all processes that share the file run as one user");
            });
        }
    }

    /// True if no other beat than this one was seen for some time, by a clock that nobody sets.
    fn is_silent(&self, id: InstanceId, beat_at: Timestamp) -> bool {
        let now = Instant::now();
        let mut missing = self.missing();
        let (last_beat, since) = missing.entry(id).or_insert((beat_at, now));
        if *last_beat != beat_at {
            (*last_beat, *since) = (beat_at, now);
        }
        since.elapsed() >= SILENT_FOR
    }

    fn missing(&self) -> MutexGuard<'_, HashMap<InstanceId, (Timestamp, Instant)>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All files, with the instances that they are of.
    pub(crate) fn files(&self) -> io::Result<Vec<(InstanceId, PathBuf)>> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let name = path.file_stem().and_then(|stem| stem.to_str());
            // All ids are written in the same way.
            let Some(id) = name.and_then(|name| name.parse::<TaskId>().ok()) else {
                continue;
            };
            files.push((InstanceId::from_bytes(*id.as_bytes()), path));
        }
        Ok(files)
    }

    /// Removes a file unless somebody holds its lock.
    pub(crate) fn remove_unlocked(&self, file: &Path) -> io::Result<()> {
        match is_unlocked(file)? {
            true => fs::remove_file(file),
            false => Ok(()),
        }
    }

    fn path(&self, id: InstanceId) -> PathBuf {
        self.path.join(format!("{id}.lock"))
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
        fs::create_dir_all(&self.folder.path)?;
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

    /// Makes the files of the locks that are held here again if somebody has deleted them, as programs do that tidy up.
    pub(crate) fn keep(&mut self) -> io::Result<()> {
        for (id, file) in &mut self.held {
            let path = self.folder.path(*id);
            if place::is_at(file, &path)? {
                continue;
            }
            say(|| {
                tracing::warn!(
                    ?path,
                    "somebody has deleted the lock of this instance: it is made again"
                );
            });
            fs::create_dir_all(&self.folder.path)?;
            // Locked before it has its name: whoever finds it must not take this instance for dead.
            let new_path = path.with_extension(NEW);
            let again = File::create(&new_path)?;
            again.try_lock()?;
            crash_point!("lock::made-again");
            fs::rename(&new_path, &path)?;
            *file = again;
        }
        Ok(())
    }

    /// The instances whose locks are held here.
    pub(crate) fn held(&self) -> impl Iterator<Item = InstanceId> {
        self.held.iter().map(|(id, _)| *id)
    }

    /// Lets go of a lock: to the others the instance is dead.
    pub(crate) fn release(&mut self, id: InstanceId) {
        self.held.retain(|(held, _)| *held != id);
    }

    /// Removes the file of an instance that is dead, or that is held here and owns nothing.
    pub(crate) fn remove(&mut self, id: InstanceId) -> io::Result<()> {
        let path = self.folder.path(id);
        let removed = [path.with_extension(NEW), path].map(fs::remove_file);
        self.release(id);
        for removed in removed {
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Drop for Locks {
    /// Whoever panics does not stop the functions that run: the locks stay until the process ends.
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::mem::forget(std::mem::take(&mut self.held));
        }
    }
}

fn is_unlocked(path: &Path) -> io::Result<bool> {
    let open = |options: &mut fs::OpenOptions| options.open(path);
    let file = match open(File::options().write(true)) {
        // The file of another user; here a lock needs no right to write.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open(File::options().read(true))?
        }
        opened => opened?,
    };
    match file.try_lock() {
        // Let go of at the end of this function; the id is never used again, so nobody can miss it.
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use axum_taskflow_core::IdSource;

    use super::*;

    #[test]
    fn locks_outlive_a_panic_of_the_thread_that_took_them() {
        let folder = tempfile::tempdir().unwrap();
        let folder = LockFolder::beside(&folder.path().join("tasks.db"));
        let id = IdSource::default().instance(Timestamp::default());
        let mut locks = Locks::of(folder.clone());
        locks.take(id).unwrap();

        let thread = std::thread::spawn(move || {
            let _locks = locks;
            panic!("on demand");
        });
        thread.join().unwrap_err();

        assert!(!folder.is_dead(id, None).unwrap());
    }
}
