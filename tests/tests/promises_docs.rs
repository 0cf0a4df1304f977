//! docs/promises.md names tests that exist, and links of the guides name headings that exist.

#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::{
    fs,
    path::{Path, PathBuf},
};

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

/// The site is checked when it is built, and makes another name of some headings than GitHub does.
#[test]
fn each_link_to_a_heading_finds_it_on_github_as_well() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let pages = [root.clone(), root.join("docs"), root.join("docs/internals")];
    let pages: Vec<PathBuf> = pages.iter().flat_map(|folder| pages_in(folder)).collect();
    let mut n_links = 0;

    for page in &pages {
        let text = fs::read_to_string(page).unwrap();
        let links = text
            .split("](")
            .skip(1)
            .filter_map(|it| it.split(')').next());
        for link in links.filter(|link| !link.starts_with("http")) {
            let Some((path, anchor)) = link.split_once('#') else {
                continue;
            };
            let target = match path {
                "" => page.clone(),
                path => page.with_file_name("").join(path),
            };
            let headings = headings(&fs::read_to_string(&target).unwrap());
            assert!(
                headings.iter().any(|it| it == anchor),
                "{}: {link}",
                page.display()
            );
            n_links += 1;
        }
    }

    assert!(n_links > 50, "the form of links has changed: {n_links}");
}

fn pages_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|it| it == "md"))
        .collect()
}

/// What GitHub calls the headings of a page.
fn headings(page: &str) -> Vec<String> {
    let is_kept = |char: &char| char.is_alphanumeric() || ['_', '-', ' '].contains(char);
    let mut in_code = false;
    let headings = page.lines().filter(|line| {
        in_code ^= line.starts_with("```");
        !in_code && line.starts_with('#')
    });
    headings
        .map(|line| line.trim_start_matches('#').trim().to_lowercase())
        .map(|heading| heading.chars().filter(is_kept).collect::<String>())
        .map(|heading| heading.replace(' ', "-"))
        .collect()
}
