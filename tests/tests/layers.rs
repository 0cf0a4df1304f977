//! Who may use whom. Each test names the rule that it holds, and prints it with the places that break it.

#![allow(clippy::unwrap_used, reason = "this is test code")]

#[path = "support/source.rs"]
mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use source::{Modules, files};

/// Our crates from the bottom up, each with those that it may depend on.
const CRATES: [(&str, &[&str]); 13] = [
    ("axum-taskflow-core", &[]),
    ("axum-taskflow-macros", &[]),
    ("axum-taskflow-dashboard-assets", &[]),
    ("axum-taskflow-wal", &[]),
    (
        "axum-taskflow-sqlite",
        &["axum-taskflow-core", "axum-taskflow-wal"],
    ),
    ("axum-taskflow-redis", &["axum-taskflow-core", "servers"]),
    (
        "axum-taskflow-dashboard",
        &["axum-taskflow-core", "axum-taskflow-dashboard-assets"],
    ),
    (
        "axum-taskflow",
        &[
            "axum-taskflow-core",
            "axum-taskflow-macros",
            "axum-taskflow-sqlite",
            "axum-taskflow-redis",
            "axum-taskflow-dashboard",
        ],
    ),
    ("examples", &["axum-taskflow"]),
    (
        "axum-taskflow-bench",
        &[
            "axum-taskflow-core",
            "axum-taskflow-dashboard",
            "axum-taskflow-redis",
            "axum-taskflow-sqlite",
            "servers",
        ],
    ),
    ("servers", &[]),
    ("hot-path", &["axum-taskflow-core", "axum-taskflow-sqlite"]),
    (
        "tests",
        &[
            "axum-taskflow",
            "axum-taskflow-core",
            "axum-taskflow-sqlite",
            "servers",
        ],
    ),
];

/// Crates of others that few of ours may name, so that they can be replaced in one place.
const KEPT_APART: [(&str, &[&str]); 4] = [
    ("redis", &["axum-taskflow-redis"]),
    (
        "rusqlite",
        &[
            "axum-taskflow-sqlite",
            "axum-taskflow-wal",
            "axum-taskflow-bench",
            "tests",
        ],
    ),
    (
        "axum",
        &[
            "axum-taskflow",
            "axum-taskflow-bench",
            "axum-taskflow-dashboard",
            "examples",
            "tests",
        ],
    ),
    ("askama", &["axum-taskflow-dashboard", "examples"]),
];

#[test]
fn crates_depend_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = CRATES.into_iter().collect();
    let mut wrong = Vec::new();

    for package in packages() {
        let Some(may_use) = allowed.get(&*package.name) else {
            wrong.push(format!("{}: not in the list of layers.rs", package.name));
            continue;
        };
        for used in &package.uses {
            if allowed.contains_key(&**used) && !may_use.contains(&&**used) {
                wrong.push(format!("{} depends on {used}", package.name));
            }
        }
    }

    holds(
        "crates depend one way: core, macros and the assets on nothing of ours; a driver on core; the dashboard on \
         core and the assets; axum-taskflow on all of them; services on axum-taskflow",
        &wrong,
    );
}

#[test]
fn sqlite_axum_and_askama_are_each_named_in_few_crates() {
    let mut wrong = Vec::new();

    for package in packages() {
        for (theirs, ours) in KEPT_APART {
            if package.names.contains(theirs) && !ours.contains(&&*package.name) {
                wrong.push(format!("{} depends on {theirs}", package.name));
            }
        }
    }

    holds(
        "rusqlite is named by the driver and by tests that get in its way, axum by what plugs into it, askama by what has pages",
        &wrong,
    );
}

#[test]
fn every_dependency_says_why_it_is_there() {
    let root = root();
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let (_, table) = manifest.split_once("[workspace.dependencies]").unwrap();
    let (table, _) = table.split_once("\n[").unwrap();
    let mut wrong = Vec::new();

    let others = table
        .lines()
        .filter(|line| line.contains('=') && !line.starts_with("axum-taskflow"));
    for line in others {
        let reason = line.rsplit_once('#').map(|(_, reason)| reason.trim());
        if reason.is_none_or(|reason| reason.len() < 8) {
            wrong.push(format!("Cargo.toml: {line}"));
        }
    }
    for package in packages() {
        let manifest = fs::read_to_string(package.folder.join("Cargo.toml")).unwrap();
        let dependencies = manifest
            .split("\n[")
            .filter(|table| table.starts_with("dependencies]") || table.starts_with("dev-"));
        for line in dependencies.flat_map(str::lines) {
            let is_entry = line.contains(" = ") && !line.starts_with(['#', ' ']);
            // Ours, by its path only: the documentation of a macro uses the crate that re-exports it.
            let is_circle = line.starts_with(r#"axum-taskflow = { path = "../axum-taskflow","#);
            if is_entry && !is_circle && !line.contains("workspace = true") {
                wrong.push(format!("{}: {line}", package.name));
            }
        }
    }

    holds(
        "a dependency stands in the root Cargo.toml with a comment that says why, and crates take it from there",
        &wrong,
    );
}

#[test]
fn in_core_a_file_uses_only_what_stands_above_it() {
    let src = root().join("crates/axum-taskflow-core/src");
    let modules = Modules::of(&src.join("lib.rs"));
    let mut wrong = Vec::new();

    let mut n_named = 0;
    for file in files(&src, ".rs") {
        let own = file.strip_prefix(&src).unwrap();
        let own = own.iter().next().unwrap().to_string_lossy();
        let own = own.trim_end_matches(".rs");
        let Some(place) = modules.place(own) else {
            continue; // lib.rs
        };
        for named in modules.named_by(&file, "crate") {
            n_named += 1;
            if modules.place(&named.module) > Some(place) {
                wrong.push(at(&file, named.line, &named.module));
            }
        }
    }

    assert!(
        n_named > 50,
        "the files were not read: {n_named} uses found"
    );
    holds(
        "in core a file uses only modules whose `mod` line in lib.rs stands above its own",
        &wrong,
    );
}

#[test]
fn in_core_the_services_of_the_engine_meet_in_its_root() {
    let folder = root().join("crates/axum-taskflow-core/src/engine");
    let modules = Modules::of(&folder.join("mod.rs"));
    let leaves = ["records"]; // no services: they hold no task and no loop
    let mut wrong = Vec::new();

    for file in files(&folder, ".rs") {
        if file.ends_with("mod.rs") {
            continue;
        }
        for named in modules.named_by(&file, "super") {
            if !leaves.contains(&&*named.module) {
                wrong.push(at(&file, named.line, &named.module));
            }
        }
    }

    assert!(modules.order.len() > 5, "the engine was not found");
    holds(
        "services of the engine do not know each other: they meet in `Change`, `Task` and channels, tied in engine/mod.rs",
        &wrong,
    );
}

#[test]
fn in_the_sqlite_driver_no_verb_uses_another() {
    let src = root().join("crates/axum-taskflow-sqlite/src");
    let modules = Modules::of(&src.join("lib.rs"));
    let verbs = [
        "apply", "audit", "claim", "counts", "enqueue", "get", "list", "logs", "note", "notes",
        "orphans", "prune", "series",
    ];
    let mut wrong = Vec::new();

    let mut n_verbs = 0;
    for file in files(&src, ".rs") {
        let own = file.file_stem().unwrap().to_string_lossy().into_owned();
        if !verbs.contains(&&*own) {
            continue;
        }
        n_verbs += 1;
        for named in modules.named_by(&file, "crate") {
            let allowed = !verbs.contains(&&*named.module) && named.module != "writer";
            if named.module != own && !allowed {
                wrong.push(at(&file, named.line, &named.module));
            }
        }
    }

    assert!(n_verbs > 5, "the verbs were not found");
    holds(
        "in the SQLite driver the writer and the readers call verbs, and no verb uses another or its caller",
        &wrong,
    );
}

#[test]
fn templates_escape_everything_and_hold_no_script_and_no_style() {
    let root = root();
    let mut templates = files(&root.join("crates/axum-taskflow-dashboard"), ".html");
    templates.extend(files(&root.join("examples"), ".html"));
    let mut wrong = Vec::new();

    assert!(!templates.is_empty(), "no template was found");
    for template in templates {
        let text = fs::read_to_string(&template).unwrap().to_lowercase();
        for (n, line) in text.lines().enumerate() {
            let inline_script = line.contains("<script") && !line.contains(" src=");
            let handler = line.match_indices(" on").any(|(at, _)| {
                let (name, _) = line[at + 1..].split_once('=').unwrap_or_default();
                is_word(name)
            });
            let bad = [
                ("|safe", line.contains("|safe") || line.contains("| safe")),
                ("escape off", line.contains("escape none")),
                ("inline script", inline_script),
                (
                    "inline style",
                    line.contains("<style") || line.contains(" style="),
                ),
                ("event handler", handler),
                ("javascript: link", line.contains("javascript:")),
            ];
            for (what, _) in bad.into_iter().filter(|(_, is_there)| *is_there) {
                wrong.push(at(&template, n + 1, what));
            }
        }
    }

    holds(
        "a template escapes everything, and the page's policy allows no script or style inside it",
        &wrong,
    );
}

#[test]
fn the_pages_script_writes_text_and_never_html() {
    let root = root();
    let scripts = files(&root.join("dashboard-assets"), ".js");
    let mut wrong = Vec::new();

    assert!(!scripts.is_empty(), "no script was found");
    for script in scripts {
        let text = fs::read_to_string(&script).unwrap();
        for (n, line) in text.lines().enumerate() {
            for sink in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
            ] {
                if line.contains(sink) && !line.trim_start().starts_with("//") {
                    wrong.push(at(&script, n + 1, sink));
                }
            }
        }
    }

    holds(
        "the page's script puts what tasks say into text nodes and attributes, and never parses it",
        &wrong,
    );
}

#[test]
fn no_file_names_the_machine_on_which_it_was_written() {
    let root = root();
    // In two parts, so that this file does not find itself.
    let places = [
        ["/ro", "ot/"],
        ["/wo", "rk/main"],
        ["/wo", "rk/shared"],
        ["/tmp/", "wt-"],
        [".cargo/", "registry/src"],
    ]
    .map(|parts| parts.concat());
    let mut wrong = Vec::new();

    let mut n_files = 0;
    for file in files(&root, "") {
        let Ok(text) = fs::read_to_string(&file) else {
            continue; // an image
        };
        n_files += 1;
        for (n, line) in text.lines().enumerate() {
            for place in places.iter().filter(|place| line.contains(&***place)) {
                wrong.push(at(&file, n + 1, place));
            }
        }
    }

    assert!(n_files > 50, "the files were not found: {n_files}");
    holds("no path of a build machine stands in the project", &wrong);
}

#[test]
fn what_is_published_carries_its_licences_and_a_readme() {
    let mut wrong = Vec::new();

    for package in packages().iter().filter(|package| package.is_published) {
        let output = Command::new(env!("CARGO"))
            .args(["package", "--list", "--allow-dirty", "--offline", "-p"])
            .arg(&package.name)
            .current_dir(root())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "cargo package failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let listed = String::from_utf8(output.stdout).unwrap();
        for needed in ["LICENSE-APACHE", "LICENSE-MIT", "README.md"] {
            if !listed.lines().any(|file| file == needed) {
                wrong.push(format!("{}: no {needed}", package.name));
            }
        }
    }

    holds(
        "a published crate carries both licences, which ask for that, and a readme, which is its page at the registry",
        &wrong,
    );
}

struct Package {
    name: String,
    folder: PathBuf,
    is_published: bool,
    /// What it is built from; what only its tests use is left out.
    uses: BTreeSet<String>,
    /// Everything that its manifest names.
    names: BTreeSet<String>,
}

fn packages() -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "cargo metadata failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    let packages: Vec<Package> = packages
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap();
            let name_of = |dependency: &Value| dependency["name"].as_str().unwrap().to_owned();
            let manifest = Path::new(package["manifest_path"].as_str().unwrap());
            Package {
                name: name_of(package),
                folder: manifest.parent().unwrap().to_owned(),
                is_published: package["publish"].is_null(), // an empty list: nowhere
                uses: dependencies
                    .iter()
                    .filter(|dependency| dependency["kind"] != "dev")
                    .map(name_of)
                    .collect(),
                names: dependencies.iter().map(name_of).collect(),
            }
        })
        .collect();
    assert!(packages.len() >= 5, "the crates were not found");
    packages
}

fn holds(rule: &str, wrong: &[String]) {
    assert!(
        wrong.is_empty(),
        "\nthe rule: {rule}\nbroken by:\n  {}\n",
        wrong.join("\n  ")
    );
}

fn at(file: &Path, line: usize, what: &str) -> String {
    let root = root();
    let file = file.strip_prefix(&root).unwrap_or(file);
    format!("{}:{line}: {what}", file.display())
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphabetic())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}
