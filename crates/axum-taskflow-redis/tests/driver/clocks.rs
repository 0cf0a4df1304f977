//! Clocks of callers that differ: by milliseconds they always do.

use std::{sync::Arc, time::Duration};

use crate::support::{NOW, Store, cpu_time, patient};
use axum_taskflow_core::{Backend, Claim, Timestamp};
use servers::RedisServer;

const N_CLAIMS: u32 = 20;

struct Backlog {
    server: RedisServer,
    store: Store,
    names: Arc<[Arc<str>]>,
}

impl Backlog {
    /// So many tasks of each of so many functions are due.
    async fn with(n_functions: usize, n_each: usize) -> Self {
        let server = RedisServer::start();
        let store = Store::open(patient(server.url())).await;
        let names = (0..n_functions).map(|n| format!("f{n}").into());
        let names: Arc<[Arc<str>]> = names.collect();
        for name in &*names {
            let task = || {
                let mut task = store.task();
                task.name = name.clone();
                task
            };
            store
                .add_all(&(0..n_each).map(|_| task()).collect::<Vec<_>>())
                .await;
        }
        Self {
            server,
            store,
            names,
        }
    }

    async fn claim(&self, limit: usize, now: Timestamp) -> usize {
        let claim = Claim {
            owner: self.store.me,
            names: self.names.clone(),
            except: Arc::default(),
            limit,
            now,
            reserve: None,
        };
        self.store.backend.claim(claim).await.unwrap().tasks.len()
    }

    /// What a claim of one task costs the server.
    async fn cost(&self) -> Duration {
        let before = cpu_time(&self.server);
        for _ in 0..N_CLAIMS {
            assert_eq!(self.claim(1, NOW).await, 1);
        }
        (cpu_time(&self.server) - before) / N_CLAIMS
    }
}

#[tokio::test]
async fn a_claim_costs_about_the_same_after_one_by_a_clock_that_is_ahead() {
    for (n_functions, n_each, times) in [(10, 1_500, 10), (200, 150, 5)] {
        let backlog = Backlog::with(n_functions, n_each).await;
        backlog.claim(1, NOW).await; // the server knows the script
        let before = backlog.cost().await;

        backlog
            .claim(1, NOW.saturating_add(Duration::from_millis(1)))
            .await;

        let after = backlog.cost().await;
        println!("{n_functions} functions: {before:?}, and {after:?}");
        assert!(after < before * times, "{before:?}, and {after:?}");
    }
}

#[tokio::test]
async fn what_is_due_is_claimed_however_many_are_ahead_by_a_clock_that_is_late() {
    let backlog = Backlog::with(1, 0).await;
    let hour = Duration::from_secs(3_600);
    let task = |priority, run_at| {
        let mut task = backlog.store.task();
        task.name = backlog.names[0].clone();
        (task.priority, task.life.run_at) = (priority, run_at);
        task
    };
    let later = NOW.saturating_add(hour);
    let ahead: Vec<_> = (0..500).map(|_| task(9, later)).collect();
    backlog.store.add_all(&ahead).await;
    let due: Vec<_> = (0..3).map(|_| task(0, NOW)).collect();
    backlog.store.add_all(&due).await;
    assert_eq!(backlog.claim(1, later).await, 1, "an urgent one");

    assert_eq!(backlog.claim(2, NOW).await, 2);
    assert_eq!(backlog.claim(9, NOW).await, 1);
    assert_eq!(backlog.claim(9, NOW).await, 0);
}

#[tokio::test]
async fn the_time_of_a_clock_that_was_ahead_is_forgotten_when_nothing_is_left_of_it() {
    let backlog = Backlog::with(10, 1).await;
    let year = Duration::from_secs(31_536_000);
    backlog.claim(1, NOW.saturating_add(year)).await;

    while backlog.claim(9, NOW).await > 0 {}

    let latest = backlog.server.command(&["GET", "{taskflow}:h"]);
    assert_eq!(latest, NOW.as_unix_ms().to_string());
}

#[test]
fn other_servers_do_the_same() {
    servers::test_with_others("clocks::", &["other_servers_do_the_same"]);
}
