//! Port numbers that tests do not take from each other.

use std::{
    net::{TcpListener, UdpSocket},
    ops::Range,
};

use crate::HOST;

/// Below the ports that Linux gives to outgoing connections, so that none of them takes the port of a server that is
/// just being restarted.
const RANGE: Range<u16> = 20_000..32_000;

/// By so much the port of the bus of a node is above the node's, where it cannot be chosen: that is to be in the range, too.
const BUS_ABOVE: u16 = 10_000;

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
        Self::found(RANGE, Self::claim)
    }

    /// For a node of a cluster and for its bus, where Redis says how far that is from the node.
    pub(crate) fn free_for_node() -> (Self, Self) {
        let below = RANGE.start..RANGE.end - BUS_ABOVE;
        Self::found(below, |number| {
            Some((Self::claim(number)?, Self::claim(number + BUS_ABOVE)?))
        })
    }

    fn found<T>(range: Range<u16>, claim: impl Fn(u16) -> Option<T>) -> T {
        let mut tries = (0..TRIES_MAX).map(|_| fastrand::u16(range.clone()));
        tries
            .find_map(claim)
            .unwrap_or_else(|| panic!("no free port among {TRIES_MAX} between {range:?}"))
    }

    /// This one, unless somebody uses it.
    fn claim(number: u16) -> Option<Self> {
        let mark = UdpSocket::bind((HOST, number)).ok()?; // an error: another test's
        TcpListener::bind((HOST, number)).ok()?;
        Some(Self {
            number,
            _mark: mark,
        })
    }
}
