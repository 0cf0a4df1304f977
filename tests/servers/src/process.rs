//! A server program as a child process that dies with us.

use std::{
    ffi::OsStr,
    io,
    process::{Child, Command},
    sync::{LazyLock, Mutex, mpsc},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::wait::until;

/// How long the kernel may need to stop a process.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// A child process. It is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    is_stopped: bool,
}

impl Process {
    /// Starts a command that `mortal` made.
    pub(crate) fn spawn(command: Command) -> io::Result<Self> {
        let (answer, answered) = mpsc::channel();
        PARENT
            .lock()
            .expect("nothing panics while it holds the lock")
            .send((command, answer))
            .expect("the parent thread never ends");
        let child = answered.recv().expect("the parent thread answers")?;
        Ok(Self {
            child,
            is_stopped: false,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it can do anything: it has neither ended nor been stopped.
    pub(crate) fn is_running(&mut self) -> bool {
        !self.is_stopped && !self.has_ended()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGSTOP. On return the process stands still.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::STOP);
        // The signal is only on its way: another processor may run the process a little longer.
        let pid = self.rustix_pid();
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        until(STOP_DEADLINE, || match waitid(WaitId::Pid(pid), options) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err("the process has not stopped".to_owned()),
            Err(error) => Err(format!("cannot wait for the process to stop: {error}")),
        })
        .unwrap_or_else(|missing| panic!("{missing}"));
        self.is_stopped = true;
    }

    /// SIGCONT.
    pub(crate) fn cont(&mut self) {
        self.signal(Signal::CONT);
        self.is_stopped = false;
    }

    fn signal(&mut self, signal: Signal) {
        assert!(!self.has_ended(), "the server has ended by itself");
        kill_process(self.rustix_pid(), signal).expect("a child that has not been waited for");
    }

    fn rustix_pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill(); // SIGKILL, which also ends a stopped process; it may have ended already
        let _ = self.child.wait(); // then nothing is left of it, not even its place among the processes
    }
}

/// A command that Linux sends this signal when the thread that started it ends, so also when our process is killed.
pub fn mortal(program: impl AsRef<OsStr>, signal: &str) -> Command {
    if cfg!(target_os = "linux") {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", signal]);
        // We may be dead before it has asked for that, and then nobody would kill it: so it looks for us afterwards.
        command.args(["sh", "-c", r#"[ "$PPID" = "$0" ] && exec "$@""#]);
        command.arg(std::process::id().to_string()).arg(program);
        command
    } else {
        Command::new(program)
    }
}

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// The thread that starts every process, and lives as long as ours. A test's thread would not do: Linux means the
/// thread when it speaks of the parent's death, and a server may be handed from one test to another.
static PARENT: LazyLock<Mutex<mpsc::Sender<Order>>> = LazyLock::new(|| {
    let (sender, orders) = mpsc::channel::<Order>();
    thread::spawn(move || {
        for (mut command, answer) in orders {
            let _ = answer.send(command.spawn()); // the receiver waits for it
        }
    });
    Mutex::new(sender)
});
