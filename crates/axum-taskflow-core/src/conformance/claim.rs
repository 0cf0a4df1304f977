//! Claims: which tasks, in which order, and for whom.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::bench::{Bench, ids};
use crate::{
    backend::{Applied, ListQuery, Reserve, Turn},
    change::Change,
    clock::Timestamp,
    id::TaskId,
    task::Task,
};

const SECOND: Duration = Duration::from_secs(1);

pub(super) async fn a_claimed_task_belongs_to_the_claimer(bench: &Bench<'_>) {
    let mut task = bench.keyed("k", SECOND);
    task.tags.insert("a".to_owned(), "b".to_owned());
    task.priority = 5;
    bench.add_one(&task).await;

    let claimed = bench.claim(&["f"], 9).await.tasks;

    task.life = task.life.begun(task.id, bench.me, bench.now());
    assert_eq!(claimed, [task.clone()]);
    bench.expect(&task).await;
}

pub(super) async fn a_claim_that_is_older_than_a_task_begins_it_when_it_was_created_unless_clocks_differ(
    bench: &Bench<'_>,
) {
    for (late_ms, begins_ms) in [(100, 0), (101, 101)] {
        let mut task = bench.task("f");
        let mut claim = bench.claim_of(&["f"], 9);
        claim.now = bench.now().saturating_sub(Duration::from_millis(late_ms));
        task.life.run_at = claim.now;
        bench.add_one(&task).await;

        let claimed = bench.backend.claim(claim).await.expect("claimed").tasks;

        let begins = Duration::from_millis(begins_ms);
        task.life = task.life.begun(task.id, bench.me, bench.now());
        task.life.started_at = Some(task.created_at().saturating_sub(begins));
        assert_eq!(claimed, [task.clone()]);
        bench.expect(&task).await;
    }
}

pub(super) async fn a_claimed_task_can_end(bench: &Bench<'_>) {
    bench.add_one(&bench.task("f")).await;
    let mut claimed = bench.claim(&["f"], 9).await.tasks;
    let mut task = claimed.remove(0);

    bench.succeed(&mut task).await;

    bench.expect(&task).await;
    let one = (("f".to_owned(), task.life.status), 1);
    assert_eq!(bench.counts().await, [one].into());
}

pub(super) async fn what_a_process_died_of_is_claimed_and_not_begun(bench: &Bench<'_>) {
    let (mut suspect, mut innocent) = (bench.owned("f"), bench.task("f"));
    suspect.requeue_on_interrupt = true;
    bench.add(&[suspect.clone(), innocent.clone()]).await;
    bench.start(&mut suspect).await;
    let change = Change::crashed(&suspect, "it died", 9, bench.now(), bench.now());
    bench.change(&mut suspect, change).await;
    bench.advance(SECOND);

    let claimed = bench.claim(&["f"], 9).await.tasks;

    suspect.life.owner = Some(bench.me);
    innocent.life = innocent.life.begun(innocent.id, bench.me, bench.now());
    let without_attempts = Task {
        past_attempts: Vec::new(),
        ..suspect.clone()
    };
    let by_id = |tasks: Vec<Task>| -> BTreeMap<TaskId, Task> {
        tasks.into_iter().map(|task| (task.id, task)).collect()
    };
    let wanted = by_id(vec![without_attempts, innocent.clone()]);
    assert_eq!(by_id(claimed), wanted);
    bench.expect(&suspect).await;
    bench.expect(&innocent).await;
}

pub(super) async fn a_task_is_claimed_once(bench: &Bench<'_>) {
    bench.add_one(&bench.task("f")).await;
    assert_eq!(bench.claim(&["f"], 9).await.tasks.len(), 1);

    assert_eq!(bench.claim(&["f"], 9).await.tasks, []);
    bench.advance(SECOND);
    assert_eq!(bench.claim(&["f"], 9).await.tasks, []);
}

pub(super) async fn what_a_claim_leaves_out_waits_for_somebody_else(bench: &Bench<'_>) {
    let tasks: Vec<Task> = (0..6).map(|_| bench.task("f")).collect();
    bench.add(&tasks).await;
    let mut claim = bench.claim_of(&["f"], 2);
    claim.except = Arc::new([0, 1, 3].map(|n: usize| tasks[n].id).into());

    let first = bench.backend.claim(claim.clone()).await.expect("claimed");
    let second = bench.backend.claim(claim).await.expect("claimed");
    let others = bench.claim(&["f"], 9).await;

    assert_eq!(ids(&first.tasks), [tasks[2].id, tasks[4].id]);
    assert_eq!(ids(&second.tasks), [tasks[5].id]);
    assert_eq!(ids(&others.tasks), [tasks[0].id, tasks[1].id, tasks[3].id]);
}

pub(super) async fn a_superseded_instance_claims_nothing(bench: &Bench<'_>) {
    let task = bench.task("f");
    bench.add_one(&task).await;

    bench.supersede(bench.me).await;

    assert_eq!(bench.claim(&["f"], 9).await.tasks, []);
    bench.expect(&task).await;
}

pub(super) async fn claimers_at_once_share_what_waits(bench: &Bench<'_>) {
    let tasks: Vec<Task> = (0..500).map(|_| bench.task("f")).collect();
    bench.add(&tasks).await;
    let mut claimers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (backend, mut claim) = (bench.backend.clone(), bench.claim_of(&["f"], 7));
        claim.owner = bench.peer().await;
        claimers.spawn(async move {
            let mut mine = Vec::new();
            loop {
                let claimed = backend.claim(claim.clone()).await.expect("claimed").tasks;
                if claimed.is_empty() {
                    return (claim.owner, mine);
                }
                mine.extend(ids(&claimed));
            }
        });
    }

    let shares = claimers.join_all().await;

    let all: Vec<TaskId> = shares.iter().flat_map(|(_, mine)| mine.clone()).collect();
    assert_eq!(all.len(), 500);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 500);
    for (owner, mine) in shares {
        for id in mine {
            let stored = bench.get(id).await.expect("it is stored");
            assert_eq!(stored.life.owner, Some(owner));
        }
    }
}

/// Tasks of two functions in the order in which they are to run, due at different times up to now. They were created
/// in another order; only the two that are alike in priority and time are told apart by it.
fn in_order(bench: &Bench<'_>) -> Vec<Task> {
    let earlier = |ms| bench.now().saturating_sub(Duration::from_millis(ms));
    let created: Vec<Task> = (0..10).map(|_| bench.task("f")).collect();
    let mut tasks: Vec<Task> = [9, 8, 7, 1, 2, 6, 5, 0, 4, 3]
        .map(|n: usize| created[n].clone())
        .into();
    let places = [
        (i32::MAX, 0, "f"),
        (7, 2_000, "g"),
        (7, 1, "f"),
        (7, 0, "g"),
        (7, 0, "f"),
        (1, 500, "f"),
        (0, 60_000, "f"),
        (0, 0, "g"),
        (-1, 90_000, "g"),
        (i32::MIN, 100_000, "f"),
    ];
    for (task, (priority, ago_ms, name)) in tasks.iter_mut().zip(places) {
        task.priority = priority;
        task.life.run_at = earlier(ago_ms);
        task.name = name.into();
    }
    tasks
}

pub(super) async fn higher_priority_goes_first_then_earlier_then_older(bench: &Bench<'_>) {
    let tasks = in_order(bench);
    let mut shuffled = tasks.clone();
    shuffled.rotate_left(4);
    shuffled.swap(0, 5);
    shuffled.swap(2, 9);
    bench.add(&shuffled).await;

    assert_eq!(bench.claim_ids(&["g", "f"], 100).await, ids(&tasks));
}

pub(super) async fn the_order_holds_from_one_claim_to_the_next(bench: &Bench<'_>) {
    let tasks = in_order(bench);
    let mut backwards = tasks.clone();
    backwards.reverse();
    bench.add(&backwards).await;

    let mut claimed = Vec::new();
    for limit in [1, 3, 2, 1, 3, 1] {
        claimed.extend(bench.claim_ids(&["f", "g"], limit).await);
    }

    assert_eq!(claimed, ids(&tasks));
}

pub(super) async fn a_claim_leaves_room_for_what_its_owner_holds(bench: &Bench<'_>) {
    let tasks = in_order(bench);
    bench.add(&tasks).await;
    let claimed = async |limit, from: usize, n| {
        let mut claim = bench.claim_of(&["f", "g"], limit);
        let from = Turn::of(&tasks[from]);
        claim.reserve = Some(Reserve { from, n });
        claim.except = Arc::new([tasks[4].id].into());
        let claimed = bench.backend.claim(claim).await.expect("claimed");
        (ids(&claimed.tasks), claimed.next_turn)
    };
    let turn = |n: usize| Some(Turn::of(&tasks[n]));

    assert_eq!(claimed(9, 0, 9).await, (vec![], turn(0)));
    assert_eq!(claimed(9, 0, usize::MAX).await, (vec![], turn(0)));
    assert_eq!(claimed(2, 3, 9).await, (ids(&tasks[..2]), None));
    assert_eq!(claimed(2, 2, 1).await, (ids(&tasks[2..3]), turn(3)));
    assert_eq!(claimed(9, 4, 9).await, (ids(&tasks[3..4]), turn(5)));
    assert_eq!(claimed(0, 5, 9).await, (vec![], None));
    assert_eq!(claimed(3, 6, 1).await, (ids(&tasks[5..7]), turn(7)));
    assert_eq!(claimed(9, 5, 2).await, (ids(&tasks[7..]), None));
    assert_eq!(claimed(9, 0, 9).await, (vec![], None));
}

pub(super) async fn a_claim_that_brings_fewer_than_it_could_says_so(bench: &Bench<'_>) {
    for (n, bytes) in [(1_100, 1), (3, 3 << 20)] {
        let args = Arc::from(format!("[\"{}\"]", "x".repeat(bytes)));
        let task = || Task::new(bench.task("f").id, "f", Arc::clone(&args));
        let tasks: Vec<Task> = std::iter::repeat_with(task).take(n).collect();
        for part in tasks.chunks(500) {
            bench.add(part).await;
        }
        let mut left = &tasks[..];
        while !left.is_empty() {
            let claimed = bench.claim(&["f"], 2_000).await;

            let n = claimed.tasks.len();
            assert!(n > 0 && n <= left.len());
            let (brought, rest) = left.split_at(n);
            assert_eq!(ids(&claimed.tasks), ids(brought));
            let says_so = |first| {
                claimed
                    .next_turn
                    .is_some_and(|turn| turn <= Turn::of(first))
            };
            assert!(rest.first().is_none_or(says_so));
            left = rest;
        }
    }
}

pub(super) async fn a_claim_brings_how_far_a_task_was_however_much_it_has_no_room_for(
    bench: &Bench<'_>,
) {
    let mut task = bench.owned("f");
    task.priority = 9;
    bench.add_one(&task).await;
    bench.start(&mut task).await;
    bench.say_half(&mut task).await;
    bench.fail_and_wait(&mut task).await;
    bench.advance(SECOND);
    bench.add(&[(); 3].map(|()| bench.large("f"))).await;

    let claimed = bench.claim(&["f"], 9).await;

    assert_eq!(claimed.tasks[0].id, task.id);
    assert_eq!(claimed.tasks[0].progress, task.progress);
}

pub(super) async fn a_task_is_not_claimed_before_its_time(bench: &Bench<'_>) {
    let mut task = bench.task("f");
    task.priority = 9;
    task.life.run_at = bench.after(SECOND);
    bench.add_one(&task).await;

    bench.advance(Duration::from_millis(999));
    assert_eq!(bench.claim(&["f"], 9).await.tasks, []);
    bench.advance(Duration::from_millis(1));

    assert_eq!(bench.claim_ids(&["f"], 9).await, [task.id]);
}

pub(super) async fn a_task_at_the_end_of_time_waits(bench: &Bench<'_>) {
    let mut task = bench.task("f");
    task.life.run_at = Timestamp::MAX;
    bench.add_one(&task).await;

    let claimed = bench.claim(&["f"], 9).await;

    assert_eq!(
        (claimed.tasks, claimed.next_due),
        (vec![], Some(Timestamp::MAX))
    );
    bench.expect(&task).await;
}

pub(super) async fn only_tasks_that_wait_and_belong_to_nobody_are_claimed(bench: &Bench<'_>) {
    let mut tasks: Vec<Task> = (0..5).map(|_| bench.task("f")).collect();
    tasks[0].life.owner = Some(bench.me);
    tasks[1].life.owner = Some(bench.stranger());
    bench.add(&tasks).await;
    bench.start(&mut tasks[2]).await;
    bench.start(&mut tasks[3]).await;
    bench.succeed(&mut tasks[3]).await;
    bench.cancel(&mut tasks[4]).await;

    let claimed = bench.claim(&["f"], 9).await;

    assert_eq!((claimed.tasks, claimed.next_due), (vec![], None));
    for task in &tasks {
        bench.expect(task).await;
    }
}

pub(super) async fn a_task_that_was_let_go_is_claimed_again(bench: &Bench<'_>) {
    let mut owned = bench.owned("f");
    bench.add_one(&owned).await;

    for _ in 0..3 {
        let change = Change::released(&owned);
        bench.change(&mut owned, change).await;
        let claimed = bench.claim(&["f"], 9).await.tasks;
        owned.life = owned.life.begun(owned.id, bench.me, bench.now());
        assert_eq!(claimed, [owned.clone()]);
    }
}

pub(super) async fn what_was_let_go_together_is_claimed_but_not_what_had_come_further(
    bench: &Bench<'_>,
) {
    let (later, mut begun, now) = (bench.after(SECOND), bench.owned("f"), bench.owned("f"));
    let mut ahead = bench.owned("f");
    ahead.life.run_at = later;
    bench
        .add(&[begun.clone(), now.clone(), ahead.clone()])
        .await;
    let mut batch = bench.batch();
    let released = [&begun, &now, &ahead].map(|task| Change::released(task).expect("it may be"));
    batch.changes.extend(released);
    bench.start(&mut begun).await;

    let written = bench.write(batch).await;

    let (done, stale) = (Applied::Applied, Applied::Stale);
    assert_eq!(written.changes, [stale, done, done]);
    let claimed = bench.claim(&["f"], 9).await;
    assert_eq!(
        (ids(&claimed.tasks), claimed.next_due),
        (vec![now.id], Some(later))
    );
    bench.advance(SECOND);
    assert_eq!(bench.claim_ids(&["f"], 9).await, [ahead.id]);
}

pub(super) async fn a_task_that_waits_again_keeps_its_priority(bench: &Bench<'_>) {
    let mut tasks = in_order(bench);
    for task in &mut tasks {
        task.life.owner = Some(bench.me);
        task.life.run_at = task.life.run_at.saturating_add(SECOND * 50); // some are due, some are not
    }
    bench.add(&tasks).await;
    let mut batch = bench.batch();
    let released = tasks.iter().map(Change::released);
    batch
        .changes
        .extend(released.map(|change| change.expect("it may be")));

    bench.write(batch).await;
    bench.advance(SECOND * 50);

    let mut claimed = bench.claim(&["f", "g"], 100).await.tasks;
    assert_eq!(ids(&claimed), ids(&tasks));
    for task in &mut claimed {
        bench.fail_and_wait(task).await; // for as long as the others
    }
    bench.advance(SECOND);
    tasks.sort_by_key(|task| (Reverse(task.priority), task.id));
    assert_eq!(bench.claim_ids(&["f", "g"], 100).await, ids(&tasks));
}

pub(super) async fn a_task_between_two_attempts_is_claimed_when_it_is_due(bench: &Bench<'_>) {
    let (mut retried, mut held) = (bench.owned("f"), bench.owned("f"));
    bench.add(&[retried.clone(), held.clone()]).await;
    bench.start(&mut retried).await;
    bench.fail_and_wait(&mut retried).await;
    let change = Change::held(&held, "no", bench.after(SECOND * 2));
    bench.change(&mut held, change).await;

    let early = bench.claim(&["f"], 9).await;
    assert_eq!(
        (early.tasks, early.next_due),
        (vec![], Some(retried.life.run_at))
    );
    bench.advance(SECOND);
    let claimed = bench.claim(&["f"], 9).await;
    let claimed_life = retried.life.begun(retried.id, bench.me, bench.now());
    assert_eq!(claimed.next_due, Some(held.life.run_at));
    bench.advance(SECOND);

    assert_eq!(bench.claim_ids(&["f"], 9).await, [held.id]);
    retried.life = claimed_life;
    retried.past_attempts.clear();
    assert_eq!(claimed.tasks, [retried]);
}

pub(super) async fn functions_that_are_not_named_are_not_touched(bench: &Bench<'_>) {
    let names = [
        "f", "F", "ff", "", "f ", "f_", "f%", "*", "é", "e\u{301}", "f\0",
    ];
    let tasks: Vec<Task> = names.iter().map(|name| bench.task(name)).collect();
    bench.add(&tasks).await;

    assert_eq!(bench.claim(&["unknown", "_", "%"], 99).await.tasks, []);
    for (name, task) in names.iter().zip(&tasks) {
        assert_eq!(
            bench.claim_ids(&[name, "unknown", name], 99).await,
            [task.id]
        );
    }
}

pub(super) async fn no_names_or_no_limit_claim_nothing(bench: &Bench<'_>) {
    let task = bench.task("f");
    let mut ahead = bench.task("f");
    ahead.life.run_at = bench.after(SECOND);
    bench.add(&[task.clone(), ahead.clone()]).await;

    for claimed in [bench.claim(&["f"], 0).await, bench.claim(&[], 9).await] {
        assert_eq!(claimed.tasks, []);
        assert_eq!(claimed.next_due, Some(ahead.life.run_at));
    }

    bench.expect(&task).await;
    assert_eq!(bench.claim_ids(&["f"], usize::MAX).await, [task.id]);
}

pub(super) async fn two_thousand_names_are_not_too_many(bench: &Bench<'_>) {
    let names: Vec<String> = (0..2_000).map(|n| format!("function_{n}")).collect();
    let names: Vec<&str> = names.iter().map(|name| &**name).collect();
    let mut tasks = [names[0], names[0], names[1_999]].map(|name| bench.task(name));
    for task in &mut tasks {
        task.life.run_at = bench.after(SECOND); // a store may move them then, a part at a time
    }
    bench.add(&tasks).await;
    bench.advance(SECOND);

    assert_eq!(bench.claim_ids(&names, 9).await, ids(&tasks));
}

pub(super) async fn next_due_is_the_earliest_time_ahead_of_any_function(bench: &Bench<'_>) {
    let next_due = async || bench.claim(&["f"], 0).await.next_due;
    assert_eq!(next_due().await, None);
    let mut tasks: Vec<Task> = (0..5).map(|_| bench.task("g")).collect();
    for (n, task) in tasks.iter_mut().enumerate() {
        task.life.run_at = bench.after(SECOND * n as u32);
        task.priority = n as i32;
    }
    tasks[1].life.owner = Some(bench.me);
    bench.add(&tasks).await;

    // Number 0 is due already, number 1 belongs to somebody.
    assert_eq!(next_due().await, Some(tasks[2].life.run_at));
    bench.cancel(&mut tasks[2]).await;
    assert_eq!(next_due().await, Some(tasks[3].life.run_at));
    bench.advance(SECOND * 3);
    assert_eq!(next_due().await, Some(tasks[4].life.run_at));
    bench.advance(SECOND);
    assert_eq!(next_due().await, None);
    assert_eq!(bench.claim(&["g"], 9).await.tasks.len(), 3);
}

pub(super) async fn a_clock_that_is_set_back_claims_nothing_early(bench: &Bench<'_>) {
    let mut tasks: Vec<Task> = (0..3).map(|_| bench.task("f")).collect();
    tasks[1].life.run_at = bench.after(SECOND);
    tasks[2].life.run_at = bench.after(SECOND * 2);
    tasks[2].priority = 1;
    bench.add(&tasks).await;
    let mut later = bench.claim_of(&[], 9);
    later.now = bench.after(SECOND * 9);
    let claimed = bench.backend.claim(later).await.expect("claimed");
    assert_eq!(claimed.next_due, None);

    let claimed = bench.claim(&["f"], 9).await;

    assert_eq!(ids(&claimed.tasks), [tasks[0].id]);
    assert_eq!(claimed.next_due, Some(tasks[1].life.run_at));
    bench.advance(SECOND * 2);
    assert_eq!(bench.claim_ids(&["f"], 9).await, [tasks[2].id, tasks[1].id]);
    assert_eq!(bench.walk(ListQuery::default()).await.len(), 3);
}
