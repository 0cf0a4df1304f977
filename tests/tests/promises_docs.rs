//! docs/promises.md names tests that exist.

use std::{fs, path::PathBuf};

#[test]
fn every_test_that_the_promises_name_is_there() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/promises.md")).unwrap();

    let named: Vec<(&str, &str)> = page.lines().filter_map(named_test).collect();
    let missing: Vec<String> = named
        .iter()
        .filter(|(test, file)| {
            let code = fs::read_to_string(root.join(file)).unwrap_or_default();
            !code.contains(&format!("fn {test}("))
        })
        .map(|(test, file)| format!("{test} is not in {file}"))
        .collect();

    assert!(missing.is_empty(), "{}", missing.join("\n"));
    assert!(
        named.len() > 20,
        "the form of the page has changed: {named:?}"
    );
}

#[test]
fn every_promise_names_a_test() {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/promises.md");
    let page = fs::read_to_string(page).unwrap();

    for promise in page.split("\n## ").skip(1) {
        let (title, text) = promise.split_once('\n').unwrap_or((promise, ""));
        let held = text.lines().any(|line| named_test(line).is_some());
        assert_eq!(held, title != "What it does not promise", "{title}");
    }
}

/// From a line such as "- `name` in `path`".
fn named_test(line: &str) -> Option<(&str, &str)> {
    let rest = line.strip_prefix("- `")?.strip_suffix('`')?;
    rest.split_once("` in `")
}
