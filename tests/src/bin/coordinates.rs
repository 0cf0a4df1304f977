//! A process of the laboratory of coordination: `coordinates <folder>`. It has schedules, leads if it can, enters by a lock, and
//! runs one job after the other once; and writes a line to `turns` in the folder for whatever it does alone.
//!
//! The environment says: REDIS_URL and REDIS_LEASE_MS, or the tasks are stored in `tasks.db` in the folder; CLOCK_AHEAD_S,
//! by how much its clock is wrong.

use std::{env, io::Read, path::PathBuf, sync::Arc, time::Duration};

use axum_taskflow::{
    Clock, ErrorKind, Fence, Lead, RedisOptions, Scope, TaskManager, Timestamp, schedule, task,
};
use tests::lab::{
    LabError,
    coordination::{self, Turns},
    process::end_if_worth_another_try,
};
use tokio::time::sleep;

/// What the leader adds.
#[task]
async fn note(epoch: u64) {
    let _ = epoch;
}

// However far the clocks are apart, no slot is so late that it counts as missed: then there is none without a task.

#[schedule(every = "200ms", overlap = "allow", tolerance = "1h")]
#[task]
async fn every() {}

#[schedule(
    cron = "* * * * * *",
    tz = "Europe/Berlin",
    overlap = "allow",
    tolerance = "1h"
)]
#[task]
async fn cron() {}

#[tokio::main]
async fn main() -> Result<(), LabError> {
    // The end of stdin is the end of the laboratory.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let _crash_points = fail::FailScenario::setup(); // as FAILPOINTS says
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let folder = PathBuf::from(env::args_os().nth(1).ok_or("which folder?")?);
    let manager = start(&folder).await?;
    let turns = Arc::new(Turns::open(&folder)?);
    println!("listening on nothing");

    let work = async {
        tokio::try_join!(
            lead(&manager, &turns),
            enter(&manager, &turns),
            run_jobs(&manager, &turns)
        )
    };
    tokio::select! {
        worked = work => worked.map(drop),
        () = manager.shutdown_on_signal() => Ok(manager.shutdown().await?),
    }
}

async fn start(folder: &std::path::Path) -> Result<TaskManager, LabError> {
    let number = |name| match env::var(name) {
        Ok(text) => text.parse::<i64>().map_err(LabError::from),
        Err(_) => Ok(0),
    };
    let now = Clock::system().now().as_unix_ms() + number("CLOCK_AHEAD_S")? * 1_000;
    let builder = TaskManager::builder()
        .clock(Clock::tokio(Timestamp::from_unix_ms(now)))
        .takeover_after(coordination::TAKEOVER_AFTER)
        .shutdown_timeout(Duration::from_millis(500));
    let builder = match env::var("REDIS_URL") {
        Ok(url) => {
            let lease = Duration::from_millis(number("REDIS_LEASE_MS")?.unsigned_abs());
            builder.redis_with(RedisOptions::new(url).lease(lease).deadline(lease / 2))
        }
        Err(_) => builder.sqlite(folder.join("tasks.db")),
    };
    Ok(builder
        .build()
        .await
        .inspect_err(end_if_worth_another_try)?)
}

async fn lead(manager: &TaskManager, turns: &Arc<Turns>) -> Result<(), LabError> {
    let run = manager.leader("mailer").run(async |lead: Lead| {
        let (fence, epoch) = (lead.fence(), lead.epoch());
        turns.write("lead", "leads", epoch)?;
        tokio::spawn(write_late(manager.clone(), turns.clone(), fence, epoch));
        loop {
            turns.write("lead", "leads", epoch)?;
            let what = add(manager, lead.fence(), epoch).await;
            turns.write("lead", what, epoch)?;
            sleep(Duration::from_millis(10)).await;
        }
    });
    match run.await? {
        Some(Err(error)) => Err(error),
        Some(Ok(())) | None => Ok(()), // the manager shuts down
    }
}

async fn add(manager: &TaskManager, fence: Fence, epoch: u64) -> &'static str {
    match manager.add_task(note, epoch).under(fence).await {
        Ok(_) => "added",
        Err(error) if error.kind() == ErrorKind::Conflict => "refused",
        Err(_) => "failed",
    }
}

/// Adds in the name of a term, whether it is over or not, until that is refused.
async fn write_late(
    manager: TaskManager,
    turns: Arc<Turns>,
    fence: Fence,
    epoch: u64,
) -> Result<(), LabError> {
    loop {
        let what = add(&manager, fence.clone(), epoch).await;
        turns.write("late", what, epoch)?;
        if what == "refused" {
            return Ok(());
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn enter(manager: &TaskManager, turns: &Turns) -> Result<(), LabError> {
    loop {
        let guard = match manager.lock("door").acquire().await {
            Ok(guard) => guard,
            Err(error) if error.kind() == ErrorKind::ShuttingDown => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let inside = Inside::go(turns, guard.epoch())?;
        tokio::select! {
            () = guard.lost() => {}
            () = sleep(Duration::from_millis(5)) => {}
        }
        drop(inside);
        let _ = guard.release().await; // what cannot be given back now is given back later
        sleep(Duration::from_millis(5)).await;
    }
}

/// Writes when it is dropped, too: then the lock is free at once.
struct Inside<'a> {
    turns: &'a Turns,
    epoch: u64,
}

impl<'a> Inside<'a> {
    fn go(turns: &'a Turns, epoch: u64) -> Result<Self, LabError> {
        turns.write("door", "enters", epoch)?;
        Ok(Self { turns, epoch })
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.turns.write("door", "leaves", self.epoch) {
            eprintln!("{error}"); // it looks as if it were inside: the checker is only stricter
        }
    }
}

async fn run_jobs(manager: &TaskManager, turns: &Turns) -> Result<(), LabError> {
    for job in 0.. {
        let name = coordination::job(job);
        let work = async || {
            turns.write("job", "begins", job)?;
            sleep(Duration::from_millis(20)).await;
            turns.write("job", "works", job)
        };
        match manager.run_once(name, Scope::Forever, work).await {
            Ok(outcome) => turns.write("job", &format!("{outcome:?}"), job)?,
            // In an outage, or at the end. Whoever asks again is answered.
            Err(_) if manager.stopping().is_cancelled() => return Ok(()),
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
        sleep(Duration::from_millis(30)).await;
    }
    Ok(())
}
