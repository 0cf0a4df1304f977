#![allow(clippy::unwrap_used, reason = "this is test code")]
//! Tasks that a newer program has stored, and that this one cannot read.

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum_taskflow_core::{
    Backend, Batch, Change, Claim, FailureKind, IdSource, Instance, ListQuery, Task, TaskId,
    TaskStatus,
};
use axum_taskflow_redis::RedisOptions;
use servers::RedisServer;
use support::{NOW, Store};
use tracing::{Event, Level, Metadata, span};

#[tokio::test]
async fn a_task_that_cannot_be_read_is_shown_and_given_back_and_harms_no_other() {
    let server = RedisServer::start();
    let store = RedisOptions::new(server.url())
        .lease(Duration::from_secs(600))
        .prefix("p")
        .open()
        .await
        .unwrap();
    let ids = IdSource::default();
    let me = ids.instance(NOW);
    store.join(Instance::new(me, NOW)).await.unwrap();
    let mut tasks = [(); 3].map(|()| Task::new(ids.task(NOW), "f", "[1]"));
    tasks[0].priority = 7;
    let mut batch = Batch::at(NOW);
    batch.tasks = tasks.iter().cloned().map(Arc::new).collect();
    store.write(Arc::new(batch)).await.unwrap();
    let key = format!("{{p}}:t:{}", tasks[0].id);
    let mut link = redis::Client::open(server.url())
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    let body: String = redis::cmd("GET")
        .arg(&key)
        .query_async(&mut link)
        .await
        .unwrap();
    let newer = body.replacen('{', r#"{"executor":"gpu","#, 1);
    let set = redis::cmd("SET").arg(&key).arg(&newer).clone();
    let () = set.query_async(&mut link).await.unwrap();
    let claim = || {
        let claim = Claim {
            owner: me,
            names: Arc::new(["f".into()]),
            except: Arc::default(),
            limit: 2,
            now: NOW,
        };
        store.claim(claim)
    };

    let claimed = claim().await.unwrap();
    let next = claim().await.unwrap();
    let shown = store.get(tasks[0].id).await.unwrap().unwrap();
    let listed = store.list(ListQuery::default()).await.unwrap().tasks;

    // It came first, and one of the others with it; then the last one.
    assert_eq!(claimed.tasks.len(), 1);
    assert_eq!(claimed.next_due, Some(NOW), "there is more");
    assert_eq!(next.tasks.len(), 1);
    let mut brought = [claimed.tasks[0].id, next.tasks[0].id];
    brought.sort_unstable();
    assert_eq!(brought, [tasks[1].id, tasks[2].id]);
    assert_eq!(listed.len(), 3);
    for task in [&shown, &listed[2]] {
        assert_eq!((task.id, &*task.name), (tasks[0].id, "f"));
        assert_eq!((&*task.args, task.priority), ("[1]", 7));
        assert_eq!(task.life.status, TaskStatus::Pending);
        let error = task.life.error.as_deref().unwrap();
        assert_eq!(error.kind, FailureKind::Unreadable);
        assert!(error.message.contains("gpu"), "{}", error.message);
    }

    // A program that can read it gets it at once.
    let () = redis::cmd("SET")
        .arg(&key)
        .arg(&body)
        .query_async(&mut link)
        .await
        .unwrap();
    let other = RedisOptions::new(server.url())
        .prefix("p")
        .open()
        .await
        .unwrap();
    let you = ids.instance(NOW);
    other.join(Instance::new(you, NOW)).await.unwrap();
    let claim = Claim {
        owner: you,
        names: Arc::new(["f".into()]),
        except: Arc::default(),
        limit: 9,
        now: NOW,
    };
    let got = other.claim(claim).await.unwrap().tasks;
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].id, tasks[0].id);
}

#[tokio::test]
async fn what_is_no_text_keeps_no_other_waiting() {
    let server = RedisServer::start();
    let options = RedisOptions::new(server.url()).lease(Duration::from_secs(600));
    let store = options.prefix("p").open().await.unwrap();
    let ids = IdSource::default();
    let me = ids.instance(NOW);
    store.join(Instance::new(me, NOW)).await.unwrap();
    let tasks = [(); 2].map(|()| Task::new(ids.task(NOW), "f", "[1]"));
    let mut batch = Batch::at(NOW);
    batch.tasks = tasks.iter().cloned().map(Arc::new).collect();
    store.write(Arc::new(batch)).await.unwrap();
    let client = redis::Client::open(server.url()).unwrap();
    let mut link = client.get_multiplexed_async_connection().await.unwrap();
    let key = format!("{{p}}:t:{}", tasks[0].id);
    let damage = redis::cmd("APPEND").arg(key).arg(&b"\xff"[..]).clone();
    let _: usize = damage.query_async(&mut link).await.unwrap();
    let claim = Claim {
        owner: me,
        names: Arc::new(["f".into()]),
        except: Arc::default(),
        limit: 2,
        now: NOW,
    };

    let claimed = store.claim(claim).await.unwrap().tasks;
    let listed = store.list(ListQuery::default()).await.unwrap().tasks;

    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].id, tasks[1].id);
    let error = listed[1].life.error.as_deref().unwrap();
    assert_eq!(error.kind, FailureKind::Unreadable);
    assert!(error.message.contains("UTF-8"), "{}", error.message);
}

#[tokio::test]
async fn an_error_that_cannot_be_read_keeps_no_task_with_the_one_who_cannot() {
    let server = RedisServer::start();
    let options = RedisOptions::new(server.url()).lease(Duration::from_secs(600));
    let store = options.prefix("p").open().await.unwrap();
    let ids = IdSource::default();
    let me = ids.instance(NOW);
    store.join(Instance::new(me, NOW)).await.unwrap();
    let task = Task::new(ids.task(NOW), "f", "[1]");
    let mut batch = Batch::at(NOW);
    batch.tasks.push(Arc::new(task.clone()));
    store.write(Arc::new(batch)).await.unwrap();
    let key = format!("{{p}}:l:{}", task.id);
    let client = redis::Client::open(server.url()).unwrap();
    let mut link = client.get_multiplexed_async_connection().await.unwrap();
    // A process died of it before, and what it was told then is of a kind that only a newer program knows.
    let at = NOW.as_unix_ms();
    let life = format!("pending 0 - 1 1 {at} - - -\n{{\"kind\":\"newer\",\"message\":\"m\"}}\n");
    let set = redis::cmd("SET").arg(&key).arg(&life).clone();
    let () = set.query_async(&mut link).await.unwrap();
    let claim = Claim {
        owner: me,
        names: Arc::new(["f".into()]),
        except: Arc::default(),
        limit: 2,
        now: NOW,
    };

    let claimed = store.claim(claim).await.unwrap();

    let get = redis::cmd("GET").arg(&key).clone();
    let left: String = get.query_async(&mut link).await.unwrap();
    assert_eq!(claimed.tasks.len(), 0);
    assert!(left.starts_with("pending 1 - 1 1 "), "{left}");
}

/// Counts what is logged as an error in this thread.
#[derive(Clone, Default)]
struct Errors(Arc<AtomicUsize>);

impl tracing::Subscriber for Errors {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

async fn orphans(store: &Store) -> Vec<TaskId> {
    let orphans = store.backend.orphans(2).await.unwrap();
    orphans.iter().map(|task| task.id).collect()
}

/// As a rescuer does.
async fn release(store: &Store, ids: &[TaskId]) {
    let mut batch = Batch::at(NOW);
    for id in ids {
        let task = store.backend.get(*id).await.unwrap().unwrap();
        batch.changes.push(Change::released(&task).unwrap());
    }
    store.backend.write(Arc::new(batch)).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_read_of_the_dead_hides_no_other_and_is_taken_over_by_who_can_read_it() {
    let server = RedisServer::start();
    let open = || Store::open(RedisOptions::new(server.url()).lease(Duration::from_secs(600)));
    let (dead, old, new) = (open().await, open().await, open().await);
    let tasks: Vec<Task> = (0..8).map(|_| dead.owned()).collect();
    for task in &tasks {
        dead.add(task).await;
    }
    let ids: Vec<TaskId> = tasks.iter().map(|task| task.id).collect();
    let key = |kind: char, n: usize| format!("{{taskflow}}:{kind}:{}", ids[n]);
    let stored = [0, 1, 2, 3, 5, 6].map(|n| (n, server.command(&["GET", &key('t', n)])));
    for (n, body) in &stored {
        let newer = body.replacen('{', r#"{"executor":"gpu","#, 1);
        server.command(&["SET", &key('t', *n), &newer]);
    }
    // These are damaged: the one is no text, of the other a part is gone.
    let life = server.command(&["GET", &key('l', 1)]);
    let no_text = "return redis.call('SET', KEYS[1], '\\255')";
    server.command(&["EVAL", no_text, "1", &key('l', 1)]);
    server.command(&["DEL", &key('t', 2)]);
    dead.backend.leave(dead.me).await.unwrap();
    let errors = Errors::default();
    let _guard = tracing::subscriber::set_default(errors.clone());

    // Two of them are looked at by one call.
    assert_eq!(orphans(&old).await, []);
    assert_eq!(orphans(&old).await, []);
    assert_eq!(orphans(&old).await, [ids[4]]);
    assert_eq!(orphans(&old).await, [ids[4]], "as long as it is there");
    release(&old, &[ids[4]]).await;
    assert_eq!(orphans(&old).await, []);
    assert_eq!(orphans(&old).await, [ids[7]]);
    release(&old, &[ids[7]]).await;
    for _ in 0..9 {
        assert_eq!(orphans(&old).await, []);
    }
    assert_eq!(errors.0.load(Ordering::SeqCst), 6, "each is told of once");

    // The newer one knows what they mean, and has no need to wait.
    for (n, body) in &stored {
        server.command(&["SET", &key('t', *n), body]);
    }
    server.command(&["SET", &key('l', 1), &life]);
    assert_eq!(orphans(&old).await, [], "they are not read again at once");
    assert_eq!(orphans(&new).await, [ids[0], ids[1]]);
    release(&new, &[ids[0], ids[1]]).await;

    // But somebody may have repaired them.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(60)).await;
    tokio::time::resume();
    for part in [&ids[2..4], &ids[5..7]] {
        assert_eq!(orphans(&old).await, part);
        release(&old, part).await;
    }
    assert_eq!(orphans(&old).await, []);
    assert_eq!(server.command(&["SCARD", "{taskflow}:xo"]), "0");
}
