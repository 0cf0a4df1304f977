//! Claims that are not answered: what they took is brought by the next ones, and nothing that was brought before.

use std::{sync::Arc, time::Duration};

use axum_taskflow_core::{
    Backend, Batch, Claim, IdSource, Instance, InstanceId, Task, TaskId, Timestamp,
};
use axum_taskflow_redis::{Redis, RedisOptions};
use servers::{Proxy, RedisServer};

const NOW: Timestamp = Timestamp::from_unix_ms(1_000_000);

struct Bench {
    server: RedisServer,
    proxy: Proxy,
    store: Redis,
    me: InstanceId,
    added: Vec<TaskId>,
}

impl Bench {
    /// A store that holds so many tasks.
    async fn with(n: usize) -> Self {
        let server = RedisServer::start();
        let proxy = Proxy::to(&server.address());
        let options = RedisOptions::new(proxy.url(&server.url()))
            .lease(Duration::from_secs(600))
            .deadline(Duration::from_millis(500));
        let store = options.open().await.unwrap();
        let ids = IdSource::default();
        let me = ids.instance(NOW);
        store.join(Instance::new(me, NOW)).await.unwrap();
        let mut batch = Batch::at(NOW);
        let tasks = (0..n).map(|_| Task::new(ids.task(NOW), "f", "[]"));
        batch.tasks = tasks.map(Arc::new).collect();
        let added = batch.tasks.iter().map(|task| task.id).collect();
        store.write(Arc::new(batch)).await.unwrap();
        Self {
            server,
            proxy,
            store,
            me,
            added,
        }
    }

    fn request(&self, limit: usize) -> Claim {
        Claim {
            owner: self.me,
            names: Arc::new(["f".into()]),
            except: Arc::default(),
            limit,
            now: NOW,
            reserve: None,
        }
    }

    /// The places of what is claimed among what was added; nothing if there is no answer.
    async fn claim(&self, limit: usize) -> Option<Vec<usize>> {
        let tasks = self.store.claim(self.request(limit)).await.ok()?.tasks;
        let place = |task: &Task| self.added.iter().position(|id| *id == task.id).unwrap();
        let mut places: Vec<usize> = tasks.iter().map(place).collect();
        places.sort_unstable();
        Some(places)
    }

    fn n_begun(&self) -> usize {
        let begun = ["HGET", "{taskflow}:c", "running f"];
        let n = self.server.command(&begun);
        n.parse().unwrap_or(0) // nothing: none
    }

    /// A claim that the server carries out, and whose answer nobody waits for any more.
    async fn claim_in_vain(&self, limit: usize) {
        // A server that does not know the script yet would only say so.
        assert_eq!(self.claim(0).await, Some(vec![]));
        let n_before = self.n_begun();
        self.server.stop();
        assert_eq!(self.claim(limit).await, None);
        self.server.cont();
        assert_eq!(self.n_begun(), n_before + limit);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_claim_took_whose_answer_was_lost_is_brought_by_the_next_ones_once() {
    let bench = Bench::with(5).await;
    bench.claim_in_vain(3).await;

    let mut brought = Vec::new();
    for _ in 0..4 {
        brought.extend(bench.claim(2).await.unwrap());
    }

    brought.sort_unstable();
    assert_eq!(brought, [0, 1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_brought_is_not_brought_again_after_a_claim_that_never_arrived() {
    let bench = Bench::with(3).await;
    assert_eq!(bench.claim(2).await.unwrap(), [0, 1]);

    bench.proxy.cut();
    assert_eq!(bench.claim(2).await, None);
    bench.proxy.heal();

    let mut brought = bench.claim(2).await;
    while brought.is_none() {
        brought = bench.claim(2).await;
    }
    assert_eq!(brought.unwrap(), [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_brought_is_not_brought_again_after_a_claim_whose_answer_was_lost() {
    let bench = Bench::with(4).await;
    assert_eq!(bench.claim(2).await.unwrap(), [0, 1]);
    bench.claim_in_vain(1).await;

    let brought = bench.claim(9).await.unwrap();

    assert_eq!(brought, [2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_claim_took_is_held_by_nobody_until_it_is_brought() {
    let bench = Bench::with(3).await;
    assert_eq!(bench.claim(1).await.unwrap(), [0]);
    bench.claim_in_vain(1).await;

    let before = bench.store.held(bench.me).await.unwrap();
    assert_eq!(bench.claim(9).await.unwrap(), [1, 2]);
    let after = bench.store.held(bench.me).await.unwrap();

    assert_eq!(before, bench.added[..1]);
    assert_eq!(after, bench.added);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_claim_took_waits_for_a_claim_of_its_function() {
    let bench = Bench::with(3).await;
    let of_another = Claim {
        names: Arc::new(["another".into()]),
        ..bench.request(9)
    };
    bench.claim_in_vain(2).await;

    let claimed = bench.store.claim(of_another.clone()).await.unwrap();
    let again = bench.store.claim(of_another).await.unwrap();

    assert_eq!((claimed.tasks, again.tasks), (vec![], vec![]));
    assert_eq!(claimed.next_due, None, "not to be asked again for these");
    assert_eq!(claimed.next_turn, None);
    let held = bench.store.held(bench.me).await.unwrap();
    assert_eq!(held, [], "they are on their way");
    assert_eq!(bench.claim(1).await.unwrap(), [0]);
    assert_eq!(bench.claim(9).await.unwrap(), [1, 2]);
    assert!(bench.claim(9).await.unwrap().is_empty());
}

#[test]
fn other_servers_do_the_same() {
    servers::test_with_others("lost_claims::", &["other_servers_do_the_same"]);
}

/// Where the first task lies among what is due: its priority, its time, its id.
fn first_place(bench: &Bench) -> String {
    let due = bench
        .server
        .command(&["ZRANGE", "{taskflow}:w:f", "0", "0"]);
    due.trim().to_owned()
}

fn put_among_due(bench: &Bench, place: &str) {
    bench
        .server
        .command(&["ZADD", "{taskflow}:w:f", "0", place]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_holds_is_not_claimed_whatever_lies_among_what_is_due() {
    let bench = Bench::with(2).await;
    let place = first_place(&bench);
    assert_eq!(bench.claim(1).await.unwrap(), [0]);
    put_among_due(&bench, &place);

    let claimed = bench.store.claim(bench.request(1)).await.unwrap();

    assert_eq!(claimed.tasks, []);
    assert_eq!(claimed.next_due, Some(NOW), "to be asked again");
    let next_turn = claimed.next_turn.unwrap();
    assert_eq!(next_turn.id, bench.added[0], "there may be more behind it");
    assert_eq!(bench.claim(1).await.unwrap(), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_claimed_once_if_it_is_said_to_wait_for_two_times() {
    let bench = Bench::with(2).await;
    let place = first_place(&bench);
    let earlier = format!("{}{:015}{}", &place[..8], 1, &place[23..]);
    put_among_due(&bench, &earlier);

    assert!(bench.claim(1).await.unwrap().is_empty(), "not by this one");
    let id = bench.added[0].to_string();
    let waits = bench.server.command(&["ZSCORE", "{taskflow}:o:-", &id]);
    assert_eq!(waits, "0", "it is among those that wait");
    put_among_due(&bench, &earlier);
    assert_eq!(bench.claim(9).await.unwrap(), [0, 1]);
    assert!(bench.claim(9).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_is_not_claimed_whatever_lies_among_what_is_due() {
    let bench = Bench::with(2).await;
    let life = format!("{{taskflow}}:l:{}", bench.added[0]);
    bench.server.command(&["DEL", &life]);

    assert_eq!(bench.claim(9).await.unwrap(), [1]);
    assert_eq!(bench.server.command(&["EXISTS", &life]), "0");
}
