#![allow(clippy::unwrap_used, reason = "this is test code")]
//! Tasks that a newer program has stored, and that this one cannot read.

use std::{sync::Arc, time::Duration};

use axum_taskflow_core::{
    Backend, Batch, Claim, FailureKind, IdSource, Instance, ListQuery, Task, TaskStatus, Timestamp,
};
use axum_taskflow_redis::RedisOptions;
use servers::RedisServer;

const NOW: Timestamp = Timestamp::from_unix_ms(1_795_300_000_000);

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
