//! Disks and files that refuse to be written when a test wants it, and take it again afterwards.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::{TempDir, tempdir};

/// A file system of a few megabytes, in memory. Gone when it is dropped.
pub(crate) struct SmallDisk(TempDir);

impl SmallDisk {
    /// None, and says so, where this test may not mount.
    pub(crate) fn mount() -> Option<Self> {
        let folder = tempdir().unwrap();
        let options = ["-t", "tmpfs", "-o", "size=3m", "tmpfs"];
        may(Command::new("mount").args(options).arg(folder.path())).then_some(Self(folder))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves no room for a single page.
    pub(crate) fn fill(&self) {
        let mut filler = File::create(self.filler()).unwrap();
        let error = loop {
            if let Err(error) = filler.write_all(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    pub(crate) fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazy: a service that still runs keeps its open files, and nothing is left when it ends.
        may(Command::new("umount").arg("--lazy").arg(self.path()));
    }
}

/// Files that nobody may write, not even root and not even if they are open already. As they were when it is dropped.
pub(crate) struct ReadOnly(Vec<PathBuf>);

impl ReadOnly {
    /// None, and says so, where this test may not do that.
    pub(crate) fn make(files: Vec<PathBuf>) -> Option<Self> {
        may(Command::new("chattr").arg("+i").args(&files)).then_some(Self(files))
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        may(Command::new("chattr").arg("-i").args(&self.0));
    }
}

/// No file of this process may grow beyond so many bytes; "unlimited" to lift it.
pub(crate) fn limit_file_size(pid: u32, bytes: &str) {
    let mut prlimit = Command::new("prlimit");
    let prlimit = prlimit.arg(format!("--pid={pid}"));
    assert!(may(prlimit.arg(format!("--fsize={bytes}:")))); // the soft limit: it may be raised again
}

/// Says that a test is left out, because it may not do this. Where everything has to be tested, it fails.
pub(crate) fn skip(what: &str) {
    assert!(
        std::env::var_os("CI").is_none(),
        "this test has to {what}, and may not"
    );
    println!("skipped: this test may not {what}");
}

fn may(command: &mut Command) -> bool {
    let problem = match command.output() {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    println!("{command:?}: {problem}");
    false
}
