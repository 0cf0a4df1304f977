//! What waits for its time.

use std::time::Duration;

use super::bench::{Bench, ids};
use crate::{backend::AheadQuery, change::Outcome, task::Task};

impl Bench<'_> {
    fn ahead_between(&self, after_s: u64, before_s: u64) -> AheadQuery {
        AheadQuery {
            after: self.after(Duration::from_secs(after_s)),
            ..AheadQuery::until(self.after(Duration::from_secs(before_s)))
        }
    }

    /// All pages of a query.
    pub(super) async fn ahead(&self, mut query: AheadQuery) -> Vec<Task> {
        let mut tasks = Vec::new();
        loop {
            let page = self.backend.ahead(query.clone()).await;
            let page = page.expect("what waits can be read");
            assert!(page.tasks.len() <= query.limit, "a page has its limit");
            tasks.extend(page.tasks);
            assert!(tasks.len() <= 1_000, "no page is given again");
            match page.next {
                Some(next) => query.from = Some(next),
                None => return tasks,
            }
        }
    }

    /// Stores a task that waits for its time.
    async fn later(&self, name: &str, after_s: u64) -> Task {
        let mut task = self.task(name);
        task.life.run_at = self.after(Duration::from_secs(after_s));
        self.add_one(&task).await;
        task
    }
}

pub(super) async fn what_waits_for_its_time_is_found_between_two_moments(bench: &Bench<'_>) {
    let mut tasks = Vec::new();
    for (name, after_s) in [("f", 40), ("g", 10), ("f", 20), ("h", 30), ("f", 50)] {
        tasks.push(bench.later(name, after_s).await);
        bench.add_one(&bench.task(name)).await; // due: not ahead
    }
    tasks.sort_by_key(|task| task.life.run_at);

    assert_eq!(bench.ahead(bench.ahead_between(0, 1_000)).await, tasks);
    assert_eq!(bench.ahead(bench.ahead_between(10, 50)).await, tasks[1..4]);
    assert_eq!(bench.ahead(bench.ahead_between(50, 1_000)).await, []);
    assert_eq!(bench.ahead(bench.ahead_between(30, 30)).await, []);
    assert_eq!(bench.ahead(bench.ahead_between(40, 10)).await, []);
}

pub(super) async fn what_waits_for_its_time_is_read_in_pages(bench: &Bench<'_>) {
    let mut tasks = Vec::new();
    for n in 0..30_i32 {
        let mut task = bench.task(["f", "g", "h"][n as usize % 3]);
        task.life.run_at = bench.after(Duration::from_secs(u64::from(n.unsigned_abs()) % 4 + 1));
        task.priority = n % 5 - 2;
        task.args = format!("[\"{}\"]", "x".repeat(100)).into();
        tasks.push(task);
    }
    bench.add(&tasks).await;
    let sorted = |tasks: &[Task]| {
        let mut ids = ids(tasks);
        ids.sort_unstable();
        ids
    };

    for limit in [1, 7, 10, 29, 30, 31] {
        let mut query = bench.ahead_between(0, 1_000);
        (query.limit, query.payload_max) = (limit, 10);
        let found = bench.ahead(query).await;

        let times: Vec<_> = found.iter().map(|task| task.life.run_at).collect();
        assert!(times.is_sorted(), "{limit}: {times:?}");
        assert_eq!(sorted(&found), sorted(&tasks), "{limit}");
        assert!(found.iter().all(|task| task.args.len() <= 10), "{limit}");
    }
    let mut none = bench.ahead_between(0, 1_000);
    none.limit = 0;
    let page = bench.backend.ahead(none).await.expect("it can be read");
    assert_eq!(page.tasks, []);
}

pub(super) async fn what_has_ended_begun_or_is_held_does_not_wait(bench: &Bench<'_>) {
    let [stays, mut begins, mut ends] = [
        bench.later("f", 10).await,
        bench.later("f", 20).await,
        bench.later("f", 30).await,
    ];
    let mut held = bench.owned("f");
    held.life.run_at = bench.after(Duration::from_secs(40));
    bench.add_one(&held).await;
    bench.start(&mut begins).await;
    bench.finish(&mut ends, Outcome::Cancelled).await;

    assert_eq!(bench.ahead(bench.ahead_between(0, 1_000)).await, [stays]);
}

pub(super) async fn a_place_that_no_page_has_named_is_refused(bench: &Bench<'_>) {
    for from in ["", "x", "1.x", "\u{1f4a5}", "99999999999999999999.y"] {
        let mut query = bench.ahead_between(0, 1_000);
        query.from = Some(from.to_owned());

        let refused = bench.backend.ahead(query).await;

        assert!(refused.is_err_and(|error| error.is_refused()), "{from:?}");
    }
}
