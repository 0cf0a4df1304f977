//! Real Redis servers for tests: alone, as a cluster, under sentinels, and behind a proxy that cuts and stalls.
//!
//! Each server listens on 127.0.0.1, on a port and in a temporary folder of its own. It is killed when its value is
//! dropped, and when the test process dies, however that happens. The program is `redis-server`, or what the
//! environment variable `TASKFLOW_TEST_SERVER` names, such as `valkey-server`. [`test_with_others`] repeats the tests of a
//! file with those that `tests/run` installs.
//!
//! Everything here blocks, and panics with the server's log when the server does not do what it should. The short
//! calls may stand in an async test as they are. What waits for a failover belongs into `spawn_blocking`, or into a
//! test whose runtime has several threads.
//!
//! ```
//! let server = servers::RedisServer::start();
//! server.command(&["SET", "greeting", "hello"]);
//! assert_eq!(server.command(&["GET", "greeting"]), "hello");
//! ```

mod certificate;
mod port;
mod process;
mod reply;
mod wait;

mod server;

mod others;
mod replica;

mod cluster;
mod proxy;
mod sentinel;

pub use cluster::RedisCluster;
pub use others::test_with_others;
pub use port::Port;
pub use process::mortal;
pub use proxy::Proxy;
pub use sentinel::Sentinel;
pub use server::{RedisServer, ServerBuilder, version};

/// Where every server listens.
const HOST: &str = "127.0.0.1";
