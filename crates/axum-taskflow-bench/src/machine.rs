//! Where and with what it was measured.

use std::{fs, path::Path, process::Command};

use serde::Serialize;

/// What figures depend on, as far as the machine tells.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// UTC, at the begin.
    date: String,
    cpu: String,
    cores: usize,
    kernel: String,
    /// Tasks that wanted a core in the minute before: with more than none, others measured along.
    load: String,
    /// What, and which.
    versions: Vec<(&'static str, String)>,
}

impl Machine {
    pub(crate) fn this() -> Self {
        let here = env!("CARGO_MANIFEST_DIR");
        let cpu = read("/proc/cpuinfo");
        let model = cpu.lines().find_map(|line| {
            let (name, model) = line.split_once(':')?;
            (name.trim() == "model name").then_some(model.trim())
        });
        Self {
            date: said("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
            cpu: model.unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: read("/proc/loadavg")
                .split(' ')
                .next()
                .unwrap_or_default()
                .to_owned(),
            versions: vec![
                ("axum-taskflow", env!("CARGO_PKG_VERSION").to_owned()),
                (
                    "commit",
                    said("git", &["-C", here, "describe", "--always", "--dirty"]),
                ),
                ("rustc", said("rustc", &["--version"])),
                ("SQLite", rusqlite::version().to_owned()),
                ("redis-server", said("redis-server", &["--version"])),
                ("node", said("node", &["--version"])),
                ("python", said("python3", &["--version"])),
            ],
        }
    }

    /// With those of the others, which their lock files name.
    pub(crate) fn with_peers(mut self) -> Self {
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        let text = |file: &str| read(peers.join(file));
        for (name, lock) in [
            ("effectum", "effectum/Cargo.lock"),
            ("apalis-sqlite", "apalis/Cargo.lock"),
            ("apalis-redis", "apalis/Cargo.lock"),
            ("oxana", "oxana/Cargo.lock"),
        ] {
            let version = between(
                &text(lock),
                &format!("name = \"{name}\"\nversion = \""),
                "\"",
            );
            self.versions.push((name, version));
        }
        let package = text("bullmq/package.json");
        let bullmq = between(&package, "\"bullmq\": \"", "\"");
        self.versions.push(("bullmq", bullmq));
        let requirements = text("fastapi-taskflow/requirements.txt");
        let fastapi_taskflow = between(&requirements, "fastapi-taskflow==", "\n");
        self.versions.push(("fastapi-taskflow", fastapi_taskflow));
        self
    }

    /// As a list in Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!(
            "- {}; {} cores of {}; Linux {}; load before: {}\n",
            self.date, self.cores, self.cpu, self.kernel, self.load
        );
        for (name, version) in &self.versions {
            text.push_str(&format!("- {name}: {version}\n"));
        }
        text
    }
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default() // told as unknown
}

fn between(text: &str, before: &str, after: &str) -> String {
    let found = text.split(before).nth(1);
    let found = found.and_then(|rest| rest.split(after).next());
    found.unwrap_or("unknown").to_owned()
}

/// The first line that a program says.
fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let line = text
        .ok()
        .and_then(|text| Some(text.lines().next()?.to_owned()));
    line.unwrap_or_else(|| "not there".to_owned())
}
