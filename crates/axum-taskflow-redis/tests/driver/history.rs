//! The server holds history in memory, so there is an end to it.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::support::{patient, until};
use axum_taskflow_core::{
    Backend, Batch, Change, Config, Data, Failure, IdSource, Instance, ListQuery, Outcome, Prune,
    RetryPolicy, Task, TaskContext, TaskId, TaskManager, Timestamp,
};
use axum_taskflow_redis::Redis;
use servers::RedisServer;
use tokio::sync::Semaphore;

const NOW: Timestamp = Timestamp::from_unix_ms(1_795_300_000_000);

/// How long a test waits for what must come.
const DEADLINE: Duration = Duration::from_secs(30);

/// So many tasks, of which the first `n_live` wait and the others have succeeded.
async fn add(backend: &Redis, ids: &IdSource, n: usize, n_live: usize) -> Vec<TaskId> {
    let me = ids.instance(NOW);
    backend.join(Instance::new(me, NOW)).await.unwrap();
    let tasks: Vec<Task> = (0..n)
        .map(|_| Task::new(ids.task(NOW), "f", "[]"))
        .collect();
    let mut batch = Batch::at(NOW);
    batch.tasks = tasks.iter().cloned().map(Arc::new).collect();
    for task in &tasks[n_live..] {
        let start = Change::started(task, me, NOW).unwrap();
        let mut running = task.clone();
        running.life = start.life.clone();
        let policy = RetryPolicy::default();
        let end = Change::finished(&running, Outcome::Done(None), &policy, 0.0, NOW).unwrap();
        batch.changes.extend([start, end]);
    }
    backend.write(Arc::new(batch)).await.unwrap();
    tasks.iter().map(|task| task.id).collect()
}

async fn left(backend: &Redis) -> Vec<TaskId> {
    let mut query = ListQuery::default();
    query.limit = 10_000;
    let page = backend.list(query).await.unwrap();
    page.tasks.iter().rev().map(|task| task.id).collect()
}

/// Returns once so many tasks are left, which must not become fewer.
async fn until_left(backend: &Redis, n: usize) -> Vec<TaskId> {
    let begun = Instant::now();
    loop {
        let left = left(backend).await;
        assert!(left.len() >= n, "{} are left, and {n} fit", left.len());
        if left.len() == n {
            return left;
        }
        assert!(begun.elapsed() < DEADLINE, "{} are left", left.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_long_log_is_read_in_parts_that_keep_the_server_for_a_moment_each() {
    let server = RedisServer::start();
    let backend = patient(server.url()).open().await.unwrap();
    let id = IdSource::default().task(NOW);
    let line = r#"{"seq":%d,"attempt":1,"at":"2026-11-21T22:26:40Z","level":"info","message":"m"}"#;
    let add = format!(
        "for n = 0, 1199 do
             redis.call('ZADD', KEYS[1], 0, string.format('0000000001%010d{line}', n, n))
         end"
    );
    server.command(&["EVAL", &add, "1", &format!("{{taskflow}}:g:{id}")]);
    server.command(&["CONFIG", "RESETSTAT"]);

    let all = backend.logs(id, 0, usize::MAX).await.unwrap();
    let calls = server.command(&["INFO", "commandstats"]);
    let some = backend.logs(id, 100, 1_000).await.unwrap();

    assert!(all.iter().map(|line| line.seq).eq(0..1_200));
    assert_eq!(some, all[100..1_100]);
    let (_, n_ranges) = calls.split_once("cmdstat_zrange:calls=").unwrap();
    assert!(n_ranges.starts_with("3,"), "{n_ranges}");
}

#[tokio::test]
async fn many_long_attempts_are_read_in_parts_that_a_link_carries() {
    let server = RedisServer::start();
    let backend = patient(server.url()).open().await.unwrap();
    let ids = IdSource::default();
    let (me, mut task) = (ids.instance(NOW), Task::new(ids.task(NOW), "f", "[]"));
    backend.join(Instance::new(me, NOW)).await.unwrap();
    task.args = format!("[\"{}\"]", "x".repeat(5 << 20)).into();
    let mut running = task.clone();
    running.life = Change::started(&task, me, NOW).unwrap().life;
    let (mut policy, timed_out) = (RetryPolicy::default(), Outcome::TimedOut(DEADLINE));
    policy.retries = 1;
    let end = Change::finished(&running, timed_out, &policy, 0.0, NOW).unwrap();
    let attempt = serde_json::to_value(end.ended.unwrap()).unwrap();
    let id = task.id;
    let mut batch = Batch::at(NOW);
    batch.tasks.push(Arc::new(task));
    backend.write(Arc::new(batch)).await.unwrap();
    let of = |n: usize| {
        let mut attempt = attempt.clone();
        attempt["number"] = n.into();
        attempt["error"]["message"] = "m".repeat(50_000).into();
        attempt.to_string()
    };
    let attempts: Vec<String> = (1..=200).map(of).collect();
    let key = format!("{{taskflow}}:p:{id}");
    for part in attempts.chunks(50) {
        let words = part.iter().map(String::as_str);
        server.command(
            &["RPUSH", &*key]
                .into_iter()
                .chain(words)
                .collect::<Vec<_>>(),
        );
    }
    backend.get(id).await.unwrap(); // now the script is known
    server.command(&["CONFIG", "RESETSTAT"]);

    let shown = backend.get(id).await.unwrap().unwrap();
    let calls = server.command(&["INFO", "commandstats"]);

    let shown = shown.past_attempts.iter().map(|it| it.number);
    assert!(shown.eq(1..=200));
    let (_, n_calls) = calls.split_once("cmdstat_evalsha:calls=").unwrap();
    // Ten megabytes of attempts, of which the arguments leave no room for any.
    assert!(n_calls.starts_with("4,"), "{n_calls}");
}

#[tokio::test]
async fn minutes_of_many_functions_are_read_in_parts_that_keep_the_server_for_a_moment_each() {
    let server = RedisServer::start();
    let backend = patient(server.url()).open().await.unwrap();
    backend.series(NOW).await.unwrap(); // now the script is known
    let add = "for minute = 0, 11 do
                   local at = string.format('%d', minute * 60000)
                   for n = 1, 1000 do
                       redis.call('HSET', KEYS[1] .. 'm:' .. at, 'n success f' .. n, 1, 't success f' .. n, n)
                   end
                   redis.call('ZADD', KEYS[1] .. 'ms', at, at)
               end";
    server.command(&["EVAL", add, "1", "{taskflow}:"]);
    server.command(&["CONFIG", "RESETSTAT"]);

    let series = backend.series(Timestamp::default()).await.unwrap();
    let calls = server.command(&["INFO", "commandstats"]);

    assert_eq!(series.len(), 12_000);
    assert!(series.iter().all(|minute| minute.n == 1));
    let (_, n_calls) = calls.split_once("cmdstat_evalsha:calls=").unwrap();
    assert!(n_calls.starts_with("3,"), "{n_calls}");
}

#[tokio::test]
async fn of_tasks_that_are_deleted_no_key_is_left_and_no_set_names_them() {
    let server = RedisServer::start();
    let backend = patient(server.url()).open().await.unwrap();
    let ids = IdSource::default();
    add(&backend, &ids, 3, 0).await;
    let me = ids.instance(NOW);
    backend.join(Instance::new(me, NOW)).await.unwrap();
    let mut task = Task::new(ids.task(NOW), "f", "[]");
    task.tags.insert("a".to_owned(), "b".to_owned());
    task.tracking_id = Some("r".into());
    task.life.owner = Some(me);
    let mut batch = Batch::at(NOW);
    batch.tasks.push(Arc::new(task.clone()));
    let start = Change::started(&task, me, NOW).unwrap();
    task.life = start.life.clone();
    let policy = RetryPolicy::default();
    let failed = Outcome::Failed(Failure::give_up("no"));
    let end = Change::finished(&task, failed, &policy, 0.0, NOW).unwrap();
    batch.changes.extend([start, end]);
    backend.write(Arc::new(batch)).await.unwrap();
    let kinds = || {
        let all = server.command(&["KEYS", "{taskflow}:*"]);
        let kinds = all.lines().filter_map(|key| key.split(':').nth(1));
        kinds.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let of_tasks = ["t", "l", "f", "s", "y"].map(str::to_owned);
    assert!(kinds().is_superset(&of_tasks.clone().into()));

    let all = Prune {
        finished_before: Timestamp::MAX,
        failed_before: Timestamp::MAX,
        series_before: Timestamp::default(),
        from: None,
        limit: 100,
    };
    assert_eq!(backend.prune(all).await.unwrap().deleted, 4);

    assert!(kinds().is_disjoint(&of_tasks.into()), "{:?}", kinds());
    backend.close().await.unwrap();
}

/// What a task does beside its work: it says something (`log`, `progress`), fails at first (`fails`), or says something
/// once it has ended and is told to (`late`).
async fn beside(
    context: TaskContext,
    Data(end): Data<Arc<Semaphore>>,
    what: String,
) -> Result<(), Failure> {
    match &*what {
        "log" => {
            context.log("a line");
            tokio::time::sleep(Duration::from_millis(100)).await; // it is stored before the end
        }
        "progress" => context.progress(0.5, "half"),
        "fails" if context.attempt() == 1 => return Err(Failure::retry("not yet")),
        "late" => {
            tokio::spawn(async move {
                let _ended = end.acquire().await;
                context.log("late");
            });
        }
        _ => {}
    }
    Ok(())
}

#[tokio::test]
async fn a_task_that_has_ended_tells_what_lies_beside_it_and_all_of_that_is_deleted_with_it() {
    let server = RedisServer::start();
    let end = Arc::new(Semaphore::new(0));
    let mut config = Config::default();
    config.collect = false;
    config.backend = Arc::new(patient(server.url()).open().await.unwrap());
    config.state(end.clone());
    let manager = TaskManager::start(config).await.unwrap();
    let add = |what: &str| manager.add_task(beside, (what.to_owned(),));
    let tasks = [
        ("--", add("nothing").await.unwrap()),
        ("+-", add("nothing").tag("a", "b").await.unwrap()),
        ("+-", add("nothing").tracking_id("r").await.unwrap()),
        ("-+", add("log").await.unwrap()),
        ("++", add("progress").tag("a", "b").await.unwrap()),
        (
            "-+",
            add("fails").retries(1).delay(Duration::ZERO).await.unwrap(),
        ),
        ("--", add("late").await.unwrap()),
    ];
    let says = |id: TaskId| {
        let life = server.command(&["GET", &format!("{{taskflow}}:l:{id}")]);
        let words = life.lines().next().unwrap_or_default().split(' ');
        words.skip(9).collect::<String>()
    };

    for (wanted, id) in tasks {
        manager.wait::<()>(id).await.unwrap();
        assert_eq!(says(id), wanted, "{:?}", manager.get(id).await);
    }
    let late = tasks[6].1;
    end.add_permits(1);
    until("what is said late is known", async || says(late) == "-+").await;
    let line = manager.logs(late, 0, 10).await.unwrap();
    assert_eq!(line[0].message, "late");

    let deleted = manager.delete_history(Timestamp::MAX).await.unwrap();
    assert_eq!(deleted, tasks.len());
    let left = server.command(&["KEYS", "{taskflow}:*"]);
    let of_tasks = ["t", "l", "q", "p", "g", "f", "s", "y"];
    let kind = |key: &&str| of_tasks.contains(&key.split(':').nth(1).unwrap_or_default());
    assert_eq!(left.lines().filter(kind).collect::<Vec<_>>(), [""; 0]);
    manager.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_oldest_finished_tasks_go_soon_when_there_are_too_many_and_live_ones_stay() {
    let server = RedisServer::start();
    let options = patient(server.url()).history_max(5);
    let backend = options.open().await.unwrap();

    let tasks = add(&backend, &IdSource::default(), 12, 2).await;

    // Nobody has asked for it.
    let left = until_left(&backend, 7).await;
    assert_eq!(left, [&tasks[..2], &tasks[7..]].concat());
    backend.close().await.unwrap();
}

/// As somebody does whose server is full: nothing ends there any more.
#[tokio::test]
async fn who_starts_with_a_shorter_history_deletes_what_is_too_much_before_anything_ends() {
    let server = RedisServer::start();
    let options = patient(server.url());
    let before = options.clone().open().await.unwrap();
    let ids = IdSource::default();
    add(&before, &ids, 12, 2).await;
    before.close().await.unwrap();
    server.command(&["CONFIG", "SET", "maxmemory", "100kb"]); // less than it uses

    let backend = options.history_max(5).open().await.unwrap();
    let instance = Instance::new(ids.instance(NOW), NOW);
    backend.join(instance).await.unwrap();

    until_left(&backend, 7).await;
    backend.close().await.unwrap();
}

#[tokio::test]
async fn nothing_is_deleted_any_more_once_a_store_is_closed() {
    let server = RedisServer::start();
    let options = patient(server.url());
    let writer = options.clone().open().await.unwrap();
    let tasks = add(&writer, &IdSource::default(), 1, 0).await;
    writer.close().await.unwrap();
    // That many functions are slow to look at: it does not come to its end before the store is closed.
    let copy = "for n = 1, 20000 do
                    redis.call('HSET', KEYS[1] .. 'c', 'success g' .. n % 2000, 0)
                    local id = string.format('00000000-0000-7000-8000-%012x', n)
                    for _, kind in ipairs({ 't:', 'l:' }) do
                        redis.call('SET', KEYS[1] .. kind .. id, redis.call('GET', KEYS[1] .. kind .. ARGV[1]))
                    end
                    redis.call('ZADD', KEYS[1] .. 'f:f', 0, id)
                end
                redis.call('HSET', KEYS[1] .. 'c', 'success f', 20001)";
    server.command(&["EVAL", copy, "1", "{taskflow}:", &tasks[0].to_string()]);
    let n_left = || -> usize {
        let n = server.command(&["ZCARD", "{taskflow}:f:f"]);
        n.parse().unwrap()
    };

    let backend = options.history_max(1).open().await.unwrap();
    add(&backend, &IdSource::default(), 1, 0).await; // wakes who deletes
    until("some are deleted", async || n_left() < 20_000).await;
    backend.close().await.unwrap();
    let n_at_the_end = n_left();

    until("nobody is connected", async || {
        !server
            .command(&["CLIENT", "LIST"])
            .contains("addr=127.0.0.1")
    })
    .await;
    assert_eq!(n_left(), n_at_the_end);
    assert!(n_at_the_end > 1);
}

#[tokio::test]
async fn several_who_delete_what_is_too_much_delete_no_more_than_that() {
    let server = RedisServer::start();
    let (ids, n_too_many) = (IdSource::default(), 2_500);
    let writer = patient(server.url()).open().await.unwrap();
    for _ in 0..26 {
        add(&writer, &ids, 100, 0).await;
    }
    let mut trimmers = Vec::new();
    for _ in 0..4 {
        let options = patient(server.url()).history_max(2_600 - n_too_many);
        trimmers.push(options.open().await.unwrap());
    }

    // What wakes them, all at once.
    let end = async |backend: &Redis| add(backend, &ids, 1, 0).await;
    tokio::join!(
        end(&trimmers[0]),
        end(&trimmers[1]),
        end(&trimmers[2]),
        end(&trimmers[3])
    );

    until_left(&writer, 100).await;
    tokio::time::sleep(Duration::from_secs(2)).await; // they look again, and nothing is to happen
    assert_eq!(left(&writer).await.len(), 100);
}

#[test]
fn other_servers_do_the_same() {
    servers::test_with_others(
        "history::",
        &[
            "other_servers_do_the_same",
            // In these no server differs.
            "many_long_attempts_are_read_in_parts",
            "minutes_of_many_functions_are_read_in_parts",
            "nothing_is_deleted_any_more_once_a_store_is_closed",
        ],
    );
}
