//! The servers beside the one that tests start unless told otherwise.

use std::{env, path::PathBuf, process::Command};

use crate::server::PROGRAM;

/// The oldest Redis that is supported, and Valkey.
const OTHERS: [&str; 2] = ["redis-server", "valkey-server"];

/// Runs the tests of this binary whose names contain `named` again, against each of the other servers that `tests/run`
/// has installed. `except` names the test that calls this, and those that need what these builds do not have: TLS.
///
/// One by one, each in a process of its own: what a server is started from is said by the environment.
///
/// # Panics
///
/// With what they said, if tests fail or none has such a name. If a server is missing and the variable `CI` is `true`; otherwise that is said.
pub fn test_with_others(named: &str, except: &[&str]) {
    if env::var_os(PROGRAM).is_some() {
        return; // somebody has chosen the server, or this is one of those processes
    }
    let this = env::current_exe().expect("a test knows its program");
    let mut failed = Vec::new();
    for name in OTHERS {
        let Some(server) = installed(name) else {
            let missing = format!("{name} is not installed below target/servers: run tests/run");
            assert_ne!(env::var("CI").as_deref(), Ok("true"), "{missing}");
            println!("skipped: {missing}");
            continue;
        };
        let mut tests = Command::new(&this);
        tests.env(PROGRAM, &server).arg(named);
        for test in except {
            tests.args(["--skip", test]);
        }
        let ran = tests.output().expect("a test can be run again");
        let said = String::from_utf8_lossy(&ran.stdout);
        println!("with {}:\n{said}", server.display());
        let none = said.contains("\nrunning 0 tests\n");
        if none || !ran.status.success() {
            println!("{}", String::from_utf8_lossy(&ran.stderr));
            failed.push(name);
        }
    }
    assert!(
        failed.is_empty(),
        "tests fail with {failed:?}, or none is {named:?}"
    );
}

/// Where `tests/run` puts a server: below the folder that this program was built in.
fn installed(name: &str) -> Option<PathBuf> {
    let this = env::current_exe().ok()?;
    let mut places = this
        .ancestors()
        .map(|folder| folder.join("servers/bin").join(name));
    places.find(|place| place.is_file())
}
