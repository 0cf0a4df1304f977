//! The crash laboratory as a soak.
//!
//! ```text
//! cargo run --release -p tests --bin lab -- --tasks 200000 --faults 300
//!     --processes N   --seed N   --stops PERCENT   --keep FOLDER
//! ```
//!
//! Prints a report. Ends with 1 if a promise was broken, and then leaves the folder as it is.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use tests::lab::{self, LabError, Plan};

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
    let folder = tempfile::Builder::new().prefix("lab").tempdir()?;
    let mut plan = Plan {
        service: std::env::current_exe()?.with_file_name("service"),
        folder: folder.path().to_owned(),
        tasks: 200_000,
        faults: 300,
        processes: 3,
        seed: fastrand::u64(..),
        stops_percent: 15,
        calm_max: Duration::from_secs(120),
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().ok_or(format!("{arg} needs a value"))?;
        match &*arg {
            "--tasks" => plan.tasks = value.parse()?,
            "--faults" => plan.faults = value.parse()?,
            "--processes" => plan.processes = value.parse()?,
            "--seed" => plan.seed = value.parse()?,
            "--stops" => plan.stops_percent = value.parse()?,
            "--keep" => plan.folder = PathBuf::from(value),
            _ => return Err(format!("{arg} is no option").into()),
        }
    }
    if !plan.service.exists() {
        let service = plan.service.display();
        return Err(format!("{service} is missing: cargo build --release -p tests --bins").into());
    }
    println!("{plan}");
    let begun = std::time::Instant::now();
    let report = lab::play(&plan).await?;
    print!("{report}");
    println!("took       {:.0} s", begun.elapsed().as_secs_f64());
    if report.violations.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("left in {}", folder.keep().display());
    Ok(ExitCode::FAILURE)
}
