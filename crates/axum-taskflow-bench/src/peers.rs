//! What others offer, under the same workloads: programs below `peers/`, each a workspace of its own, called as
//! `PROGRAM WORKLOAD TASKS PLACE`, with a fresh folder or the address of an empty server as its place. They print figures
//! as our rounds do.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    report::Figure,
    workloads::{self, Result, Store, Workload},
};

/// A library that a user would pick instead.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) store: Store,
    program: PathBuf,
    /// Before the workload: the script of an interpreter, or which of its settings.
    args: Vec<PathBuf>,
}

impl Peer {
    pub(crate) fn measures(&self, workload: Workload) -> bool {
        matches!(workload, Workload::W1 | Workload::W2 | Workload::W3)
    }

    /// Measures one workload once.
    pub(crate) fn round(&self, workload: Workload, tasks: usize) -> Result<Vec<Figure>> {
        let folder = tempfile::tempdir()?;
        let server = workloads::server(self.store);
        let place = match &server {
            Some(server) => server.url(),
            None => folder.path().display().to_string(),
        };
        let output = Command::new(&self.program)
            .args(&self.args)
            .args([workload.to_string(), tasks.to_string(), place])
            .stderr(Stdio::inherit())
            .output()?;
        if !output.status.success() {
            return Err(format!("{} ended with {}", self.name, output.status).into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// All that this machine can build. What it cannot is said, and left out.
pub(crate) fn all() -> Vec<Peer> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
    let built = [
        ("effectum", cargo(&folder, "effectum", Store::Sqlite, &[])),
        (
            "effectum as shipped",
            cargo(&folder, "effectum", Store::Sqlite, &["as-shipped"]),
        ),
        (
            "apalis-sqlite",
            cargo(&folder, "apalis", Store::Sqlite, &[]),
        ),
        (
            "apalis-sqlite without indexes",
            cargo(&folder, "apalis", Store::Sqlite, &["without-indexes"]),
        ),
        (
            "fastapi-taskflow on SQLite",
            fastapi_taskflow(&folder, Store::Sqlite),
        ),
        ("apalis-redis", cargo(&folder, "apalis", Store::Redis, &[])),
        ("oxana", cargo(&folder, "oxana", Store::Redis, &[])),
        ("BullMQ", bullmq(&folder.join("bullmq"))),
        (
            "fastapi-taskflow on Redis",
            fastapi_taskflow(&folder, Store::Redis),
        ),
    ];
    let able = built.into_iter().filter_map(|(name, built)| match built {
        Ok((store, program, args)) => Some(Peer {
            name,
            store,
            program,
            args,
        }),
        Err(why) => {
            eprintln!("{name} is left out: {why}");
            None
        }
    });
    able.collect()
}

/// The store that it uses, the program, and its first arguments.
type Built = (Store, PathBuf, Vec<PathBuf>);

fn cargo(folder: &Path, name: &str, store: Store, args: &[&str]) -> Result<Built> {
    let folder = folder.join(name);
    run(Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--locked", "--target-dir"])
        .arg(folder.join("target"))
        .current_dir(&folder))?;
    let program = folder.join(format!("target/release/peer-{name}"));
    Ok((store, program, args.iter().map(PathBuf::from).collect()))
}

fn bullmq(folder: &Path) -> Result<Built> {
    run(Command::new("npm")
        .args(["install", "--no-audit", "--no-fund", "--loglevel=error"])
        .current_dir(folder))?;
    Ok((Store::Redis, "node".into(), vec![folder.join("main.js")]))
}

/// Into an environment of its own, so that nothing of this machine changes.
fn fastapi_taskflow(folder: &Path, store: Store) -> Result<Built> {
    let folder = folder.join("fastapi-taskflow");
    let environment = folder.join("venv");
    run(Command::new("python3")
        .args(["-m", "venv"])
        .arg(&environment))?;
    let python = environment.join("bin/python");
    run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet"])
        .args(["--disable-pip-version-check", "--requirement"])
        .arg(folder.join("requirements.txt")))?;
    Ok((store, python, vec![folder.join("main.py")]))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdout(Stdio::null())
        .status()
        .map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{:?} ended with {status}", command.get_program()).into()),
    }
}
