//! The crash laboratory as a soak.
//!
//! ```text
//! cargo run --release -p tests --bin lab -- --tasks 200000 --faults 300
//!     --redis: on a Redis server, which is hurt, too
//!     --takeover-after MS: of processes that are stopped for longer, others take the tasks
//!     --processes N     --seed N     --minutes N: order no longer than that
//!     --stops PERCENT   --ends PERCENT   --aborts PERMILLE
//!     --coordination SECONDS: schedules, leaders, locks and what is run once, in 4 processes
//!     --crash-at POINT: the first process ends there, as in `writer::committed=7*off->return`
//!     --keep FOLDER: play there, and leave it as it is
//! ```
//!
//! Prints a report. Ends with 1 if a promise was broken, and then leaves the folder and names it.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use tests::lab::{self, LabError, Plan, Store, coordination};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<ExitCode, LabError> {
    let mut folder = None;
    let service = std::env::current_exe()?.with_file_name("service");
    let mut plan = Plan {
        tasks: 200_000,
        faults: 300,
        calm_max: Duration::from_secs(120),
        progress: say,
        ..Plan::new(service, PathBuf::new(), fastrand::u64(..))
    };
    let mut coordination = None;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        if arg == "--redis" {
            plan = plan.on_redis();
            continue;
        }
        let value = args.next().ok_or(format!("{arg} needs a value"))?;
        match &*arg {
            "--tasks" => plan.tasks = value.parse()?,
            "--faults" => plan.faults = value.parse()?,
            "--processes" => plan.processes = value.parse()?,
            "--seed" => plan.seed = value.parse()?,
            "--stops" => plan.stops_percent = value.parse()?,
            "--ends" => plan.ends_percent = value.parse()?,
            "--aborts" => plan.aborts_permille = value.parse()?,
            "--minutes" => {
                plan.orders_max = Some(Duration::from_secs(60 * value.parse::<u64>()?));
            }
            "--coordination" => coordination = Some(Duration::from_secs(value.parse()?)),
            "--takeover-after" => {
                let silence = Duration::from_millis(value.parse()?);
                plan.store = Store::File {
                    takeover_after: Some(silence),
                };
            }
            "--crash-at" => plan.crash_at = Some(value),
            "--keep" => folder = Some(PathBuf::from(value)),
            _ => return Err(format!("{arg} is no option").into()),
        }
    }
    if !plan.service.exists() {
        let service = plan.service.display();
        return Err(format!("{service} is missing: cargo build --release -p tests --bins").into());
    }
    let mut passing = None;
    plan.folder = match folder {
        Some(folder) => {
            std::fs::create_dir_all(&folder)?;
            if std::fs::read_dir(&folder)?.next().is_some() {
                let folder = folder.display();
                return Err(format!(
                    "{folder} is not empty: what lies there would be checked, too"
                )
                .into());
            }
            folder
        }
        None => {
            let folder = tempfile::Builder::new().prefix("lab").tempdir()?;
            passing.insert(folder).path().to_owned()
        }
    };
    let begun = std::time::Instant::now();
    let is_whole = match coordination {
        Some(time) => coordinate(&plan, time).await?,
        None => {
            println!("{plan}");
            let report = lab::play(&plan).await?;
            print!("{report}");
            report.violations.is_empty()
        }
    };
    println!("took       {:.0} s", begun.elapsed().as_secs_f64());
    if is_whole {
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(folder) = passing {
        let _ = folder.keep(); // it is named below
    }
    println!("left in {}", plan.folder.display());
    Ok(ExitCode::FAILURE)
}

/// Plays the laboratory of coordination; true if every promise was kept.
async fn coordinate(plan: &Plan, time: Duration) -> Result<bool, LabError> {
    let plan = coordination::Plan {
        program: plan.service.with_file_name("coordinates"),
        folder: plan.folder.clone(),
        store: plan.store,
        time,
        kills_min: 0,
        jobs_min: 0,
        processes: 4,
        seed: plan.seed,
    };
    println!("coordination for {time:?}, 4 processes, seed {}", plan.seed);
    let report = coordination::play(&plan).await?;
    print!("{report}");
    Ok(report.violations.is_empty())
}

/// Says now and then how far it is.
fn say(ordered: u64, faults: u64) {
    if faults.is_multiple_of(10) {
        println!("{ordered} tasks ordered, {faults} faults");
    }
}
