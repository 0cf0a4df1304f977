//! Hurts the processes, and replaces those that are gone.

use std::{ops::Range, sync::Arc, time::Duration};

use fastrand::Rng;
use reqwest::Client;
use rustix::process::Signal;
use tokio::time::Instant;

use super::{
    LabError, Plan,
    effects::Moment,
    history::{Gone, History, Pause},
    orders::Orders,
    process::{Process, ask},
    store::Opened,
};

const STOPPED_MAX_MS: u64 = 1_500;
/// How long the server stands still.
const SERVER_STOPPED_MS: Range<u64> = 100..3_000;
/// How long a process that was killed or ended is missing: longer than the others need to take over from it.
const MISSING_MAX_MS: u64 = 900;
/// Starts in a row that fail before something else than a task must be the reason.
const STARTS_MAX: usize = 20;

pub(super) struct Faults<'a> {
    pub(super) plan: &'a Plan,
    pub(super) store: &'a Opened,
    pub(super) rng: Rng,
    pub(super) orders: Arc<Orders>,
    pub(super) processes: Vec<Process>,
    pub(super) history: &'a mut History,
    /// The process that is not started again.
    pub(super) missing: Option<usize>,
}

impl Faults<'_> {
    /// True if the process is to run.
    fn is_wanted(&self, n: usize) -> bool {
        self.missing != Some(n)
    }

    /// The last process that is killed or ended stays so: the others have to end its tasks.
    pub(super) async fn strike(&mut self, is_last: bool) -> Result<(), LabError> {
        let n = self.rng.usize(..self.processes.len());
        let pid = self.processes[n].pid;
        if !is_last && self.rng.u64(..100) < self.plan.server_percent {
            self.strike_server(n).await;
            return Ok(());
        }
        if self.rng.u64(..100) < self.plan.stops_percent {
            self.history.n_stops += 1;
            let from = Moment::now();
            self.processes[n].signal(Signal::STOP)?;
            // Where there is a lease, some stops are longer.
            let max_ms = STOPPED_MAX_MS.max(2 * self.lease_ms());
            self.pass(1..max_ms).await;
            self.processes[n].signal(Signal::CONT)?;
            self.history.stops.push(Pause {
                pid: Some(pid),
                from,
                until: Moment::now(),
            });
            return Ok(());
        }
        self.orders.cluster.set(n, None);
        let told = Moment::now();
        self.history.is_told(pid, told);
        let is_end = self.rng.u64(..100) < self.plan.ends_percent;
        let signal = if is_end { Signal::TERM } else { Signal::KILL };
        self.processes[n].signal(signal)?;
        let how = match self.processes[n].ended().await? {
            true => Gone::Fell, // before it heard us
            false if is_end => Gone::Ended,
            false => Gone::Killed,
        };
        self.history.is_gone(pid, how);
        if is_last && self.processes.len() > 1 {
            self.missing = Some(n);
            return Ok(());
        }
        self.pass(0..MISSING_MAX_MS).await;
        self.start(n).await
    }

    /// Hurts the server, or the way to it of the process of this number.
    async fn strike_server(&mut self, n: usize) {
        let store = self.store;
        let Opened::Redis { server, links, .. } = store else {
            return;
        };
        let pid = Some(self.processes[n].pid);
        let link = &links[n];
        let while_cut = self.lease_ms() / 2..self.lease_ms() * 2;
        let from = Moment::now();
        let (what, of) = match self.rng.u32(..6) {
            0 => {
                server.kill();
                self.pass(0..SERVER_STOPPED_MS.start).await;
                tokio::task::block_in_place(|| server.restart());
                ("kill", None)
            }
            1 => {
                server.stop();
                self.pass(SERVER_STOPPED_MS).await;
                server.cont();
                ("stop", None)
            }
            2 => {
                server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
                ("client kill", None)
            }
            3 => {
                server.command(&["SCRIPT", "FLUSH"]);
                ("script flush", None)
            }
            4 => {
                link.cut();
                self.pass(while_cut).await;
                link.heal();
                ("cut link", pid)
            }
            _ => {
                link.stall();
                self.pass(while_cut).await;
                link.heal();
                ("stalled link", pid)
            }
        };
        self.history.outages.push(Pause {
            pid: of,
            from,
            until: Moment::now(),
        });
        *self.history.server_faults.entry(what).or_default() += 1;
    }

    /// Lets a time pass that chance draws.
    async fn pass(&mut self, ms: Range<u64>) {
        let ms = self.rng.u64(ms);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    /// Nothing without a lease.
    fn lease_ms(&self) -> u64 {
        let lease = self.plan.store.lease().unwrap_or_default();
        u64::try_from(lease.as_millis()).unwrap_or(u64::MAX)
    }

    /// Starts those again that have ended by themselves.
    pub(super) async fn replace_fallen(&mut self) -> Result<(), LabError> {
        for n in 0..self.processes.len() {
            if self.is_wanted(n) && self.processes[n].has_ended() {
                self.history.is_gone(self.processes[n].pid, Gone::Fell);
                self.orders.cluster.set(n, None);
                self.start(n).await?;
            }
        }
        Ok(())
    }

    async fn start(&mut self, n: usize) -> Result<(), LabError> {
        for _ in 0..STARTS_MAX {
            let settings = self.store.settings(n);
            match Process::start(&self.plan.service, &self.plan.folder, settings, None).await {
                Ok(process) => {
                    self.orders.cluster.set(n, Some(process.url.clone()));
                    self.history.begins(&process);
                    self.processes[n] = process;
                    return Ok(());
                }
                // One that took over what aborts its process may die of it before it listens.
                Err(error) => {
                    eprintln!("lab: {error}");
                    self.history.n_aborts += 1;
                }
            }
        }
        Err(format!("the service does not start, {STARTS_MAX} times in a row").into())
    }

    /// Waits until nothing waits or runs any more, or the time for that is over.
    pub(super) async fn calm_down(&mut self, http: &Client) -> Result<(), LabError> {
        let deadline = Instant::now() + self.plan.calm_max;
        while Instant::now() < deadline {
            self.replace_fallen().await?;
            let n_asked = usize::from(!self.is_wanted(0));
            let url = self.processes[n_asked].url.clone();
            if let Ok(left) = ask(http, &url, "/left").await
                && left == 0
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(()) // the checker names what is left
    }

    /// Ends all that run. All is calm, so this is no fault.
    pub(super) async fn end_all(&mut self) -> Result<(), LabError> {
        let n_terms = self.history.n_terms;
        for n in 0..self.processes.len() {
            if self.is_wanted(n) {
                let process = &mut self.processes[n];
                self.history.is_told(process.pid, Moment::now());
                process.signal(Signal::TERM)?;
                process.ended().await?;
                self.history.is_gone(process.pid, Gone::Ended);
            }
        }
        self.history.n_terms = n_terms;
        Ok(())
    }
}
