//! Measures what the library costs, per backend: the workloads W1 to W6, and the limits of what it stands on.
//!
//! ```text
//! cargo run --release -p axum-taskflow-bench              everything, 5 rounds, table and JSON
//! cargo run --release -p axum-taskflow-bench -- w2 w3     some workloads
//!     --rounds N   --tasks N   --history N   --memory-only   --sqlite-only   --redis-only   --json FILE
//!     --peers      with the libraries below `peers/`, those that this machine can build, round by round beside ours
//! cargo run --release -p axum-taskflow-bench -- soak sqlite 30 36000    minutes and tasks a second, JSON
//! cargo run --release -p axum-taskflow-bench -- plot FOLDER FILE...      SVG of these JSON files
//! ```
//!
//! Each figure is the median of the rounds, with the smallest and the largest; rounds of all backends alternate, so
//! that noise of the machine hits all alike. Each round runs in a process of its own, with a fresh file.

mod limits;
mod peers;
mod plot;
mod report;
mod service;
mod shared;
mod soak;
mod workloads;

use std::{path::Path, process::ExitCode};

use crate::{
    report::{Figure, Report},
    workloads::{Store, Workload},
};

/// What to measure.
struct Options {
    workloads: Vec<Workload>,
    stores: Vec<Store>,
    rounds: usize,
    tasks: usize,
    history: usize,
    json: Option<String>,
    peers: bool,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.first().map(String::as_str) {
        // A round: measures one workload in this process, and prints the figures as JSON.
        Some("round") => round(&args[1..]),
        // One of several processes of a round.
        Some("share") => share(&args[1..]),
        Some("ask") => ask(&args[1..]),
        Some("own") => own(&args[1..]),
        Some("soak") => soak(&args[1..]),
        Some("plot") => plot(&args[1..]),
        _ => Options::parse(&args).and_then(|options| all(&options)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

impl Options {
    fn parse(args: &[String]) -> Result<Self, String> {
        let mut options = Self {
            workloads: Vec::new(),
            stores: vec![Store::Memory, Store::Sqlite, Store::Redis, Store::RedisAof],
            rounds: 5,
            tasks: 100_000,
            history: 1_000_000,
            json: None,
            peers: false,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            let number = |text: &String| text.parse().map_err(|_| format!("{text:?} is no number"));
            match arg.as_str() {
                "--rounds" => options.rounds = value().and_then(number)?,
                "--tasks" => options.tasks = value().and_then(number)?,
                "--history" => options.history = value().and_then(number)?,
                "--json" => options.json = Some(value()?.clone()),
                "--peers" => options.peers = true,
                "--memory-only" => options.stores = vec![Store::Memory],
                "--sqlite-only" => options.stores = vec![Store::Sqlite],
                "--redis-only" => options.stores = vec![Store::Redis, Store::RedisAof],
                name => options.workloads.push(Workload::named(name)?),
            }
        }
        if options.workloads.is_empty() {
            options.workloads = Workload::ALL.to_vec();
        }
        Ok(options)
    }
}

fn all(options: &Options) -> Result<(), String> {
    if cfg!(debug_assertions) {
        return Err("figures of a debug build mean nothing: use --release".to_owned());
    }
    let mut report = Report::default();
    let peers = match options.peers {
        true => peers::all(),
        false => Vec::new(),
    };
    for round in 1..=options.rounds {
        for workload in &options.workloads {
            for store in options.stores.iter().filter(|store| workload.fits(**store)) {
                eprintln!("round {round} of {}: {workload} on {store}", options.rounds);
                let figures = in_own_process(*workload, *store, options)?;
                report.add(*workload, store.to_string(), *store, figures);
            }
            for peer in peers.iter().filter(|peer| peer.measures(*workload)) {
                eprintln!(
                    "round {round} of {}: {workload} of {}",
                    options.rounds, peer.name
                );
                let figures = peer.round(*workload, options.tasks);
                let figures = figures.map_err(|error| format!("{}: {error}", peer.name))?;
                report.add(*workload, peer.name.to_owned(), peer.store, figures);
            }
        }
    }
    println!("{report}");
    match &options.json {
        Some(path) => std::fs::write(path, report.json())
            .map_err(|error| format!("cannot write {path}: {error}")),
        None => {
            println!("{}", report.json());
            Ok(())
        }
    }
}

/// A process of its own: the memory of one round is not that of another.
fn in_own_process(
    workload: Workload,
    store: Store,
    options: &Options,
) -> Result<Vec<Figure>, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = std::process::Command::new(program)
        .arg("round")
        .args([workload.to_string(), store.to_string()])
        .args([options.tasks.to_string(), options.history.to_string()])
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("{workload} on {store} failed"));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("{workload} on {store} printed no figures: {error}"))
}

fn round(args: &[String]) -> Result<(), String> {
    let [workload, store, tasks, history] = args else {
        return Err("round WORKLOAD STORE TASKS HISTORY".to_owned());
    };
    let number = |text: &String| text.parse().map_err(|_| format!("{text:?} is no number"));
    let figures = workloads::run(
        Workload::named(workload)?,
        Store::named(store)?,
        number(tasks)?,
        number(history)?,
    )
    .map_err(|error| error.to_string())?;
    println!("{}", serde_json::json!(figures));
    Ok(())
}

fn ask(args: &[String]) -> Result<(), String> {
    let [url, viewers] = args else {
        return Err("ask URL VIEWERS".to_owned());
    };
    let viewers = viewers.parse();
    let viewers = viewers.map_err(|_| "VIEWERS is a number".to_owned())?;
    service::ask(url, viewers).map_err(|error| error.to_string())
}

fn own(args: &[String]) -> Result<(), String> {
    let [place, tasks] = args else {
        return Err("own PLACE TASKS".to_owned());
    };
    let tasks = tasks.parse();
    let tasks = tasks.map_err(|_| "TASKS is a number".to_owned())?;
    service::own(place, tasks).map_err(|error| error.to_string())
}

fn soak(args: &[String]) -> Result<(), String> {
    let [store, minutes, rate] = args else {
        return Err("soak STORE MINUTES RATE".to_owned());
    };
    let minutes = minutes.parse();
    let minutes = minutes.map_err(|_| "MINUTES is a number".to_owned())?;
    let rate = rate.parse().ok().filter(|rate| *rate > 0);
    let rate = rate.ok_or("RATE is a number of tasks a second")?;
    let store = match Store::named(store)? {
        Store::Memory => return Err("a soak needs a store that lasts".to_owned()),
        store => store,
    };
    let json = soak::soak(store, minutes, rate).map_err(|error| error.to_string())?;
    println!("{json}");
    Ok(())
}

fn plot(args: &[String]) -> Result<(), String> {
    let [folder, files @ ..] = args else {
        return Err("plot FOLDER FILE...".to_owned());
    };
    plot::plot(Path::new(folder), files).map_err(|error| error.to_string())
}

fn share(args: &[String]) -> Result<(), String> {
    let [place, tasks] = args else {
        return Err("share PLACE TASKS".to_owned());
    };
    let tasks = tasks
        .parse()
        .map_err(|_| format!("{tasks:?} is no number"))?;
    shared::share(place, tasks).map_err(|error| error.to_string())
}
