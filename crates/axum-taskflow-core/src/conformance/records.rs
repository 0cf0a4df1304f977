//! Records: what they say, in which order they are read, and that their versions only grow.

use super::bench::Bench;
use crate::backend::{Becomes, RecordChange, RecordQuery, Step, Stepped};

pub(super) fn put(key: &str, expects: u64, value: &str) -> RecordChange {
    RecordChange {
        key: key.to_owned(),
        expects,
        becomes: Becomes::Value(value.into()),
    }
}

/// Writes a record; its version.
pub(super) async fn written(bench: &Bench<'_>, key: &str, expects: u64, value: &str) -> u64 {
    let mut step = Step::at(bench.now());
    step.records.push(put(key, expects, value));
    match bench.step(step).await {
        Stepped::Done { versions, .. } => versions[0],
        Stepped::Stale => panic!("{key} is not as expected"),
    }
}

async fn names(bench: &Bench<'_>, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
    let query = RecordQuery {
        prefix: prefix.to_owned(),
        after: after.map(str::to_owned),
        limit,
    };
    let records = bench.backend.records(query).await.expect("read");
    records.into_iter().map(|record| record.key).collect()
}

pub(super) async fn a_record_is_kept_as_it_was_written(bench: &Bench<'_>) {
    let values = [
        "",
        "{\"a\": 1}",
        "two\nlines",
        "ß \u{10ffff} \0 +-= 0 1",
        " ",
    ];
    for (n, value) in values.iter().enumerate() {
        written(bench, &n.to_string(), 0, value).await;
    }

    for (n, value) in values.iter().enumerate() {
        let record = bench.record(&n.to_string()).await.expect("it is there");
        assert_eq!(&*record.value, *value);
    }
    let large = "x".repeat(1_000_000);
    let version = bench.record("0").await.expect("it is there").version;
    written(bench, "0", version, &large).await;
    assert_eq!(&*bench.record("0").await.expect("it is there").value, large);
    assert_eq!(bench.record("nothing").await, None);
}

pub(super) async fn a_version_is_larger_than_all_before(bench: &Bench<'_>) {
    let first = written(bench, "a", 0, "1").await;
    let second = written(bench, "b", 0, "1").await;
    let third = written(bench, "a", first, "2").await;
    let mut step = Step::at(bench.now());
    step.records.push(RecordChange {
        key: "a".to_owned(),
        expects: third,
        becomes: Becomes::Gone,
    });
    bench.step(step).await;
    let last = written(bench, "a", 0, "1").await;

    assert!(0 < first && first < second && second < third && third < last);
    assert_eq!(bench.record("a").await.expect("it is there").version, last);
    assert_eq!(
        bench.record("b").await.expect("it is there").version,
        second
    );
}

pub(super) async fn names_of_records_are_compared_byte_for_byte(bench: &Bench<'_>) {
    for (n, key) in ["a", "A", "a ", "ä", "a\u{308}"].iter().enumerate() {
        written(bench, key, 0, &n.to_string()).await;
    }

    for (n, key) in ["a", "A", "a ", "ä", "a\u{308}"].iter().enumerate() {
        assert_eq!(
            &*bench.record(key).await.expect("it is there").value,
            n.to_string()
        );
    }
}

pub(super) async fn records_are_found_by_the_beginning_of_their_names(bench: &Bench<'_>) {
    for key in [
        "s:b",
        "s:a",
        "s",
        "t:a",
        "s:",
        "s;",
        "s:\u{10ffff}",
        "%",
        "_",
    ] {
        written(bench, key, 0, "x").await;
    }

    let found = names(bench, "s:", None, 100).await;

    assert_eq!(found, ["s:", "s:a", "s:b", "s:\u{10ffff}"]);
    assert_eq!(names(bench, "u", None, 100).await, [""; 0]);
    assert_eq!(names(bench, "", None, 100).await.len(), 9);
}

pub(super) async fn records_are_read_in_parts_in_the_order_of_their_names(bench: &Bench<'_>) {
    for key in ["p2", "p1", "p10", "q", "p", "o"] {
        written(bench, key, 0, "x").await;
    }

    assert_eq!(names(bench, "p", None, 2).await, ["p", "p1"]);
    assert_eq!(names(bench, "p", Some("p1"), 2).await, ["p10", "p2"]);
    assert_eq!(names(bench, "p", Some("p2"), 2).await, [""; 0]);
    assert_eq!(names(bench, "p", Some("a"), 1).await, ["p"]);
    assert_eq!(names(bench, "p", Some("z"), 9).await, [""; 0]);
    assert_eq!(names(bench, "p", None, 0).await, [""; 0]);
}
