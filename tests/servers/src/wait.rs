//! Waiting for a server, with an end.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Short beside what a server needs, long beside what a question costs.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks until the answer is there. `ask` says in words what is still missing, and at the deadline that is the error.
pub(crate) fn until<T>(
    deadline: Duration,
    mut ask: impl FnMut() -> Result<T, String>,
) -> Result<T, String> {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(missing) if start.elapsed() > deadline => {
                return Err(format!("{missing}, after {} s", deadline.as_secs()));
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}
