//! Whether the server answers in time when nobody has hurt it: on a machine that does something else, or is given to
//! somebody else for a while, it may not. Then instances rightly give up what they run.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use servers::{Proxy, RedisServer};

use super::{effects::Moment, history::Pause};

/// Between two questions.
const EVERY: Duration = Duration::from_millis(50);
/// After so long without an answer another connection is tried.
const PATIENCE: Duration = Duration::from_secs(1);

/// Asks the server again and again, over a link as the processes have one.
pub(super) struct Pulse {
    /// Gone when it is to end.
    stop: Sender<()>,
    asking: JoinHandle<Vec<Pause>>,
}

impl Pulse {
    /// Notes each time of at least `limit` in which no answer came.
    pub(super) fn of(server: &RedisServer, limit: Duration) -> Self {
        let link = Proxy::to(&server.address());
        let (stop, stopped) = channel();
        let asking = thread::spawn(move || ask_until(&stopped, &link, limit));
        Self { stop, asking }
    }

    /// All of those times.
    pub(super) fn end(self) -> Vec<Pause> {
        drop(self.stop);
        let pauses = self.asking.join();
        pauses.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn ask_until(stopped: &Receiver<()>, link: &Proxy, limit: Duration) -> Vec<Pause> {
    let mut pauses = Vec::new();
    let mut from = Moment::now();
    loop {
        let is_last = stopped.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout);
        // Without an answer the time goes on.
        if ask(&link.address()).is_ok() {
            let until = Moment::now();
            if u128::from(until.mono_us - from.mono_us) >= limit.as_micros() {
                let pid = None;
                pauses.push(Pause { pid, from, until });
            }
            from = until;
        }
        if is_last {
            return pauses;
        }
    }
}

fn ask(address: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"PING\r\n")?;
    stream.read_exact(&mut [0; "+PONG\r\n".len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(1);

    #[test]
    fn a_server_that_did_not_answer_for_long_is_noticed_and_for_less_is_not() {
        let server = RedisServer::start();
        let (pulse, patient) = (Pulse::of(&server, LIMIT), Pulse::of(&server, LIMIT * 3_600));

        server.stop();
        let from = Moment::now();
        thread::sleep(LIMIT * 3); // as long as it does not answer
        let until = Moment::now();
        server.cont();

        let noticed = pulse.end();
        // An answer from before may have been read a moment later.
        let late_us = u64::try_from(LIMIT.as_micros()).unwrap();
        let covers = |it: &Pause| {
            let begins = it.from.mono_us <= from.mono_us + late_us;
            it.pid.is_none() && begins && until.mono_us <= it.until.mono_us
        };
        assert!(
            noticed.iter().any(covers),
            "{from:?} {until:?}: {noticed:?}"
        );
        assert!(patient.end().is_empty());
    }
}
