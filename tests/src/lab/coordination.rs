//! The laboratory of coordination: processes with schedules, a leader, a lock and jobs that are run once, which are killed,
//! ended and stopped, and whose clocks are minutes apart. A checker reads what each of them wrote of its turns, and what
//! is stored.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use axum_taskflow::{OnceOutcome, Scope, Task};
use fastrand::Rng;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::{
    LabError,
    effects::Moment,
    process::Process,
    report::Violation,
    store::{Opened, Store},
};

/// After so long a process that was stopped counts as gone, on a file.
pub const TAKEOVER_AFTER: Duration = Duration::from_secs(3);
/// By how many seconds the clocks are wrong. At most 170 s apart, which are 850 slots of 200 ms: of more than 1,000 that
/// are due at once some count as missed.
const CLOCKS_AHEAD_S: [i64; 5] = [-80, -60, 0, 45, 90];
/// A process that was stopped may end what it had begun, before it can know that it was.
const AFTER_STOP: Duration = Duration::from_millis(500);
/// Between two processes that take a turn there are at least two steps of the store. What is written later than this after
/// a kill was not written by the process that was killed.
const CALM: Duration = Duration::from_secs(3);
/// A leader that goes on after a stop for so long has tried to write by then.
const WRITES_WITHIN: Duration = Duration::from_secs(2);
/// Half of all leaders that die are followed within this time on a file. On Redis two leases more: the next in line may
/// have been killed as well.
const TAKEOVER_MAX: Duration = Duration::from_secs(1);
/// Of fewer takeovers nothing is said: the machine may have been busy for as long.
const TAKEOVERS_MIN: usize = 20;
/// The slots of the two schedules, in milliseconds.
const SCHEDULES: [(&str, i64); 2] = [("every", 200), ("cron", 1_000)];

/// What is to be played.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The program `coordinates`.
    pub program: PathBuf,
    /// Where everything lies.
    pub folder: PathBuf,
    /// Where the tasks are kept.
    pub store: Store,
    /// How long the processes are hurt at least.
    pub time: Duration,
    /// So many are killed, if that takes no more than ten times as long.
    pub kills_min: u64,
    /// And so many jobs are done.
    pub jobs_min: usize,
    /// Processes that share the store.
    pub processes: usize,
    /// What chance is drawn from.
    pub seed: u64,
}

/// The name of a job that is run once.
#[must_use]
pub fn job(n: u64) -> String {
    format!("job {n}")
}

/// One line of what a process does alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Turn {
    /// When.
    #[serde(flatten)]
    pub at: Moment,
    /// By which process.
    pub pid: u32,
    /// `lead`, `late`, `door` or `job`. `late` is what a leader writes that does not look whether it still leads.
    pub of: String,
    /// `leads`, `added`, `refused`, `enters`, `leaves`, `begins`, `works`, or how a job came to be done.
    pub what: String,
    /// The fencing token, or the number of the job.
    pub n: u64,
}

/// The file that processes append their turns to.
#[derive(Debug)]
pub struct Turns(File);

impl Turns {
    /// The file in this folder, made if it is not there.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join("turns"))?;
        Ok(Self(file))
    }

    /// Appends a line in one write.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, of: &str, what: &str, n: u64) -> Result<(), LabError> {
        let turn = Turn {
            at: Moment::now(),
            pid: std::process::id(),
            of: of.to_owned(),
            what: what.to_owned(),
            n,
        };
        let mut line = serde_json::to_vec(&turn)?;
        line.push(b'\n');
        Ok((&self.0).write_all(&line)?)
    }
}

/// What was done to the processes, and what they did.
#[derive(Default)]
struct History {
    /// Who was killed when.
    kills: BTreeMap<u32, u64>,
    n_kills: u64,
    n_ends: u64,
    /// Who was stopped from when to when.
    stops: Vec<(u32, u64, u64)>,
    turns: Vec<Turn>,
    tasks: Vec<Task>,
    /// Of the jobs that were begun, those that nobody has to run any more.
    done: BTreeSet<u64>,
    /// How long it takes until a death is known.
    lease: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Kills, clean ends and stops.
    pub faults: [u64; 3],
    /// Tasks of the two schedules.
    pub slots: Vec<(&'static str, usize)>,
    /// Terms of leaders, and what they added.
    pub terms: usize,
    /// Tasks that leaders added.
    pub added: usize,
    /// What was refused of those who had led before.
    pub refused: usize,
    /// Leaders that were stopped until another one led, and lived on for a while.
    pub stopped: usize,
    /// Those of them that wrote then, and were refused.
    pub stopped_refused: usize,
    /// From the death of each leader that was killed to the next term.
    pub takeovers_ms: Vec<u64>,
    /// How often somebody entered by the lock.
    pub entered: usize,
    /// Jobs that were run once.
    pub jobs: usize,
    /// How often they were begun.
    pub begun: usize,
    /// What was broken.
    pub violations: Vec<Violation>,
}

/// Plays the plan and checks what came of it.
///
/// # Errors
/// If a process cannot be started, or what is left cannot be read.
pub async fn play(plan: &Plan) -> Result<Report, LabError> {
    let store = Opened::open(plan.store, plan.processes);
    let mut history = drive(plan, &store).await?;
    history.read(plan, &store).await?;
    Ok(history.report())
}

async fn drive(plan: &Plan, store: &Opened) -> Result<History, LabError> {
    let mut rng = Rng::with_seed(plan.seed);
    let mut history = History {
        lease: plan.store.lease().unwrap_or_default(),
        ..History::default()
    };
    let mut processes = Vec::new();
    for n in 0..plan.processes {
        processes.push(start(plan, store, n, &mut rng).await?);
    }
    // Longer than it takes the others to know of it.
    let stop = plan.store.lease().unwrap_or(TAKEOVER_AFTER) + Duration::from_secs(2);
    let over = Instant::now() + plan.time;
    let given_up = Instant::now() + plan.time * 10;
    let mut stopped: Option<(usize, u64, Instant)> = None;
    while Instant::now() < over
        || (history.n_kills < plan.kills_min || n_done(&plan.folder)? < plan.jobs_min)
            && Instant::now() < given_up
    {
        sleep(Duration::from_millis(rng.u64(200..900))).await;
        if let Some((n, since, until)) = stopped
            && Instant::now() >= until
        {
            history.goes_on(&processes[n], since)?;
            stopped = None;
        }
        let others: Vec<usize> = (0..plan.processes)
            .filter(|n| stopped.is_none_or(|(stopped, ..)| stopped != *n))
            .collect();
        let leader = leader_of(&plan.folder)?;
        let leads = others.iter().find(|n| Some(processes[**n].pid) == leader);
        // Half of all faults are for whoever leads.
        let n = match leads {
            Some(leads) if rng.bool() => *leads,
            _ => others[rng.usize(..others.len())],
        };
        match rng.u8(..100) {
            0..15 if stopped.is_none() => {
                let since = Moment::now().mono_us;
                processes[n].signal(Signal::STOP)?;
                stopped = Some((n, since, Instant::now() + stop));
            }
            kind => {
                let signal = match kind {
                    ..75 => {
                        history.n_kills += 1;
                        Signal::KILL
                    }
                    _ => {
                        history.n_ends += 1;
                        Signal::TERM
                    }
                };
                if signal == Signal::KILL {
                    let now = Moment::now().mono_us;
                    history.kills.insert(processes[n].pid, now);
                }
                processes[n].signal(signal)?;
                processes[n].ended().await?;
                processes[n] = match (start(plan, store, n, &mut rng).await, stopped.take()) {
                    // One that was stopped in the middle of a write lets nobody write to the file, and so nobody join.
                    (Err(_), Some((other, since, _))) => {
                        history.goes_on(&processes[other], since)?;
                        start(plan, store, n, &mut rng).await?
                    }
                    (process, other) => {
                        stopped = other;
                        process?
                    }
                };
            }
        }
    }
    if let Some((n, since, _)) = stopped {
        history.goes_on(&processes[n], since)?;
    }
    sleep(CALM).await;
    for mut process in processes {
        process.signal(Signal::TERM)?;
        process.ended().await?;
    }
    Ok(history)
}

async fn start(plan: &Plan, store: &Opened, n: usize, rng: &mut Rng) -> Result<Process, LabError> {
    let ahead_s = CLOCKS_AHEAD_S[rng.usize(..CLOCKS_AHEAD_S.len())];
    let mut settings = store.settings(n);
    settings.push(("CLOCK_AHEAD_S", ahead_s.to_string()));
    Process::start_on(plan.store, &plan.program, &plan.folder, settings).await
}

/// The process that has led last.
fn leader_of(folder: &Path) -> Result<Option<u32>, LabError> {
    let turns = read(folder)?;
    let last = turns.iter().rfind(|turn| turn.what == "leads");
    Ok(last.map(|turn| turn.pid))
}

/// How many jobs somebody knows to be done.
fn n_done(folder: &Path) -> Result<usize, LabError> {
    let turns = read(folder)?;
    let is_end = |turn: &&Turn| turn.of == "job" && !["begins", "works"].contains(&&*turn.what);
    let done: BTreeSet<u64> = turns.iter().filter(is_end).map(|turn| turn.n).collect();
    Ok(done.len())
}

/// All turns, oldest first.
fn read(folder: &Path) -> Result<Vec<Turn>, LabError> {
    let text = match std::fs::read_to_string(folder.join("turns")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text?,
    };
    let n_whole = text.matches('\n').count();
    let mut turns = Vec::new();
    for line in text.lines().take(n_whole) {
        // A process that is killed while it writes may leave a part of its line, and the next one follows it at once.
        let line = line.rfind('{').and_then(|begin| line.get(begin..));
        turns.push(serde_json::from_str::<Turn>(line.unwrap_or_default())?);
    }
    turns.sort_by_key(|turn| turn.at.mono_us);
    Ok(turns)
}

impl History {
    /// The time is from before: the process may be faster than we.
    fn goes_on(&mut self, process: &Process, since: u64) -> Result<(), LabError> {
        self.stops.push((process.pid, since, Moment::now().mono_us));
        process.signal(Signal::CONT)
    }

    async fn read(&mut self, plan: &Plan, store: &Opened) -> Result<(), LabError> {
        self.turns = read(&plan.folder)?;
        self.tasks = store.tasks(&plan.folder).await?;
        let manager = store.manager(&plan.folder).await?;
        let jobs = self.turns.iter().filter(|turn| turn.of == "job");
        let jobs: BTreeSet<u64> = jobs.map(|turn| turn.n).collect();
        for n in jobs {
            let nothing = || async { Ok::<(), io::Error>(()) };
            let outcome = manager.run_once(job(n), Scope::Forever, nothing).await?;
            if outcome == OnceOutcome::AlreadyDone {
                self.done.insert(n);
            }
        }
        manager.shutdown().await?;
        Ok(())
    }

    fn report(&self) -> Report {
        let mut report = Report {
            faults: [self.n_kills, self.n_ends, self.stops.len() as u64],
            ..Report::default()
        };
        self.check_slots(&mut report);
        self.check_leads(&mut report);
        self.check_stopped_leaders(&mut report);
        self.check_door(&mut report);
        self.check_jobs(&mut report);
        report
    }

    /// True if the process was stopped a moment ago, and could not know it.
    fn was_just_stopped(&self, turn: &Turn) -> bool {
        let grace = u64::try_from(AFTER_STOP.as_micros()).unwrap_or(u64::MAX);
        self.stops.iter().any(|(pid, _, cont)| {
            *pid == turn.pid && (*cont..=cont + grace).contains(&turn.at.mono_us)
        })
    }

    fn check_slots(&self, report: &mut Report) {
        for (schedule, step) in SCHEDULES {
            let of_schedule =
                |task: &&Task| task.tags.get("schedule").is_some_and(|it| it == schedule);
            let tasks = self.tasks.iter().filter(of_schedule);
            let mut slots: Vec<i64> = tasks.map(|task| task.life.run_at.as_unix_ms()).collect();
            slots.sort_unstable();
            for pair in slots.windows(2) {
                match pair[1] - pair[0] {
                    0 => report.breaks(
                        "P7",
                        format!("slot {} of {schedule} has two tasks", pair[0]),
                    ),
                    gap if gap == step => {}
                    gap => report.breaks(
                        "P7",
                        format!("after slot {} of {schedule} nothing for {gap} ms", pair[0]),
                    ),
                }
            }
            report.slots.push((schedule, slots.len()));
        }
    }

    fn check_leads(&self, report: &mut Report) {
        let of_leads = |turn: &&Turn| turn.of == "lead" || turn.of == "late";
        let mut latest: Option<&Turn> = None;
        // Of each who wrote, what was added after another one had begun to lead: what was on its way then.
        let mut late: BTreeMap<(&str, u32, u64), usize> = BTreeMap::new();
        for turn in self.turns.iter().filter(of_leads) {
            report.added += usize::from(turn.what == "added");
            report.refused += usize::from(turn.what == "refused");
            match latest {
                Some(last) if turn.n < last.n => {
                    if turn.of == "lead" && !self.was_just_stopped(turn) {
                        let (n, pid) = (turn.n, turn.pid);
                        let what = format!("{pid} {} in term {n} after term {}", turn.what, last.n);
                        report.breaks("one holder", what);
                    }
                    if turn.what == "added" {
                        let n_late = late.entry((&*turn.of, turn.pid, turn.n)).or_default();
                        *n_late += 1;
                        if *n_late > 1 {
                            let what =
                                format!("{} added in term {} that was over", turn.pid, turn.n);
                            report.breaks("one holder", what);
                        }
                    }
                    continue;
                }
                Some(last) if turn.n == last.n && turn.pid != last.pid => {
                    let what = format!("{} and {} lead in term {}", last.pid, turn.pid, turn.n);
                    report.breaks("one holder", what);
                }
                Some(last) if turn.n == last.n => {}
                last => {
                    report.terms += 1;
                    // Only of those that were killed.
                    if let Some(death) = last.and_then(|last| self.kills.get(&last.pid))
                        && *death <= turn.at.mono_us
                    {
                        report.takeovers_ms.push((turn.at.mono_us - death) / 1_000);
                    }
                }
            }
            latest = Some(turn);
        }
        report.takeovers_ms.sort_unstable();
        let max = self.lease * 2 + TAKEOVER_MAX;
        if report.takeovers_ms.len() >= TAKEOVERS_MIN
            && let Some(half) = report.half_of_takeovers_ms()
            && Duration::from_millis(half) > max
        {
            let what = format!("half of all leaders are followed after {half} ms only");
            report.breaks("prompt takeover", what);
        }
    }

    /// Whoever led when it was stopped, and another one leads when it goes on: what it writes is refused.
    fn check_stopped_leaders(&self, report: &mut Report) {
        let while_alive = u64::try_from(WRITES_WITHIN.as_micros()).unwrap_or(u64::MAX);
        for (pid, since, cont) in &self.stops {
            let begun = self.turns.iter().filter(|turn| turn.what == "leads");
            let before = begun.clone().rfind(|turn| turn.at.mono_us < *since);
            let Some(led) = before.filter(|turn| turn.pid == *pid) else {
                continue;
            };
            let is_followed = begun
                .clone()
                .any(|turn| turn.n > led.n && turn.at.mono_us < *cont);
            let until = cont + while_alive;
            let lives_on = self.lives_until(*pid, until);
            if !is_followed || !lives_on {
                continue;
            }
            report.stopped += 1;
            let is_refused = self.turns.iter().any(|turn| {
                let is_its = (turn.pid, turn.n, &*turn.what) == (*pid, led.n, "refused");
                is_its && turn.at.mono_us >= *cont
            });
            report.stopped_refused += usize::from(is_refused);
        }
    }

    /// True if the process is known to have been alive then.
    fn lives_until(&self, pid: u32, us: u64) -> bool {
        let mut turns = self.turns.iter();
        turns.any(|turn| turn.pid == pid && turn.at.mono_us >= us)
    }

    fn check_door(&self, report: &mut Report) {
        let mut inside: Option<&Turn> = None;
        let mut latest = 0;
        for turn in self.turns.iter().filter(|turn| turn.of == "door") {
            if turn.what == "leaves" {
                if inside.is_some_and(|inside| inside.n == turn.n) {
                    inside = None;
                }
                continue;
            }
            report.entered += 1;
            if turn.n <= latest && !self.was_just_stopped(turn) {
                let what = format!("{} enters with {} after {latest}", turn.pid, turn.n);
                report.breaks("one holder", what);
            }
            if let Some(other) = inside {
                let killed = self.kills.get(&other.pid);
                let was_killed = killed.is_some_and(|killed| *killed <= turn.at.mono_us);
                let stays = other.at.mono_us.saturating_sub(1_000)..=turn.at.mono_us;
                let was_stopped = self
                    .stops
                    .iter()
                    .any(|(pid, since, _)| *pid == other.pid && stays.contains(since));
                if !was_killed && !was_stopped && turn.n > latest {
                    let what = format!("{} enters while {} is inside", turn.pid, other.pid);
                    report.breaks("one holder", what);
                }
            }
            if turn.n > latest {
                (inside, latest) = (Some(turn), turn.n);
            }
        }
    }

    fn check_jobs(&self, report: &mut Report) {
        let mut known: BTreeMap<u64, &Turn> = BTreeMap::new();
        let mut ran: BTreeMap<u64, u32> = BTreeMap::new();
        let mut jobs = BTreeSet::new();
        for turn in self.turns.iter().filter(|turn| turn.of == "job") {
            match &*turn.what {
                "begins" => {
                    jobs.insert(turn.n);
                    report.begun += 1;
                    if known.contains_key(&turn.n) && !self.was_just_stopped(turn) {
                        let what = format!("job {} begins after it was done", turn.n);
                        report.breaks("run once", what);
                    }
                }
                "works" => {}
                outcome => {
                    known.entry(turn.n).or_insert(turn);
                    if outcome == "Ran" && ran.insert(turn.n, turn.pid).is_some() {
                        let what = format!("job {} was run by two to its end", turn.n);
                        report.breaks("run once", what);
                    }
                }
            }
        }
        for n in known.keys().filter(|n| !self.done.contains(n)) {
            report.breaks("run once", format!("job {n} was done, and is not any more"));
        }
        for n in known.keys().filter(|n| !jobs.contains(n)) {
            report.breaks("run once", format!("job {n} is done, and nobody began it"));
        }
        report.jobs = known.len();
    }
}

impl Report {
    fn half_of_takeovers_ms(&self) -> Option<u64> {
        self.takeovers_ms.get(self.takeovers_ms.len() / 2).copied()
    }

    fn breaks(&mut self, promise: &'static str, what: String) {
        self.violations.push(Violation { promise, what });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kills, ends, stops] = self.faults;
        writeln!(
            f,
            "faults     {kills} kills, {ends} clean ends, {stops} stops"
        )?;
        for (schedule, n) in &self.slots {
            writeln!(f, "slots      {n} of {schedule}, each with one task")?;
        }
        let (terms, added, refused) = (self.terms, self.added, self.refused);
        writeln!(
            f,
            "leaders    {terms} terms, {added} tasks added, {refused} refused"
        )?;
        let (stopped, stopped_refused) = (self.stopped, self.stopped_refused);
        writeln!(
            f,
            "stopped    {stopped} leaders until another one led, {stopped_refused} of them refused afterwards"
        )?;
        if let Some((half, last)) = self.half_of_takeovers_ms().zip(self.takeovers_ms.last()) {
            let n = self.takeovers_ms.len();
            writeln!(
                f,
                "takeover   {n} of leaders that died, half of them within {half} ms, all within {last} ms"
            )?;
        }
        writeln!(f, "lock       entered {} times", self.entered)?;
        writeln!(
            f,
            "run once   {} jobs, begun {} times",
            self.jobs, self.begun
        )?;
        for violation in self.violations.iter().take(20) {
            writeln!(f, "BROKEN     {}: {}", violation.promise, violation.what)?;
        }
        match self.violations.len() {
            0 => writeln!(f, "every promise was kept"),
            n => writeln!(f, "{n} times a promise was broken"),
        }
    }
}

#[cfg(test)]
mod tests;
