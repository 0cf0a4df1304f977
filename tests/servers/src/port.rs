//! Port numbers that tests do not take from each other.

use std::net::{TcpListener, UdpSocket};

use crate::HOST;

/// Below the ports that Linux gives to outgoing connections, so that none of them takes the port of a server that is
/// just being restarted.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

const TRIES_MAX: usize = 1_000;

/// A TCP port that is ours while this lives, also while nobody listens on it.
pub struct Port {
    /// The number.
    pub number: u16,
    /// Marks the number as taken, for every process on this machine that uses this file. TCP does not see a UDP
    /// socket, it leaves no file behind, and the kernel closes it with the process.
    _mark: UdpSocket,
}

impl Port {
    /// One that nobody uses.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[must_use]
    pub fn free() -> Self {
        for _ in 0..TRIES_MAX {
            let number = fastrand::u16(RANGE);
            let Ok(mark) = UdpSocket::bind((HOST, number)) else {
                continue; // another test's
            };
            if TcpListener::bind((HOST, number)).is_ok() {
                return Self {
                    number,
                    _mark: mark,
                };
            }
        }
        panic!("no free port among {TRIES_MAX} between {RANGE:?}");
    }
}
