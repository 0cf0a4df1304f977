//! Measures what the library costs, per backend: the workloads W1 to W6, and the limits of what it stands on.
//!
//! ```text
//! cargo run --release -p axum-taskflow-bench              everything, 5 rounds
//! cargo run --release -p axum-taskflow-bench -- w2 w3     some workloads
//!     --rounds N   --tasks N   --history N   --memory-only   --sqlite-only   --redis-only
//!     --peers      with the libraries below `peers/`, those that this machine can build, round by round beside ours
//!     --out FOLDER the table (`figures.md`), `figures.json` and plots go there, and not below `target/`
//! cargo run --release -p axum-taskflow-bench -- soak sqlite    30 minutes at 60 % of the peak, which is measured first
//!     --minutes N   --percent N   --out FOLDER                 `soak-sqlite.json` and `soak-sqlite.svg` go there
//! cargo run --release -p axum-taskflow-bench -- redis-cost     instructions of a Redis server for each task
//! ```
//!
//! Each figure is the median of the rounds, with the smallest and the largest; rounds of all backends alternate, so
//! that noise of the machine hits all alike. Each round runs in a process of its own, with a fresh file.

mod cost;
mod history;
mod limits;
mod machine;
mod peers;
mod plot;
mod report;
mod service;
mod shared;
mod soak;
mod targets;
mod workloads;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use crate::{
    machine::Machine,
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
    out: PathBuf,
    peers: bool,
    /// Of a soak.
    minutes: f64,
    percent: f64,
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
        Some("run") => run(&args[1..]),
        Some("finish") => finish(&args[1..]),
        Some("soak") => soak(&args[1..]),
        Some("peak") => peak(&args[1..]),
        Some("redis-cost") => cost::count().map_err(|error| error.to_string()),
        Some("count") => count(&args[1..]),
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
            out: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/figures"),
            peers: false,
            minutes: 30.0,
            percent: 60.0,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            match arg.as_str() {
                "--rounds" => options.rounds = value().and_then(number)?,
                "--tasks" => options.tasks = value().and_then(number)?,
                "--history" => options.history = value().and_then(number)?,
                "--minutes" => options.minutes = value().and_then(number)?,
                "--percent" => options.percent = value().and_then(number)?,
                "--out" => options.out = value()?.into(),
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

fn number<T: std::str::FromStr>(text: &String) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

fn all(options: &Options) -> Result<(), String> {
    let mut machine = release_on()?;
    let mut peers = Vec::new();
    if options.peers {
        peers = peers::all();
        machine = machine.with_peers();
    }
    let mut report = Report::new(machine);
    let mut n_failed = 0;
    for round in 1..=options.rounds {
        for workload in &options.workloads {
            for store in options.stores.iter().filter(|store| workload.fits(**store)) {
                eprintln!("round {round} of {}: {workload} on {store}", options.rounds);
                match in_own_process(*workload, *store, options, round) {
                    Ok(figures) => report.add(*workload, store.to_string(), *store, figures),
                    Err(why) => {
                        n_failed += 1;
                        eprintln!("{why}");
                        report.failed(format!("round {round}: {why}"));
                    }
                }
            }
            for peer in peers.iter().filter(|peer| peer.measures(*workload)) {
                eprintln!(
                    "round {round} of {}: {workload} of {}",
                    options.rounds, peer.name
                );
                match peer.round(*workload, options.tasks) {
                    Ok(figures) => {
                        report.add(*workload, peer.name.to_owned(), peer.store, figures);
                    }
                    // Not ours to mend: the others are measured all the same.
                    Err(error) => {
                        let why = format!("round {round}: {workload} of {}: {error}", peer.name);
                        eprintln!("{why}");
                        report.failed(why);
                    }
                }
            }
        }
        // After each round: what takes hours may be ended early.
        write(&report, &options.out)?;
    }
    println!("{report}");
    println!("in {}", options.out.display());
    match n_failed {
        0 => Ok(()),
        n => Err(format!("{n} rounds of ours failed")),
    }
}

fn release_on() -> Result<Machine, String> {
    match cfg!(debug_assertions) {
        true => Err("figures of a debug build mean nothing: use --release".to_owned()),
        false => Ok(Machine::this()),
    }
}

/// Table, JSON and plots.
fn write(report: &Report, out: &Path) -> Result<(), String> {
    let json = report.json();
    fs::create_dir_all(out)
        .and_then(|()| fs::write(out.join("figures.md"), report.to_string()))
        .and_then(|()| fs::write(out.join("figures.json"), &json))
        .map_err(|error| format!("cannot write into {}: {error}", out.display()))?;
    plot::figures(out, &json).map_err(|error| format!("cannot plot: {error}"))
}

/// A process of its own: the memory of one round is not that of another.
fn in_own_process(
    workload: Workload,
    store: Store,
    options: &Options,
    round: usize,
) -> Result<Vec<Figure>, String> {
    let mut args = vec!["round".to_owned(), workload.to_string(), store.to_string()];
    args.extend([options.tasks, options.history, round].map(|n| n.to_string()));
    let output = itself(&args)?;
    serde_json::from_slice(&output)
        .map_err(|error| format!("{workload} on {store} printed no figures: {error}"))
}

/// What this program prints that is started with these arguments.
fn itself(args: &[String]) -> Result<Vec<u8>, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = std::process::Command::new(program)
        .args(args)
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(format!("{} failed", args.join(" "))),
    }
}

fn round(args: &[String]) -> Result<(), String> {
    let [workload, store, tasks, history, round] = args else {
        return Err("round WORKLOAD STORE TASKS HISTORY ROUND".to_owned());
    };
    let figures = workloads::run(
        Workload::named(workload)?,
        Store::named(store)?,
        number(tasks)?,
        number(history)?,
        number(round)?,
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

fn run(args: &[String]) -> Result<(), String> {
    let [place] = args else {
        return Err("run PLACE".to_owned());
    };
    shared::run_here(place).map_err(|error| error.to_string())
}

fn finish(args: &[String]) -> Result<(), String> {
    let [place, tasks] = args else {
        return Err("finish PLACE TASKS".to_owned());
    };
    history::finish(place, number(tasks)?).map_err(|error| error.to_string())
}

fn count(args: &[String]) -> Result<(), String> {
    let [folder] = args else {
        return Err("count FOLDER".to_owned());
    };
    cost::count_here(folder).map_err(|error| error.to_string())
}

fn soak(args: &[String]) -> Result<(), String> {
    let [store, options @ ..] = args else {
        return Err("soak STORE".to_owned());
    };
    let options = Options::parse(options)?;
    let store = match Store::named(store)? {
        Store::Memory => return Err("a soak needs a store that lasts".to_owned()),
        store => store,
    };
    let machine = release_on()?;
    eprintln!("the peak: asked for more than it can do, with deletion, for 100 s");
    let output = itself(&["peak".to_owned(), store.to_string()])?;
    let peak: f64 = serde_json::from_slice(&output).map_err(|error| error.to_string())?;
    let rate = (peak * options.percent / 100.0).max(1.0) as usize;
    eprintln!("{rate} tasks/s, {} % of {peak:.0}", options.percent);
    let json = soak::soak(store, options.minutes, peak, rate, machine)
        .map_err(|error| error.to_string())?;
    let out = &options.out;
    let path = out.join(format!("soak-{store}.json"));
    fs::create_dir_all(out)
        .and_then(|()| fs::write(&path, &json))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    plot::soak(out, &json).map_err(|error| format!("cannot plot: {error}"))?;
    println!("in {}", out.display());
    Ok(())
}

fn peak(args: &[String]) -> Result<(), String> {
    let [store] = args else {
        return Err("peak STORE".to_owned());
    };
    let peak = soak::peak(Store::named(store)?).map_err(|error| error.to_string())?;
    println!("{}", serde_json::json!(peak));
    Ok(())
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
