//! A proxy between a client and a server.

#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::{
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

use servers::{Proxy, RedisServer};

#[test]
fn bytes_pass_in_both_directions() {
    let server = RedisServer::start();
    let proxy = Proxy::to(&server.address());

    let mut client = Client::of(&proxy);

    assert_eq!(client.ask("SET key value"), "+OK\r\n");
    assert_eq!(server.command(&["GET", "key"]), "value");
    assert_eq!(
        proxy.url(&server.url()),
        format!("redis://{}/", proxy.address())
    );
}

#[test]
fn a_cut_closes_connections_and_refuses_new_ones_until_it_heals() {
    let server = RedisServer::start();
    let proxy = Proxy::to(&server.address());
    let mut client = Client::of(&proxy);
    client.ask("PING");

    proxy.cut();

    assert_eq!(client.read(), "", "the end of the connection");
    let refused = TcpStream::connect(proxy.address()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

    proxy.heal();

    assert_eq!(Client::of(&proxy).ask("PING"), "+PONG\r\n");
}

#[test]
fn a_stall_holds_everything_back_until_it_heals() {
    let server = RedisServer::start();
    let proxy = Proxy::to(&server.address());
    let mut old = Client::of(&proxy);
    old.ask("SUBSCRIBE news");

    proxy.stall();

    server.command(&["PUBLISH", "news", "from the server"]);
    let mut new = Client::of(&proxy);
    new.tell("SET key value");
    assert!(old.hears_nothing());
    assert!(new.hears_nothing());
    assert_eq!(server.command(&["GET", "key"]), "");

    proxy.heal();

    assert!(old.read().contains("from the server"));
    assert_eq!(new.read(), "+OK\r\n");
    assert_eq!(server.command(&["GET", "key"]), "value");
}

#[test]
fn a_stall_hides_the_death_of_the_server() {
    let server = RedisServer::start();
    let proxy = Proxy::to(&server.address());
    let mut client = Client::of(&proxy);
    client.ask("PING");

    proxy.stall();
    server.kill();
    let mut new = Client::of(&proxy);
    assert!(client.hears_nothing());
    assert!(new.hears_nothing());
    proxy.heal();

    assert_eq!(client.read(), "", "the end of the connection");
    assert_eq!(new.read(), "", "the end of the connection");
}

#[test]
fn a_cut_can_become_a_stall() {
    let server = RedisServer::start();
    let proxy = Proxy::to(&server.address());

    proxy.cut();
    proxy.stall();
    let mut client = Client::of(&proxy);
    client.tell("PING");
    assert!(client.hears_nothing());
    proxy.heal();

    assert_eq!(client.read(), "+PONG\r\n");
}

#[test]
fn nothing_listens_after_drop() {
    let server = RedisServer::start();
    let proxy = Proxy::to(&server.address());
    let address = proxy.address();
    let mut client = Client::of(&proxy);
    client.ask("PING");

    drop(proxy);

    assert_eq!(client.read(), "", "the end of the connection");
    assert!(TcpStream::connect(address).is_err());
}

struct Client(TcpStream);

impl Client {
    fn of(proxy: &Proxy) -> Self {
        Self(TcpStream::connect(proxy.address()).unwrap())
    }

    fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.read()
    }

    fn tell(&mut self, line: &str) {
        self.0.write_all(format!("{line}\r\n").as_bytes()).unwrap();
    }

    /// What comes, or nothing at the end of the connection.
    fn read(&mut self) -> String {
        self.read_within(Duration::from_secs(10)).unwrap()
    }

    fn hears_nothing(&mut self) -> bool {
        let silence = self.read_within(Duration::from_millis(300));
        silence.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    fn read_within(&mut self, timeout: Duration) -> io::Result<String> {
        self.0.set_read_timeout(Some(timeout))?;
        let mut bytes = [0; 1_024];
        let n_bytes = self.0.read(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes[..n_bytes]).into_owned())
    }
}
