//! Starts a Redis server, says where it is, and waits until it is killed: `cargo run -p servers`.

use std::thread;

use servers::RedisServer;

fn main() {
    let server = RedisServer::start();
    println!("{}", server.url());
    loop {
        thread::park();
    }
}
