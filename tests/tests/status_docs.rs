//! The table of statuses in the docs is the one in the code. `UPDATE_DOCS=1` prints it again.

use std::{fmt::Write, fs, path::PathBuf};

use axum_taskflow::{Cause, TaskStatus};

const BEGIN: &str = "<!-- printed from the code: begin -->\n";
const END: &str = "<!-- printed from the code: end -->";

#[test]
fn the_docs_show_the_status_table_of_the_code() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/internals/statuses.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page
        .split_once(BEGIN)
        .expect("the page has the first marker");
    let (shown, after) = rest
        .split_once(END)
        .expect("the page has the second marker");
    let printed = printed();

    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{printed}{END}{after}")).unwrap();
        return;
    }

    assert_eq!(
        shown, printed,
        "docs/internals/statuses.md differs from TaskStatus::on: run this test with UPDATE_DOCS=1"
    );
}

fn printed() -> String {
    format!("\n{}\n{}\n{}\n", diagram(), table(), kinds())
}

/// One line for each way from a status to another.
fn diagram() -> String {
    let mut text = "```text\n".to_owned();
    for from in TaskStatus::ALL {
        for to in TaskStatus::ALL {
            let causes: Vec<String> = Cause::ALL
                .into_iter()
                .filter(|cause| from.on(*cause) == Ok(to))
                .map(|cause| format!("{cause:?}"))
                .collect();
            if !causes.is_empty() {
                let causes = format!("{} ", causes.join(", "));
                writeln!(text, "{from:<8} ── {causes:─<20}──▶ {to}").expect("a string takes all");
            }
        }
    }
    text + "```\n"
}

/// Every pair of a status that can change and a cause.
fn table() -> String {
    let live = || {
        TaskStatus::ALL
            .into_iter()
            .filter(|status| !status.is_terminal())
    };
    let mut text = "| cause |".to_owned();
    live().for_each(|status| write!(text, " on `{status}` |").expect("a string takes all"));
    text += "\n|---|";
    live().for_each(|_| text += "---|");
    for cause in Cause::ALL {
        write!(text, "\n| `{cause:?}` |").expect("a string takes all");
        for status in live() {
            match status.on(cause) {
                Ok(to) => write!(text, " `{to}` |").expect("a string takes all"),
                Err(_) => text += " refused |",
            }
        }
    }
    text + "\n"
}

/// What else a status says.
fn kinds() -> String {
    let yes = |yes| if yes { "yes" } else { "no" };
    let mut text =
        "| status | is the end | `retry` makes a new task of it |\n|---|---|---|\n".to_owned();
    for status in TaskStatus::ALL {
        let ends = Cause::ALL
            .into_iter()
            .all(|cause| status.on(cause).is_err());
        assert_eq!(ends, status.is_terminal(), "{status}");
        let (ends, again) = (yes(ends), yes(status.can_be_retried()));
        writeln!(text, "| `{status}` | {ends} | {again} |").expect("a string takes all");
    }
    text
}
