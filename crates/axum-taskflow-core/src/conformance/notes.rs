//! What functions say while they run: log lines and progress.

use std::sync::Arc;

use super::bench::{Bench, failed, line};
use crate::{
    backend::{Applied, ListQuery, Note, Said},
    change::{Change, Outcome},
    id::Epoch,
    retry::RetryPolicy,
    task::{LogLevel, LogLine, Progress, Task},
};

async fn say(bench: &Bench<'_>, notes: impl IntoIterator<Item = Note>) {
    let mut batch = bench.batch();
    batch.notes.extend(notes);
    bench.write(batch).await;
}

fn progress(task: &Task, fraction: f64, message: &str) -> Note {
    Note {
        id: task.id,
        epoch: task.life.epoch,
        what: Said::Progress(Progress {
            fraction,
            message: message.to_owned(),
        }),
    }
}

/// A task that runs.
async fn running(bench: &Bench<'_>) -> Task {
    let mut task = bench.owned("f");
    task.requeue_on_interrupt = true;
    bench.add_one(&task).await;
    bench.start(&mut task).await;
    task
}

pub(super) async fn log_lines_come_in_their_order(bench: &Bench<'_>) {
    let (task, other) = (running(bench).await, running(bench).await);
    let texts = ["", "zwei\nLinien", "🦀\0'%", "a"];
    let levels = [
        LogLevel::Debug,
        LogLevel::Info,
        LogLevel::Warn,
        LogLevel::Error,
    ];
    let lines: Vec<LogLine> = (0..)
        .zip(texts.into_iter().zip(levels))
        .map(|(seq, (text, level))| LogLine {
            seq,
            attempt: 1,
            at: bench.now(),
            level,
            message: text.to_owned(),
        })
        .collect();
    let said = |line: &LogLine| Note {
        what: Said::Log(line.clone()),
        ..progress(&task, 0.0, "")
    };

    say(bench, [said(&lines[0]), line(&other, 0, "other")]).await;
    say(bench, lines[1..].iter().map(said)).await;

    assert_eq!(bench.lines(task.id).await, lines);
    assert_eq!(bench.messages(other.id).await, ["other"]);
}

pub(super) async fn log_lines_are_read_in_parts(bench: &Bench<'_>) {
    let task = running(bench).await;
    say(bench, (0..10).map(|n| line(&task, n, &n.to_string()))).await;

    for (skip, limit, expected) in [
        (0, 3, 0..3),
        (3, 3, 3..6),
        (8, 3, 8..10),
        (10, 3, 0..0),
        (usize::MAX, usize::MAX, 0..0),
        (5, usize::MAX, 5..10),
        (2, 0, 0..0),
    ] {
        let lines = bench.backend.logs(task.id, skip, limit).await;
        let seqs: Vec<u32> = lines.expect("lines").iter().map(|line| line.seq).collect();
        assert_eq!(seqs, expected.collect::<Vec<u32>>());
    }
}

pub(super) async fn ten_thousand_log_lines_are_kept(bench: &Bench<'_>) {
    let task = running(bench).await;

    say(bench, (0..10_000).map(|n| line(&task, n, "x"))).await;

    let lines = bench.lines(task.id).await;
    assert_eq!(lines.len(), 10_000);
    assert_eq!(lines[9_999].seq, 9_999);
}

pub(super) async fn a_line_that_is_written_again_is_kept_once(bench: &Bench<'_>) {
    let task = running(bench).await;

    for _ in 0..2 {
        say(bench, [line(&task, 0, "a"), line(&task, 1, "b")]).await;
    }
    say(bench, [line(&task, 1, "b"), line(&task, 2, "c")]).await;

    assert_eq!(bench.messages(task.id).await, ["a", "b", "c"]);
}

pub(super) async fn lines_of_a_repeated_attempt_come_after_those_of_the_first(bench: &Bench<'_>) {
    let mut task = running(bench).await;
    say(bench, [line(&task, 0, "a"), line(&task, 1, "b")]).await;
    bench.finish(&mut task, Outcome::Interrupted("test")).await;
    bench.start(&mut task).await;
    assert_eq!(task.life.attempt, 1, "no attempt was burnt");

    say(bench, [line(&task, 0, "c")]).await;
    bench.fail_and_wait(&mut task).await;
    bench.start(&mut task).await;
    say(bench, [line(&task, 0, "d")]).await;

    assert_eq!(bench.messages(task.id).await, ["a", "b", "c", "d"]);
}

pub(super) async fn progress_replaces_what_was_said_before(bench: &Bench<'_>) {
    let mut task = running(bench).await;

    say(
        bench,
        [progress(&task, 0.25, "rows"), progress(&task, 0.5, "")],
    )
    .await;
    task.progress = Some(Progress {
        fraction: 0.5,
        message: String::new(),
    });
    bench.expect(&task).await;
    say(bench, [progress(&task, 0.125, "again 🦀")]).await;
    bench.succeed(&mut task).await;

    task.progress = Some(Progress {
        fraction: 0.125,
        message: "again 🦀".to_owned(),
    });
    bench.expect(&task).await;
    assert_eq!(bench.walk(ListQuery::default()).await, [task]);
}

pub(super) async fn a_note_of_another_epoch_is_dropped(bench: &Bench<'_>) {
    let mut task = running(bench).await;
    let superseded = task.clone();
    bench.finish(&mut task, Outcome::Interrupted("test")).await;
    bench.start(&mut task).await;
    let mut ahead = task.clone();
    ahead.life.epoch = Epoch::from_u32(3);

    for stranger in [&superseded, &ahead] {
        say(
            bench,
            [line(stranger, 7, "late"), progress(stranger, 1.0, "late")],
        )
        .await;
    }

    bench.expect(&task).await;
    assert_eq!(bench.lines(task.id).await, []);
}

pub(super) async fn a_note_beside_the_end_of_its_attempt_counts(bench: &Bench<'_>) {
    // The whole life in one batch, and what the last attempt said, with its end or after it.
    let mut task = bench.owned("f");
    let mut batch = bench.batch();
    batch.tasks.push(Arc::new(task.clone()));
    let start = Change::started(&task, bench.me, bench.now()).expect("it waits");
    task.life = start.life.clone();
    batch.notes.push(line(&task, 0, "with its end"));
    let policy = RetryPolicy::default();
    let end = Change::finished(&task, failed(), &policy, 0.0, bench.now()).expect("it runs");
    task.life = end.life.clone();
    batch.changes = vec![start, end];
    bench.write(batch).await;

    say(bench, [line(&task, 1, "after it")]).await;

    assert_eq!(bench.messages(task.id).await, ["with its end", "after it"]);
}

pub(super) async fn an_end_that_is_written_again_with_what_was_said_after_it_is_applied(
    bench: &Bench<'_>,
) {
    let mut task = running(bench).await;
    let done = Outcome::Done(Some("7".into()));
    let end = Change::finished(&task, done, &RetryPolicy::default(), 0.0, bench.now());
    let mut end = end.expect("it runs");
    end.is_silent = true; // until then
    task.life = end.life.clone();
    let mut batch = bench.batch();
    batch.changes.push(end);
    batch.notes.push(line(&task, 0, "late"));

    for _ in 0..2 {
        let written = bench.write(batch.clone()).await;
        assert_eq!(written.changes, [Applied::Applied]);
    }

    bench.expect(&task).await;
    assert_eq!(bench.messages(task.id).await, ["late"]);
}

pub(super) async fn a_note_of_a_task_that_is_not_stored_is_dropped(bench: &Bench<'_>) {
    let task = bench.task("f");

    say(bench, [line(&task, 0, "nobody"), progress(&task, 1.0, "")]).await;

    assert_eq!(bench.get(task.id).await, None);
    assert_eq!(bench.lines(task.id).await, []);
    bench.add_one(&task).await;
    bench.expect(&task).await;
    assert_eq!(bench.lines(task.id).await, []);
}
