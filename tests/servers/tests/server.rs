//! One server: what survives, what it is like, and what is left of it.

#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::{
    env,
    fs::{self, Permissions},
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, Stream,
    pki_types::{CertificateDer, pem::PemObject},
};
use servers::RedisServer;

#[test]
fn what_is_written_to_disk_survives_a_crash_and_the_rest_does_not() {
    let durable = RedisServer::builder().append_only("always").start();
    let forgetful = RedisServer::start();

    for server in [&durable, &forgetful] {
        let (port, pid) = (server.port(), server.pid());
        server.command(&["SET", "key", "value"]);
        server.kill();
        assert!(!server.is_running());
        assert!(TcpStream::connect(server.address()).is_err());
        server.restart();
        assert!(server.is_running());
        assert_eq!(server.port(), port);
        assert_ne!(server.pid(), pid);
    }

    assert_eq!(durable.command(&["GET", "key"]), "value");
    assert_eq!(forgetful.command(&["GET", "key"]), "");
}

#[test]
fn restart_waits_until_everything_is_loaded() {
    let server = RedisServer::builder()
        .setting("enable-debug-command", "local")
        .setting("key-load-delay", "100") // microseconds a key
        .setting("loading-process-events-interval-bytes", "1024") // says LOADING meanwhile
        .start();
    server.command(&["DEBUG", "POPULATE", "5000"]);
    server.command(&["SAVE"]);

    server.restart();

    assert_eq!(server.command(&["DBSIZE"]), "5000");
}

#[test]
fn a_stopped_server_is_silent_until_it_goes_on() {
    let server = RedisServer::start();

    server.stop();
    let mut connection = connect(&server);
    let short = Some(Duration::from_millis(300));
    connection.set_read_timeout(short).unwrap();
    connection.write_all(b"PING\r\n").unwrap();
    let silence = read(&mut connection).unwrap_err();
    assert!(!server.is_running());
    server.cont();
    let long = Some(Duration::from_secs(10));
    connection.set_read_timeout(long).unwrap();

    assert_eq!(silence.kind(), ErrorKind::WouldBlock);
    assert_eq!(read(&mut connection).unwrap(), "+PONG\r\n");
    assert!(server.is_running());
}

#[test]
fn a_stopped_server_can_be_killed_and_restarted() {
    let server = RedisServer::start();

    server.stop();
    server.kill();
    server.restart();

    assert_eq!(server.command(&["PING"]), "PONG");
}

#[test]
fn settings_reach_the_server() {
    let server = RedisServer::builder()
        .append_only("everysec")
        .setting("maxmemory-policy", "allkeys-lru")
        .start();

    let reply = server.command(&["CONFIG", "GET", "maxmemory-policy", "appendfsync"]);

    assert!(reply.contains("maxmemory-policy\nallkeys-lru"), "{reply}");
    assert!(reply.contains("appendfsync\neverysec"), "{reply}");
}

#[test]
fn a_server_with_a_password_asks_for_it() {
    let server = RedisServer::builder()
        .password("secret")
        .user("worker", "other", "~jobs:* +@all")
        .start();
    let mut connection = connect(&server);
    let mut ask = |line: &str| {
        connection.write_all(line.as_bytes()).unwrap();
        connection.write_all(b"\r\n").unwrap();
        read(&mut connection).unwrap()
    };

    assert!(ask("PING").starts_with("-NOAUTH"));
    assert!(ask("AUTH wrong").starts_with("-WRONGPASS"));
    assert_eq!(ask("AUTH secret"), "+OK\r\n");
    assert_eq!(ask("AUTH worker other"), "+OK\r\n");
    assert_eq!(ask("SET jobs:1 x"), "+OK\r\n");
    assert!(ask("SET else x").starts_with("-NOPERM"));
    assert_eq!(server.command(&["GET", "jobs:1"]), "x");
    let address = server.address();
    assert_eq!(server.url(), format!("redis://:secret@{address}/"));
    assert_eq!(
        server.url_as("worker", "other"),
        format!("redis://worker:other@{address}/")
    );
}

#[test]
fn a_server_speaks_tls_with_the_certificate_that_it_shows() {
    let server = RedisServer::builder().tls().start();
    let certificate = server.certificate().unwrap().as_bytes();
    let mut trusted = RootCertStore::empty();
    trusted
        .add(CertificateDer::from_pem_slice(certificate).unwrap())
        .unwrap();
    let config = ClientConfig::builder()
        .with_root_certificates(trusted)
        .with_no_client_auth();

    let mut connection = connect(&server);
    let mut tls = ClientConnection::new(Arc::new(config), "127.0.0.1".try_into().unwrap()).unwrap();
    let mut tls = Stream::new(&mut tls, &mut connection);
    tls.write_all(b"PING\r\n").unwrap();

    assert_eq!(read(&mut tls).unwrap(), "+PONG\r\n");
    assert!(server.url().starts_with("rediss://127.0.0.1:"));
    let mut plain = connect(&server);
    plain.write_all(b"PING\r\n").unwrap();
    assert!(!read(&mut plain).is_ok_and(|reply| reply.contains("PONG")));
}

#[test]
fn an_error_is_an_error() {
    let server = RedisServer::start();

    let error = server.try_command(&["NONSENSE"]).unwrap_err();

    assert!(error.to_string().starts_with("ERR unknown command"));
}

#[test]
#[should_panic(expected = "Bad directive")]
fn a_server_that_does_not_start_shows_its_log() {
    RedisServer::builder().setting("nonsense", "yes").start();
}

#[test]
fn nothing_is_left_after_drop() {
    let server = RedisServer::start();
    let pid = Pid::from_raw(server.pid().try_into().unwrap()).unwrap();
    let folder = server.folder().to_owned();
    assert!(test_kill_process(pid).is_ok());
    assert!(folder.exists());

    drop(server);

    assert!(test_kill_process(pid).is_err());
    assert!(!folder.exists());
}

#[test]
fn many_servers_start_at_once_on_ports_of_their_own() {
    let starting: Vec<_> = (0..8).map(|_| thread::spawn(RedisServer::start)).collect();

    // The threads that asked for the servers have ended, and the servers live on.
    let servers: Vec<RedisServer> = starting.into_iter().map(|it| it.join().unwrap()).collect();

    for server in &servers {
        let pid = server.command(&["INFO", "server"]);
        assert!(pid.contains(&format!("process_id:{}\r\n", server.pid())));
    }
}

#[test]
#[cfg(target_os = "linux")]
fn no_server_outlives_a_killed_process() {
    let folder = tempfile::tempdir().unwrap(); // nobody else removes what a killed process leaves
    let mut holder = Command::new(env!("CARGO_BIN_EXE_server"))
        .env("TMPDIR", folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .map(Holder)
        .unwrap();
    let mut url = String::new();
    let stdout = holder.0.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut url).unwrap();
    let address = url.trim().trim_start_matches("redis://");
    let address = address.trim_end_matches('/');
    assert!(TcpStream::connect(address).is_ok());

    holder.kill();

    until("nobody listens", || TcpStream::connect(address).err());
}

/// It is the server's own process that asks the kernel to kill it when we die, and it may come to that too late.
#[test]
#[cfg(target_os = "linux")]
fn no_server_outlives_a_process_that_was_killed_while_it_started_it() {
    let folder = tempfile::tempdir().unwrap();
    let (begun, go_on) = (folder.path().join("begun"), folder.path().join("go on"));
    let path = env::var("PATH").unwrap();
    // In the place of the program that asks the kernel: it waits before it does, and not for ever.
    let slow = format!(
        "#!/bin/sh\n\
         echo $$ >'{begun}.new' && mv '{begun}.new' '{begun}'\n\
         n=0\n\
         while [ ! -e '{go_on}' ]; do n=$((n + 1)); [ $n -lt 9000 ] || exit; sleep 0.01; done\n\
         PATH='{path}' exec setpriv \"$@\"\n",
        begun = begun.display(),
        go_on = go_on.display(),
    );
    let program = folder.path().join("setpriv");
    fs::write(&program, slow).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let mut holder = Command::new(env!("CARGO_BIN_EXE_server"))
        .env("TMPDIR", folder.path())
        .env("PATH", format!("{}:{path}", folder.path().display()))
        .stdout(Stdio::null())
        .spawn()
        .map(Holder)
        .unwrap();
    let pid = until("it has begun", || fs::read_to_string(&begun).ok());
    let pid = pid.trim();

    holder.kill();
    fs::write(go_on, "").unwrap();

    let has_ended = || {
        // Of one that has ended and that nobody has waited for, nothing is left to read.
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.is_empty().then_some(())
    };
    let is_gone = in_time(has_ended).is_some();
    if !is_gone {
        let left = Pid::from_raw(pid.parse().unwrap()).unwrap();
        kill_process(left, Signal::KILL).unwrap();
    }
    assert!(is_gone, "process {pid} goes on");
}

/// A process that has a server. It parks for ever, and so it is killed also when a test fails before it does that.
struct Holder(Child);

impl Holder {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it has mostly been killed already
        let _ = self.0.wait();
    }
}

/// Looks until there is something to see.
fn until<T>(wanted: &str, look: impl FnMut() -> Option<T>) -> T {
    in_time(look).unwrap_or_else(|| panic!("never: {wanted}"))
}

/// The same; none if it does not come.
fn in_time<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        let seen = look();
        if seen.is_some() || start.elapsed() > Duration::from_secs(30) {
            return seen;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn connect(server: &RedisServer) -> TcpStream {
    let connection = TcpStream::connect(server.address()).unwrap();
    let timeout = Duration::from_secs(10);
    connection.set_read_timeout(Some(timeout)).unwrap();
    connection
}

/// What has come, or an error if nothing comes in time.
fn read(connection: &mut impl Read) -> io::Result<String> {
    let mut bytes = [0; 1_024];
    let n_bytes = connection.read(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..n_bytes]).into_owned())
}
