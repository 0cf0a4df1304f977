//! One Redis server.

use std::{
    env,
    fs::{self, File},
    io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{LazyLock, Mutex, MutexGuard},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    HOST, certificate,
    port::Port,
    process::{Process, mortal},
    reply::ask,
    wait::until,
};

/// The variable that names the program.
pub(crate) const PROGRAM: &str = "TASKFLOW_TEST_SERVER";

/// How long a server may take to start, and to load what it has stored.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// How long a reply may take. A stopped server gives none.
const REPLY_DEADLINE: Duration = Duration::from_secs(30);

/// How often another port is tried when a stranger was faster.
const PORTS_MAX: usize = 5;

/// The names of the files in a server's folder.
const CONFIGURATION: &str = "server.conf";
const LOG: &str = "server.log";
const SOCKET: &str = "server.sock";

/// A Redis server of its own. It is killed when this is dropped, and its folder is removed.
pub struct RedisServer {
    /// None after `kill`. A mutex, so that a server can be shared by a test and a thread that hurts it; held for one
    /// system call, or while the process starts and stops. Stands above the folder, so that it is dropped first.
    process: Mutex<Option<Process>>,
    kind: Kind,
    port: Port,
    /// Where the nodes of a cluster talk to each other.
    bus: Port,
    password: Option<String>,
    /// As PEM, if the server speaks TLS.
    certificate: Option<String>,
    folder: TempDir,
}

/// What a server is to be like, before it starts.
#[derive(Clone, Default)]
pub struct ServerBuilder {
    kind: Kind,
    password: Option<String>,
    is_tls: bool,
    /// Lines of the configuration.
    settings: Vec<String>,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Kind {
    #[default]
    Plain,
    Node,
    Sentinel,
}

impl RedisServer {
    /// Starts a server that keeps everything in memory and lets everyone in.
    ///
    /// # Panics
    ///
    /// With the server's log, if it does not answer within thirty seconds.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// A server with settings.
    ///
    /// ```
    /// let server = servers::RedisServer::builder()
    ///     .append_only("always")
    ///     .setting("maxmemory-policy", "noeviction")
    ///     .start();
    /// # drop(server);
    /// ```
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    /// Where it listens: `redis://127.0.0.1:20123/`, with `rediss` for TLS and with the password if it has one.
    pub fn url(&self) -> String {
        match &self.password {
            None => self.url_with(""),
            Some(password) => self.url_with(&format!(":{password}@")),
        }
    }

    /// The same for a user of the access list.
    pub fn url_as(&self, user: &str, password: &str) -> String {
        self.url_with(&format!("{user}:{password}@"))
    }

    fn url_with(&self, who: &str) -> String {
        let scheme = match self.certificate {
            None => "redis",
            Some(_) => "rediss",
        };
        format!("{scheme}://{who}{}/", self.address())
    }

    /// `127.0.0.1:20123`
    pub fn address(&self) -> String {
        format!("{HOST}:{}", self.port())
    }

    /// The port on which it listens, also after a restart.
    pub fn port(&self) -> u16 {
        self.port.number
    }

    pub(crate) fn bus_port(&self) -> u16 {
        self.bus.number
    }

    /// The certificate that clients have to trust, as PEM, if the server speaks TLS.
    pub fn certificate(&self) -> Option<&str> {
        self.certificate.as_deref()
    }

    /// The id of its process.
    ///
    /// # Panics
    ///
    /// If it was killed.
    pub fn pid(&self) -> u32 {
        self.with_process(|process| process.pid())
    }

    /// What the server has written into its log, in all its lives.
    pub fn log(&self) -> String {
        fs::read_to_string(self.file(LOG)).unwrap_or_else(|error| format!("(no log: {error})"))
    }

    /// The folder in which it stores what it stores.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The reply to a command, as text: an array has a line for each element, nothing at all is the empty text.
    ///
    /// # Panics
    ///
    /// If the reply is an error, or does not come within thirty seconds.
    pub fn command(&self, words: &[&str]) -> String {
        self.ask(words).unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`command`](Self::command), where a test expects an error.
    ///
    /// # Errors
    ///
    /// What the server answered, [`TimedOut`](io::ErrorKind::TimedOut) after thirty seconds without a reply, or why
    /// there is no connection.
    pub fn try_command(&self, words: &[&str]) -> io::Result<String> {
        let password = self.password.as_deref();
        ask(&self.file(SOCKET), password, words, REPLY_DEADLINE)
    }

    /// As [`try_command`](Self::try_command), with an error that says what was asked.
    pub(crate) fn ask(&self, words: &[&str]) -> Result<String, String> {
        self.try_command(words)
            .map_err(|error| format!("{words:?} to {}: {error}", self.address()))
    }

    /// Gives slots to a node that no node has yet.
    ///
    /// # Panics
    ///
    /// If another one has one of them.
    pub fn give_slots(&self, slots: RangeInclusive<u16>) {
        let slots: Vec<String> = slots.map(|slot| slot.to_string()).collect();
        let mut words = vec!["CLUSTER", "ADDSLOTS"]; // Redis 6.2 takes no ranges
        words.extend(slots.iter().map(String::as_str));
        self.command(&words);
    }

    /// Kills it with SIGKILL, as a crash does. What it has stored stays.
    pub fn kill(&self) {
        *self.process() = None;
    }

    /// Starts it again in the same folder, on the same port, and waits until it has loaded what it stored. Kills it
    /// first if it runs.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    pub fn restart(&self) {
        self.kill();
        self.launch().unwrap_or_else(|error| panic!("{error}"));
    }

    /// Stops it with SIGSTOP: connections stay, and nothing is answered. On return it stands still.
    ///
    /// # Panics
    ///
    /// If it was killed.
    pub fn stop(&self) {
        self.with_process(Process::stop);
    }

    /// Lets it go on after [`stop`](Self::stop).
    ///
    /// # Panics
    ///
    /// If it was killed.
    pub fn cont(&self) {
        self.with_process(Process::cont);
    }

    /// Whether it runs: it was neither killed nor stopped, and has not ended by itself.
    pub fn is_running(&self) -> bool {
        self.process().as_mut().is_some_and(Process::is_running)
    }

    /// Starts the process and waits until it answers.
    fn launch(&self) -> Result<(), String> {
        let program = program();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.file(LOG));
        let log = log.map_err(|error| format!("cannot open the log of {program}: {error}"))?;
        let errors = log.try_clone();
        let errors =
            errors.map_err(|error| format!("cannot share the log of {program}: {error}"))?;
        let mut command = mortal(&program, "KILL");
        command
            .arg(self.file(CONFIGURATION))
            .args((self.kind == Kind::Sentinel).then_some("--sentinel"))
            .current_dir(self.folder())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        let process = Process::spawn(command);
        let process = process.map_err(|error| format!("cannot start {program}: {error}"))?;
        *self.process() = Some(process);

        // Outer: the end of waiting. Inner: what is missing, if the process still lives.
        let answered = until(START_DEADLINE, || match self.try_command(&["PING"]) {
            Ok(_) => Ok(Ok(())),
            Err(_) if self.with_process(Process::has_ended) => Ok(Err("it has ended".to_owned())),
            Err(error) => Err(format!("no answer: {error}")), // among others: LOADING
        });
        answered.flatten().map_err(|missing| {
            let log = self.log();
            format!("{program} does not start: {missing}; its log:\n{log}")
        })
    }

    fn with_process<T>(&self, act: impl FnOnce(&mut Process) -> T) -> T {
        act(self.process().as_mut().expect("the server was not killed"))
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        // After a panic in another thread there is still a process to kill.
        self.process
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }
}

impl ServerBuilder {
    /// A line of the configuration, such as `maxmemory-policy noeviction`.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push(format!("{name} {value}"));
        self
    }

    /// Writes every change into a file, which is forced to disk `always`, `everysec` or `no`.
    pub fn append_only(self, fsync: &str) -> Self {
        self.setting("appendonly", "yes")
            .setting("appendfsync", fsync)
    }

    /// Asks everyone for a password. It must not need escaping, neither in a URL nor in the configuration.
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self.setting("requirepass", password)
    }

    /// Adds a user to the access list, with rules such as `~jobs:* +@all -@dangerous`.
    pub fn user(self, name: &str, password: &str, rules: &str) -> Self {
        self.setting("user", &format!("{name} on >{password} {rules}"))
    }

    /// Speaks TLS and nothing else, with a certificate for 127.0.0.1 and localhost that signs itself.
    pub fn tls(mut self) -> Self {
        self.is_tls = true;
        self
    }

    /// Makes it a node of a cluster, which has no slots yet.
    pub fn node(mut self) -> Self {
        self.kind = Kind::Node;
        self
    }

    /// Makes it a sentinel.
    pub(crate) fn sentinel(mut self) -> Self {
        self.kind = Kind::Sentinel;
        self
    }

    /// Starts the server and waits until it answers.
    ///
    /// # Panics
    ///
    /// With the server's log, if it does not answer within thirty seconds.
    pub fn start(self) -> RedisServer {
        let mut tries = 1;
        loop {
            let server = self.place();
            match server.launch() {
                Ok(()) => return server,
                Err(error) if tries < PORTS_MAX && error.contains("Address already in use") => {
                    tries += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The server with its folder and ports, before its first start.
    fn place(&self) -> RedisServer {
        let folder = tempfile::tempdir()
            .unwrap_or_else(|error| panic!("cannot make a folder for a server: {error}"));
        let (port, bus) = match self.kind {
            Kind::Node if !has_bus_port() => Port::free_for_node(),
            _ => (Port::free(), Port::free()),
        };
        let server = RedisServer {
            process: Mutex::new(None),
            kind: self.kind,
            port,
            bus,
            password: self.password.clone(),
            certificate: self.is_tls.then(|| certificate::make(folder.path())),
            folder,
        };
        let configuration = self.configuration(server.port(), server.bus_port());
        fs::write(server.file(CONFIGURATION), configuration)
            .unwrap_or_else(|error| panic!("cannot write the configuration of a server: {error}"));
        server
    }

    fn configuration(&self, port: u16, bus_port: u16) -> String {
        let mut lines = vec![
            format!("bind {HOST}"),
            format!("unixsocket {SOCKET}"),
            "dir .".to_owned(),
        ];
        if self.is_tls {
            lines.push("port 0".to_owned());
            lines.push(format!("tls-port {port}"));
            lines.push(format!("tls-cert-file {}", certificate::CERTIFICATE));
            lines.push(format!("tls-key-file {}", certificate::KEY));
            lines.push("tls-auth-clients no".to_owned());
        } else {
            lines.push(format!("port {port}"));
        }
        if self.kind != Kind::Sentinel {
            lines.push("save \"\"".to_owned());
            lines.push("repl-diskless-sync-delay 0".to_owned()); // a replica is there at once
        }
        if self.kind == Kind::Node {
            lines.push("cluster-enabled yes".to_owned());
            if has_bus_port() {
                lines.push(format!("cluster-port {bus_port}"));
            }
        }
        lines.extend(self.settings.iter().cloned());
        lines.join("\n") + "\n"
    }
}

/// Whether the bus of a node has a port of its own choice. That of Redis 6.2 is 10,000 above the node's.
fn has_bus_port() -> bool {
    version() >= (7, 0)
}

/// Major and minor version of the program that is tested against. Valkey goes on where Redis 7.2 was.
///
/// # Panics
///
/// If it does not say.
pub fn version() -> (u32, u32) {
    static VERSION: LazyLock<(u32, u32)> = LazyLock::new(|| {
        let said = Command::new(program()).arg("--version").output();
        let said = said.unwrap_or_else(|error| panic!("cannot start {}: {error}", program()));
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let read = || {
            let (_, version) = said.split_once(" v=")?;
            let mut numbers = version.split('.');
            let mut number = || numbers.next()?.parse().ok();
            Some((number()?, number()?))
        };
        read().unwrap_or_else(|| panic!("no version in what {} says: {said}", program()))
    });
    *VERSION
}

/// The program that is tested against.
fn program() -> String {
    env::var(PROGRAM).unwrap_or_else(|_| "redis-server".to_owned())
}
