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

    assert_eq!(client.ask("SET key value").unwrap(), "+OK\r\n");
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
    client.ask("PING").unwrap();

    proxy.cut();

    assert_eq!(client.read().unwrap(), "", "the end of the connection");
    let refused = TcpStream::connect(proxy.address()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

    proxy.heal();

    assert_eq!(Client::of(&proxy).ask("PING").unwrap(), "+PONG\r\n");
}

#[test]
fn a_stall_holds_everything_back_until_it_heals() {
    let server = RedisServer::start();
    let proxy = Proxy::to(&server.address());
    let mut old = Client::of(&proxy);
    old.ask("SUBSCRIBE news").unwrap();

    proxy.stall();

    server.command(&["PUBLISH", "news", "from the server"]);
    let mut new = Client::of(&proxy);
    assert_eq!(old.read().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(
        new.ask("SET key value").unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    assert_eq!(server.command(&["GET", "key"]), "");

    proxy.heal();

    assert!(old.read().unwrap().contains("from the server"));
    assert_eq!(new.read().unwrap(), "+OK\r\n");
    assert_eq!(server.command(&["GET", "key"]), "value");
}

#[test]
fn a_stall_hides_the_death_of_the_server() {
    let server = RedisServer::start();
    let proxy = Proxy::to(&server.address());
    let mut client = Client::of(&proxy);
    client.ask("PING").unwrap();

    proxy.stall();
    server.kill();
    let mut new = Client::of(&proxy);
    let stalled = client.read().unwrap_err();
    let new_stalled = new.read().unwrap_err();
    proxy.heal();

    assert_eq!(stalled.kind(), ErrorKind::WouldBlock);
    assert_eq!(new_stalled.kind(), ErrorKind::WouldBlock);
    assert_eq!(client.read().unwrap(), "", "the end of the connection");
    assert_eq!(new.read().unwrap(), "", "the end of the connection");
}

#[test]
fn a_cut_can_become_a_stall() {
    let server = RedisServer::start();
    let proxy = Proxy::to(&server.address());

    proxy.cut();
    proxy.stall();
    let mut client = Client::of(&proxy);
    let silence = client.ask("PING").unwrap_err();
    proxy.heal();

    assert_eq!(silence.kind(), ErrorKind::WouldBlock);
    assert_eq!(client.read().unwrap(), "+PONG\r\n");
}

#[test]
fn nothing_listens_after_drop() {
    let server = RedisServer::start();
    let proxy = Proxy::to(&server.address());
    let address = proxy.address();
    let mut client = Client::of(&proxy);
    client.ask("PING").unwrap();

    drop(proxy);

    assert_eq!(client.read().unwrap(), "", "the end of the connection");
    assert!(TcpStream::connect(address).is_err());
}

struct Client(TcpStream);

impl Client {
    fn of(proxy: &Proxy) -> Self {
        let connection = TcpStream::connect(proxy.address()).unwrap();
        let timeout = Duration::from_millis(300);
        connection.set_read_timeout(Some(timeout)).unwrap();
        Self(connection)
    }

    fn ask(&mut self, line: &str) -> io::Result<String> {
        self.0.write_all(format!("{line}\r\n").as_bytes())?;
        self.read()
    }

    /// What has come, nothing at the end, or an error if neither comes in time.
    fn read(&mut self) -> io::Result<String> {
        let mut bytes = [0; 1_024];
        let n_bytes = self.0.read(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes[..n_bytes]).into_owned())
    }
}
