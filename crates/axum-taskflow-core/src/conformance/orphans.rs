//! Orphans, as far as they can be staged without a death.

use super::bench::Bench;
use crate::{change::Change, task::Task};

pub(super) async fn tasks_of_a_living_instance_or_of_nobody_are_no_orphans(bench: &Bench<'_>) {
    let (mut running, mut done) = (bench.owned("f"), bench.owned("f"));
    let (waiting, nobodys) = (bench.owned("f"), bench.task("f"));
    bench
        .add(&[running.clone(), done.clone(), waiting, nobodys])
        .await;
    bench.start(&mut running).await;
    bench.start(&mut done).await;
    bench.succeed(&mut done).await;

    for limit in [0, 1, usize::MAX] {
        let orphans = bench.backend.orphans(limit).await.expect("orphans");
        assert_eq!(orphans, []);
    }
}

/// A waiting and a running task of this instance.
async fn two_owned(bench: &Bench<'_>) -> [Task; 2] {
    let (waiting, mut running) = (bench.owned("f"), bench.owned("f"));
    bench
        .add(&[waiting.clone(), running.clone(), bench.task("f")])
        .await;
    bench.start(&mut running).await;
    [waiting, running]
}

async fn orphans(bench: &Bench<'_>, limit: usize) -> Vec<Task> {
    bench.backend.orphans(limit).await.expect("orphans")
}

pub(super) async fn tasks_of_a_superseded_instance_are_orphans(bench: &Bench<'_>) {
    let tasks = two_owned(bench).await;

    bench.supersede(bench.me).await;

    assert_eq!(orphans(bench, 9).await, tasks);
    for task in tasks {
        bench.expect(&task).await;
    }
}

pub(super) async fn what_a_superseded_instance_adds_later_is_orphaned_too(bench: &Bench<'_>) {
    bench.supersede(bench.me).await;
    assert_eq!(orphans(bench, 9).await, []);

    let tasks = two_owned(bench).await;

    assert_eq!(orphans(bench, 9).await, tasks);
}

pub(super) async fn tasks_of_an_instance_that_left_are_orphans(bench: &Bench<'_>) {
    let tasks = two_owned(bench).await;

    bench.backend.leave(bench.me).await.expect("it left");

    assert_eq!(orphans(bench, 9).await, tasks);
}

pub(super) async fn orphans_come_in_parts(bench: &Bench<'_>) {
    let tasks: Vec<Task> = (0..10).map(|_| bench.owned("f")).collect();
    bench.add(&tasks).await;
    bench.supersede(bench.me).await;

    let mut seen = 0;
    loop {
        let part = orphans(bench, 4).await;
        assert!(part.len() <= 4);
        if part.is_empty() {
            break;
        }
        for mut task in part {
            let change = Change::released(&task);
            bench.change(&mut task, change).await;
            seen += 1;
        }
    }

    assert_eq!(seen, 10);
}

pub(super) async fn an_orphan_comes_with_how_far_it_was_however_much_there_is_no_room_for(
    bench: &Bench<'_>,
) {
    let mut running = bench.owned("f");
    bench.add_one(&running).await;
    bench.start(&mut running).await;
    bench.say_half(&mut running).await;
    let owned = || Task {
        life: bench.owned("f").life,
        ..bench.large("f")
    };
    bench.add(&[(); 3].map(|()| owned())).await;
    bench.supersede(bench.me).await;

    assert_eq!(orphans(bench, 9).await[0], running);
}
