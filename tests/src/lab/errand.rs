//! What a task of the laboratory is told to do.

use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// One task, as it is ordered over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errand {
    /// Its number: what it is known by if its id is not.
    pub n: u64,
    /// How long it takes.
    pub ms: u64,
    /// The attempt that succeeds; those before fail.
    pub good_at: u32,
    /// Ends its whole process the first time it runs.
    pub aborts: bool,
    /// Runs on a thread.
    pub blocking: bool,
    /// May be repeated after a crash.
    pub requeue: bool,
    /// Is ordered several times at once, with one key.
    pub keyed: bool,
    /// Not before so long.
    pub delay_ms: u64,
    /// Somebody tries to cancel it as soon as it is accepted.
    pub cancelled: bool,
}

/// What came of a wish to cancel a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cancel {
    /// It is cancelled.
    Done,
    /// It runs, and was told to stop.
    Asked,
    /// Nothing, or nobody knows.
    Refused,
}

impl Errand {
    /// The errand of this number. Of a thousand so many abort: few, since each costs a process.
    pub fn draw(n: u64, aborts_permille: u32, rng: &mut Rng) -> Self {
        let plain = Self {
            n,
            ms: rng.u64(0..4),
            good_at: 1,
            aborts: false,
            blocking: false,
            requeue: false,
            keyed: false,
            delay_ms: 0,
            cancelled: false,
        };
        if rng.u32(0..1_000) < aborts_permille {
            return Self {
                aborts: true,
                requeue: rng.bool(),
                ..plain
            };
        }
        match rng.u32(0..1_000) {
            0..350 => plain,
            350..480 => Self {
                blocking: true,
                ..plain
            },
            480..700 => Self {
                requeue: true,
                ..plain
            },
            700..800 => Self {
                good_at: rng.u32(2..4),
                requeue: rng.bool(),
                ..plain
            },
            800..900 => Self {
                keyed: true,
                requeue: rng.bool(),
                ..plain
            },
            900..950 => Self {
                delay_ms: rng.u64(100..2_000),
                requeue: rng.bool(),
                ..plain
            },
            950..980 => Self {
                ms: rng.u64(50..400),
                requeue: rng.bool(),
                ..plain
            },
            // Cancelled while it waits,
            980..990 => Self {
                cancelled: true,
                delay_ms: rng.u64(50..500),
                requeue: rng.bool(),
                ..plain
            },
            // or while it runs.
            _ => Self {
                cancelled: true,
                ms: rng.u64(50..400),
                requeue: rng.bool(),
                ..plain
            },
        }
    }

    /// The key that all orders of it have.
    pub fn key(&self) -> Option<String> {
        self.keyed.then(|| format!("errand-{}", self.n))
    }
}
