//! What a newer program has stored, or some damage has left, and this one cannot read: it costs itself, and nothing else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::support::{NOW, Store, patient, until};
use axum_taskflow_core::{
    AheadQuery, AuditEntry, Backend, Batch, Becomes, Change, Claim, Claimed, Enqueued, Epoch,
    FailureKind, IdempotencyKey, ListQuery, LogLevel, LogLine, Note, Outcome, Prune, Record,
    RecordChange, RecordQuery, Reserve, RetryPolicy, Role, Said, Step, Stepped, Task, TaskId,
    TaskStatus, Timestamp, Turn,
};
use servers::RedisServer;
use tracing::{Event, Level, Metadata, span};

/// A store whose instances live as long as the test.
async fn open(server: &RedisServer) -> Store {
    Store::open(patient(server.url())).await
}

fn key(kind: char, id: TaskId) -> String {
    format!("{{taskflow}}:{kind}:{id}")
}

/// Puts a byte behind the value that is no UTF-8.
fn damage(server: &RedisServer, key: &str) {
    server.command(&[
        "EVAL",
        "return redis.call('APPEND', KEYS[1], '\\255')",
        "1",
        key,
    ]);
}

impl Store {
    async fn claim(&self) -> Claimed {
        self.claim_with_room(2, None).await
    }

    async fn claim_with_room(&self, limit: usize, reserve: Option<Reserve>) -> Claimed {
        let claim = Claim {
            owner: self.me,
            names: Arc::new(["f".into()]),
            except: Arc::default(),
            limit,
            now: NOW,
            reserve,
        };
        self.backend.claim(claim).await.unwrap()
    }
}

fn ids(tasks: &[Task]) -> Vec<TaskId> {
    tasks.iter().map(|task| task.id).collect()
}

#[tokio::test]
async fn a_task_that_cannot_be_read_is_shown_and_given_back_and_harms_no_other() {
    let server = RedisServer::start();
    let store = open(&server).await;
    let mut tasks = [(); 3].map(|()| store.task());
    tasks[0].priority = 7;
    store.add_all(&tasks).await;
    let place = key('t', tasks[0].id);
    let body = server.command(&["GET", &place]);
    let newer = body.replacen('{', r#"{"executor":"gpu","#, 1);
    server.command(&["SET", &place, &newer]);

    let claimed = store.claim().await;
    let next = store.claim().await;
    let shown = store.backend.get(tasks[0].id).await.unwrap().unwrap();
    let listed = store.backend.list(ListQuery::default()).await.unwrap();

    // It came first, and one of the others with it; then the last one.
    assert_eq!(claimed.tasks.len(), 1);
    assert_eq!(claimed.next_due, Some(NOW), "there is more");
    let next_turn = claimed.next_turn.unwrap();
    assert_eq!(next_turn.id, tasks[0].id, "what is left comes behind it");
    assert_eq!(next.tasks.len(), 1);
    let mut brought = [claimed.tasks[0].id, next.tasks[0].id];
    brought.sort_unstable();
    assert_eq!(brought, [tasks[1].id, tasks[2].id]);
    assert_eq!(listed.tasks.len(), 3);
    for task in [&shown, &listed.tasks[2]] {
        assert_eq!((task.id, &*task.name), (tasks[0].id, "f"));
        assert_eq!((&*task.args, task.priority), ("[]", 7));
        assert_eq!(task.life.status, TaskStatus::Pending);
        let error = task.life.error.as_deref().unwrap();
        assert_eq!(error.kind, FailureKind::Unreadable);
        assert!(error.message.contains("gpu"), "{}", error.message);
    }

    // A program that can read it gets it at once.
    server.command(&["SET", &place, &body]);
    let got = open(&server).await.claim().await.tasks;
    assert_eq!(ids(&got), [tasks[0].id]);
}

#[tokio::test]
async fn what_is_no_text_keeps_no_other_waiting() {
    let server = RedisServer::start();
    let store = open(&server).await;
    for kind in ['t', 'q'] {
        let tasks = [(); 2].map(|()| store.task());
        store.add_all(&tasks).await;
        // They have begun once: before that, no task says how far it is.
        let mut batch = Batch::at(NOW);
        let begun = store.claim().await.tasks;
        let released = begun.iter().map(|task| Change::released(task).unwrap());
        batch.changes = released.collect();
        store.backend.write(Arc::new(batch)).await.unwrap();
        damage(&server, &key(kind, tasks[0].id));

        let claimed = store.claim().await.tasks;
        let listed = store.backend.list(ListQuery::default()).await.unwrap();

        assert_eq!(ids(&claimed), [tasks[1].id], "{kind}");
        let error = listed.tasks[1].life.error.as_deref().unwrap();
        assert_eq!(error.kind, FailureKind::Unreadable);
        assert!(error.message.contains("UTF-8"), "{}", error.message);
    }
}

#[tokio::test]
async fn a_task_whose_function_is_damaged_is_counted_for_no_other_function() {
    let server = RedisServer::start();
    let store = open(&server).await;
    let task = store.task();
    store.add(&task).await;
    let place = key('t', task.id);
    let name = "local is = redis.call('GET', KEYS[1]) return redis.call('SET', KEYS[1], (is:gsub('\"f\"', '\"\\255\"')))";
    server.command(&["EVAL", name, "1", &place]);

    let claimed = store.claim().await.tasks;
    let shown = store.backend.get(task.id).await.unwrap().unwrap();
    let counts = store.backend.counts().await.unwrap();

    assert_eq!(claimed, []);
    assert_eq!(&*shown.name, "?");
    let names: Vec<&str> = counts.iter().map(|count| &*count.name).collect();
    assert_eq!(names, ["f"]);
}

#[tokio::test]
async fn an_error_that_cannot_be_read_keeps_no_task_with_the_one_who_cannot() {
    let server = RedisServer::start();
    let store = open(&server).await;
    let task = store.task();
    store.add(&task).await;
    // A process died of it before, and what it was told then is of a kind that only a newer program knows.
    let at = NOW.as_unix_ms();
    let life = format!("pending 0 - 1 1 {at} - - -\n{{\"kind\":\"newer\",\"message\":\"m\"}}\n");
    server.command(&["SET", &key('l', task.id), &life]);

    let claimed = store.claim().await;

    let left = server.command(&["GET", &key('l', task.id)]);
    assert_eq!(claimed.tasks.len(), 0);
    assert!(left.starts_with("pending 1 - 1 1 "), "{left}");
}

#[tokio::test]
async fn a_task_whose_state_cannot_be_read_is_not_begun_and_keeps_no_other_waiting() {
    let server = RedisServer::start();
    let at = NOW.as_unix_ms();
    for life in [
        "no state".to_owned(),
        format!("paused 3 - 1 0 {at} - - -\n\n"),
    ] {
        let store = open(&server).await;
        let tasks = [(); 2].map(|()| store.task());
        store.add_all(&tasks).await;
        server.command(&["SET", &key('l', tasks[0].id), &life]);

        let claimed = store.claim().await.tasks;

        assert_eq!(ids(&claimed), [tasks[1].id], "{life}");
        let left = server.command(&["GET", &key('l', tasks[0].id)]);
        let word = life.split(' ').next().unwrap();
        assert!(left.starts_with(word), "{life:?} has become {left:?}");
        assert_eq!(store.claim().await.tasks, [], "{life}");
        // Whoever can read it finds it with the one who could not.
        store.backend.leave(store.me).await.unwrap();
        server.command(&[
            "SET",
            &key('l', tasks[0].id),
            &format!("pending 0 {} 0 0 {at} - - -\n\n", store.me),
        ]);
        let orphans = open(&server).await.backend.orphans(9).await.unwrap();
        assert!(ids(&orphans).contains(&tasks[0].id), "{life}");
    }
}

#[tokio::test]
async fn a_place_at_which_nobody_waits_is_gone_soon_whatever_room_is_kept() {
    let server = RedisServer::start();
    let store = open(&server).await;
    let first = Turn::of(&store.task());
    let gone = store.task().id;
    let task = store.task();
    store.add(&task).await;
    let turn = Turn::of(&task);
    let room = |n| Some(Reserve { from: first, n });
    let of_no_task = format!("7fffffff{:015}{gone}", NOW.as_unix_ms());
    for (reserve, found) in [
        (room(1), (vec![], Some(turn))),
        (room(9), (vec![], Some(turn))),
        (None, (vec![task.id], None)),
    ] {
        let too_short = &of_no_task[..58];
        for place in [
            "7ffffffeat no time, which never comes",
            too_short,
            &of_no_task,
        ] {
            server.command(&["ZADD", "{taskflow}:w:f", "0", place]);
        }

        // As often as it is to be asked again at once.
        let mut claimed = store.claim_with_room(1, reserve).await;
        for _ in 0..9 {
            if claimed.next_due == Some(NOW) {
                claimed = store.claim_with_room(1, reserve).await;
            }
        }

        assert_eq!(claimed.next_due, None, "{reserve:?}");
        assert_eq!((ids(&claimed.tasks), claimed.next_turn), found);
        let left = server.command(&["ZCARD", "{taskflow}:w:f"]);
        assert_eq!(
            left,
            claimed.next_turn.iter().len().to_string(),
            "{reserve:?}"
        );
    }
}

#[tokio::test]
async fn a_place_ahead_that_is_no_time_keeps_nothing_from_being_claimed() {
    let server = RedisServer::start();
    let store = open(&server).await;
    let tasks = [(); 2].map(|()| store.task());
    store.add_all(&tasks).await;
    server.command(&["ZADD", "{taskflow}:a", "0", "at no time"]);

    let claimed = store.claim().await;

    assert_eq!(ids(&claimed.tasks), ids(&tasks));
    assert!(
        claimed.next_due.is_some_and(|due| due > NOW),
        "it may hide others"
    );
}

/// Ends a task as if it had run.
async fn end(store: &Store, task: &Task) {
    assert!(store.start(task).await);
    let task = store.backend.get(task.id).await.unwrap().unwrap();
    let mut batch = Batch::at(NOW);
    let policy = RetryPolicy::default();
    let end = Change::finished(&task, Outcome::Done(None), &policy, 0.0, NOW);
    batch.changes.push(end.unwrap());
    store.backend.write(Arc::new(batch)).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_read_is_not_deleted_and_hides_nothing_from_lists_and_deletion() {
    let server = RedisServer::start();
    let store = open(&server).await;
    let mut tasks = [(); 4].map(|()| store.owned());
    for task in &mut tasks {
        task.tracking_id = Some("r".into());
    }
    store.add_all(&tasks).await;
    for task in &tasks {
        end(&store, task).await;
    }
    // Of one the description is damaged, of one it is gone, and of one its state.
    server.command(&["SET", &key('t', tasks[1].id), "7fffffff\nno JSON\n[]"]);
    server.command(&["DEL", &key('t', tasks[2].id)]);
    server.command(&["DEL", &key('l', tasks[3].id)]);
    let list = async |limit| {
        let mut query = ListQuery::default();
        query.limit = limit;
        let page = store.backend.list(query).await.unwrap();
        ids(&page.tasks)
    };

    let (first, all) = (list(1).await, list(9).await);
    let later = NOW.saturating_add(Duration::from_secs(60));
    let prune = Prune {
        finished_before: later,
        failed_before: later,
        series_before: NOW,
        from: None,
        limit: 9,
    };
    let pruned = store.backend.prune(prune).await.unwrap();
    let left = list(9).await;

    assert_eq!(first, [tasks[1].id], "of two newer ones a part is gone");
    assert_eq!(all, [tasks[1].id, tasks[0].id]);
    assert_eq!(pruned.deleted, 1);
    assert_eq!(left, [tasks[1].id]);
}

#[tokio::test]
async fn a_task_without_tags_that_has_ended_is_deleted_however_damaged_its_description_is() {
    let server = RedisServer::start();
    let store = open(&server).await;
    let tasks = [(); 2].map(|()| store.owned());
    store.add_all(&tasks).await;
    for task in &tasks {
        end(&store, task).await;
    }
    server.command(&["SET", &key('t', tasks[0].id), "7fffffff\nno JSON\n[]"]);
    server.command(&["DEL", &key('t', tasks[1].id)]);

    let prune = Prune {
        finished_before: NOW.saturating_add(Duration::from_secs(60)),
        failed_before: NOW,
        series_before: NOW,
        from: None,
        limit: 9,
    };
    assert_eq!(store.backend.prune(prune).await.unwrap().deleted, 2);

    for task in &tasks {
        for kind in ['t', 'l'] {
            assert_eq!(server.command(&["EXISTS", &key(kind, task.id)]), "0");
        }
    }
    assert_eq!(server.command(&["EXISTS", "{taskflow}:f:f"]), "0");
}

#[tokio::test]
async fn sums_of_a_status_that_is_not_known_hide_no_others() {
    let server = RedisServer::start();
    let store = open(&server).await;
    let [waits, ends] = [store.task(), store.task()];
    store.add_all(&[waits, ends.clone()]).await;
    end(&store, &ends).await;
    let minute = server.command(&["ZRANGE", "{taskflow}:ms", "0", "0"]);
    let minute = format!("{{taskflow}}:m:{minute}");

    server.command(&["HSET", "{taskflow}:c", "paused f", "1"]);
    server.command(&["HSET", &minute, "n paused f", "1"]);

    let counts = store.backend.counts().await.unwrap();
    assert_eq!(counts.len(), 2, "{counts:?}");
    let series = store.backend.series(Timestamp::default()).await.unwrap();
    assert_eq!(series.len(), 1, "{series:?}");
    assert_eq!(series[0].status, TaskStatus::Success);
}

#[tokio::test]
async fn an_instance_of_which_not_everything_can_be_read_is_shown_with_the_rest() {
    let server = RedisServer::start();
    let (store, newer) = (open(&server).await, open(&server).await);
    let id = newer.me.to_string();
    let known = server.command(&["HGET", "{taskflow}:i", &id]);
    let instances = async || store.backend.instances().await.unwrap();
    let of_newer = async || {
        let peers = instances().await;
        peers.into_iter().find(|it| it.instance.id == newer.me)
    };

    let another = known.replace(r#""role":"both""#, r#""role":"gpu""#);
    assert_ne!(another, known);
    server.command(&["HSET", "{taskflow}:i", &id, &another]);
    let with_another_role = of_newer().await.unwrap();
    server.command(&["HSET", "{taskflow}:i", &id, "2"]);
    let unreadable = of_newer().await.unwrap();

    assert_eq!(instances().await.len(), 2);
    assert!(with_another_role.alive && unreadable.alive);
    let instance = with_another_role.instance;
    let said = (instance.pid, instance.started_at, instance.role);
    assert_eq!(said, (std::process::id(), NOW, Role::Both));
}

#[tokio::test]
async fn a_log_line_that_cannot_be_read_hides_no_other_and_is_shown_as_far_as_it_can_be() {
    let server = RedisServer::start();
    let store = open(&server).await;
    let task = store.owned();
    store.add(&task).await;
    assert!(store.start(&task).await);
    let mut batch = Batch::at(NOW);
    for seq in 0..4 {
        let line = LogLine {
            seq,
            attempt: 1,
            at: NOW,
            level: LogLevel::Debug,
            message: format!("line {seq}"),
        };
        batch.notes.push(Note {
            id: task.id,
            epoch: Epoch::ZERO.next(),
            what: Said::Log(line),
        });
    }
    store.backend.write(Arc::new(batch)).await.unwrap();
    let lines = key('g', task.id);
    for (nth, pattern, newer) in [("1", "debug", "fatal"), ("2", ".$", r"\255")] {
        let change = format!(
            "local is = redis.call('ZRANGE', KEYS[1], ARGV[1], ARGV[1])[1] redis.call('ZREM', KEYS[1], is)
             return redis.call('ZADD', KEYS[1], 0, (is:gsub(ARGV[2], '{newer}')))"
        );
        server.command(&["EVAL", &change, "1", &lines, nth, pattern]);
    }

    let shown = store.backend.logs(task.id, 0, 9).await.unwrap();
    let behind = store.backend.logs(task.id, 2, 2).await.unwrap();

    assert_eq!(shown.len(), 4, "who reads in parts counts them");
    assert_eq!((behind.len(), &behind[1]), (2, &shown[3]));
    let said = |n: usize| {
        let line = &shown[n];
        (line.seq, line.attempt, line.at, line.level)
    };
    assert_eq!(said(0), (0, 1, NOW, LogLevel::Debug));
    assert_eq!(said(1), (1, 1, NOW, LogLevel::Info));
    assert_eq!(&*shown[1].message, "line 1");
    assert_eq!(said(2), (2, 1, NOW, LogLevel::Info));
    assert!(shown[2].message.contains("line 2"), "{:?}", shown[2]);
    assert_eq!(said(3), (3, 1, NOW, LogLevel::Debug));
}

#[tokio::test]
async fn an_audit_entry_that_cannot_be_read_hides_no_other_and_is_shown_as_far_as_it_can_be() {
    let server = RedisServer::start();
    let store = open(&server).await;
    let mut batch = Batch::at(NOW);
    let entries = [(); 3].map(|()| AuditEntry {
        id: store.task().id,
        at: NOW,
        actor: "ada".to_owned(),
        action: "retry".to_owned(),
        task: None,
        detail: serde_json::Value::Null,
    });
    batch.audit.extend([entries[0].clone(), entries[2].clone()]);
    store.backend.write(Arc::new(batch)).await.unwrap();
    let id = entries[1].id;
    let newer = format!(r#"{id}{{"id":"{id}","action":"retry","actor":"bob","task":[1]}}"#);
    for entry in [&*newer, "no id"] {
        server.command(&["ZADD", "{taskflow}:u", "0", entry]);
    }

    let shown = store.backend.audit(None, 9).await.unwrap();
    let first = store.backend.audit(Some(entries[2].id), 1).await.unwrap();

    assert_eq!(shown.len(), 3, "{shown:?}");
    assert_eq!([&shown[0], &shown[2]], [&entries[2], &entries[0]]);
    assert_eq!(first, shown[1..2]);
    assert_eq!((shown[1].id, shown[1].at), (id, id.created_at()));
    assert_eq!((&*shown[1].actor, &*shown[1].action), ("bob", "retry"));
    assert_eq!(shown[1].detail["task"], serde_json::json!([1]));
}

#[tokio::test]
async fn what_is_gone_in_part_hides_nothing_that_is_due_after_it() {
    let server = RedisServer::start();
    let store = open(&server).await;
    let mut tasks = [(); 2].map(|()| store.task());
    for (n, task) in (1..).zip(&mut tasks) {
        task.life.run_at = NOW.saturating_add(Duration::from_secs(n));
    }
    store.add_all(&tasks).await;
    server.command(&["DEL", &key('t', tasks[0].id)]);

    let mut query = AheadQuery::until(NOW.saturating_add(Duration::from_secs(60)));
    query.limit = 1;
    let page = store.backend.ahead(query).await.unwrap();

    assert_eq!(ids(&page.tasks), [tasks[1].id]);
}

/// Counts what is logged as an error in this thread.
#[derive(Clone, Default)]
pub(crate) struct Errors(pub(crate) Arc<AtomicUsize>);

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
    let [dead, old, new] = [(); 3].map(|()| open(&server));
    let (dead, old, new) = (dead.await, old.await, new.await);
    let tasks = [(); 8].map(|()| dead.owned());
    dead.add_all(&tasks).await;
    let ids = ids(&tasks);
    let key = |kind: char, n: usize| key(kind, ids[n]);
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

/// Puts a value with a byte that is no UTF-8, which stands as "~" here.
fn put(server: &RedisServer, words: &[&str]) {
    let script = "for n, word in ipairs(ARGV) do ARGV[n] = word:gsub('~', '\\255') end
                  return redis.call(unpack(ARGV))";
    let words: Vec<String> = words
        .iter()
        .map(|word| word.replace("P:", "{taskflow}:"))
        .collect();
    let mut command = vec!["EVAL", script, "0"];
    command.extend(words.iter().map(String::as_str));
    server.command(&command);
}

/// What is to become of a record.
fn becomes(key: &str, expects: u64, becomes: Becomes) -> Step {
    let mut step = Step::at(NOW);
    step.records.push(RecordChange {
        key: key.to_owned(),
        expects,
        becomes,
    });
    step
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_not_taken_for_none_and_hides_no_other() {
    let server = RedisServer::start();
    let store = open(&server).await;
    let step = async |step| store.backend.step(Arc::new(step)).await.unwrap();
    let read = async |prefix: &str, limit| {
        let query = RecordQuery {
            prefix: prefix.to_owned(),
            after: None,
            limit,
        };
        store.backend.records(query).await.unwrap()
    };
    for key in ["a", "b", "c", "d", "e"] {
        step(becomes(key, 0, Becomes::Value("{}".into()))).await;
    }
    put(&server, &["HSET", "P:r", "b", "null"]);
    put(&server, &["HSET", "P:r", "c", "17 {~}"]);
    put(&server, &["HSET", "P:r", "d", "99999999999999999999 {}"]);
    put(&server, &["ZADD", "P:rn", "0", "a~", "0", "aa"]);
    put(&server, &["HSET", "P:r", "a~", "17 {}"]);
    let errors = Errors::default();
    let _guard = tracing::subscriber::set_default(errors.clone());

    let all = read("", 1_000).await;
    let (first, c) = (read("", 2).await, read("c", 1).await);

    let keys = |records: &[Record]| -> Vec<String> {
        records.iter().map(|record| record.key.clone()).collect()
    };
    assert_eq!(keys(&all), ["a", "b", "c", "d", "e"]);
    assert_eq!((keys(&first), &c[0]), (keys(&all[..2]), &all[2]));
    assert_eq!(errors.0.load(Ordering::SeqCst), 4, "each is told of once");
    server.command(&["ZREM", "{taskflow}:rn", "e"]);
    assert_eq!(read("e", 1).await, []);
    let taken = step(becomes("e", 0, Becomes::Value("[]".into()))).await;
    assert_eq!(taken, Stepped::Stale);
    assert_eq!(read("e", 1).await, all[4..]);
    for record in &all[1..4] {
        let key = &*record.key;
        let says = serde_json::from_str::<serde_json::Value>(&record.value);
        assert!(says.is_err(), "{key} says {:?}", record.value);
        let taken = step(becomes(key, 0, Becomes::Value("{}".into()))).await;
        assert_eq!(taken, Stepped::Stale, "{key}");
        // But by force it can be.
        let gone = step(becomes(key, record.version, Becomes::Gone)).await;
        assert!(matches!(gone, Stepped::Done { .. }), "{key}");
        let taken = step(becomes(key, 0, Becomes::Value("{}".into()))).await;
        assert!(matches!(taken, Stepped::Done { .. }), "{key}");
    }
}

#[tokio::test]
async fn numbers_that_are_none_stop_no_step_and_no_claim() {
    let server = RedisServer::start();
    let store = open(&server).await;
    let task = store.task();
    store.add(&task).await;
    let claims = format!("P:cl:{}", store.me);
    for key in ["P:rv", "P:h", &claims] {
        put(&server, &["SET", key, "~"]);
    }

    let step = becomes("a", 0, Becomes::Value("{}".into()));
    let stepped = store.backend.step(Arc::new(step)).await.unwrap();
    put(&server, &["SET", "P:h", "~"]);
    let held = store.backend.held(store.me).await.unwrap();
    let claimed = store.claim().await;

    let Stepped::Done { versions, .. } = stepped else {
        panic!("{stepped:?}");
    };
    assert!(versions[0] > 1_700_000_000_000, "{versions:?}");
    assert_eq!((held, ids(&claimed.tasks)), (vec![], vec![task.id]));
}

#[tokio::test]
async fn an_instance_that_cannot_be_read_hides_no_other() {
    let server = RedisServer::start();
    let (store, other) = (open(&server).await, open(&server).await);
    let me = store.me.to_string();
    put(&server, &["HSET", "P:i", "no~id", "{}"]);
    put(&server, &["HSET", "P:i", &me, "~"]);
    put(&server, &["HSET", "P:b", &me, "at~no time"]);
    let errors = Errors::default();
    let _guard = tracing::subscriber::set_default(errors.clone());
    let shown = async || {
        let peers = store.backend.instances().await.unwrap();
        let of = |id| peers.iter().find(|it| it.instance.id == id).unwrap();
        assert_eq!(peers.len(), 2);
        [store.me, other.me].map(|id| (of(id).alive, of(id).beat_at))
    };

    let before = shown().await;
    let supersede = store.backend.supersede(store.me, before[0].1);
    supersede.await.unwrap();
    let after = shown().await;

    let unknown = Timestamp::default();
    assert_eq!(before, [(true, unknown), (true, NOW)]);
    assert_eq!(after, [(false, unknown), (true, NOW)]);
    assert_eq!(errors.0.load(Ordering::SeqCst), 1, "it is told of once");
}

#[tokio::test]
async fn sums_that_are_no_numbers_stop_nothing_and_begin_anew() {
    let server = RedisServer::start();
    let options = patient(server.url());
    let store = Store::open(options.history_max(2)).await;
    let tasks = [(); 3].map(|()| store.owned());
    store.add_all(&tasks).await;
    end(&store, &tasks[0]).await;
    end(&store, &tasks[1]).await;
    let minute = server.command(&["ZRANGE", "{taskflow}:ms", "0", "0"]);
    let of_minute = format!("P:m:{minute}");
    for (key, field, n) in [
        ("P:c", "success f", "2~"),
        ("P:c", "nothing", "9"),
        ("P:c", "failed ~", "0"),
        (&*of_minute, "n success f", "2~"),
        (&*of_minute, "t success f", ""),
        (&*of_minute, "nothing", "9"),
    ] {
        put(&server, &["HSET", key, field, n]);
    }
    put(&server, &["ZADD", "P:ms", &minute, "now~"]);
    let errors = Errors::default();
    let _guard = tracing::subscriber::set_default(errors.clone());
    let counts = async || {
        let counts = store.backend.counts().await.unwrap();
        let counts = counts.iter().map(|it| (it.status, it.n));
        counts.collect::<std::collections::BTreeMap<_, _>>()
    };
    let series = async || {
        let series = store.backend.series(Timestamp::default()).await.unwrap();
        series.iter().map(|it| it.n).collect::<Vec<_>>()
    };

    let before = (counts().await, series().await);
    let shown = counts().await;
    let told = errors.0.load(Ordering::SeqCst);
    let listed = store.backend.list(ListQuery::default()).await.unwrap();
    end(&store, &tasks[2]).await;

    assert_eq!((&before.0, before.1), (&shown, vec![]));
    assert_eq!(shown.get(&TaskStatus::Running), None);
    assert_eq!(shown.get(&TaskStatus::Pending), Some(&1));
    assert_eq!(told, 7, "each is told of once");
    assert_eq!(listed.tasks.len(), 3);
    assert_eq!(series().await, [1]);
    // One was too many.
    until("it is deleted", async || {
        !store.is_stored(tasks[0].id).await
    })
    .await;
    assert_eq!(counts().await.get(&TaskStatus::Success), Some(&2));
}

#[tokio::test]
async fn a_key_of_which_nobody_can_tell_whose_it_is_stays_taken_and_fails_no_other_task() {
    let server = RedisServer::start();
    let store = open(&server).await;
    let task = |key: &str| {
        let mut task = store.task();
        task.idempotency_key = Some(IdempotencyKey {
            key: key.to_owned(),
            ttl: Duration::ZERO,
        });
        task
    };
    let [first, other] = [task("c"), task("d")];
    store.add(&first).await;
    let id = first.id;
    put(&server, &["SET", "P:k:a", "~"]);
    put(
        &server,
        &["SET", "P:k:b", "not an id which is long enough for one - f"],
    );
    put(&server, &["SET", "P:k:c", &format!("{id} never f~")]);
    let errors = Errors::default();
    let _guard = tracing::subscriber::set_default(errors.clone());

    let mut written = Vec::new();
    for _ in 0..2 {
        let mut batch = Batch::at(NOW);
        let tasks = [task("a"), task("b"), task("c"), other.clone()];
        batch.tasks = tasks.map(Arc::new).into();
        written = store.backend.write(Arc::new(batch)).await.unwrap().tasks;
    }

    for taken in &written[..2] {
        let Enqueued::Exists { name, .. } = taken else {
            panic!("a second task was made");
        };
        assert_ne!(&**name, "f");
    }
    assert!(matches!(&written[2], Enqueued::Exists { id: holder, .. } if *holder == id));
    assert_eq!(written[3], Enqueued::Created);
    assert!(store.is_stored(other.id).await);
    assert_eq!(errors.0.load(Ordering::SeqCst), 2, "each is told of once");
    // And who has a key lets go of it.
    let running = store.claim().await.tasks;
    let first = running.into_iter().find(|task| task.id == id).unwrap();
    put(&server, &["SET", "P:k:c", &format!("{id}~")]);
    let policy = RetryPolicy::default();
    let end = Change::finished(&first, Outcome::Done(None), &policy, 0.0, NOW);
    let mut batch = Batch::at(NOW);
    batch.changes.push(end.unwrap());
    store.backend.write(Arc::new(batch)).await.unwrap();
    let later = NOW.saturating_add(Duration::from_secs(1));
    let mut batch = Batch::at(later);
    batch.tasks.push(Arc::new(task("c")));
    let written = store.backend.write(Arc::new(batch)).await.unwrap();
    assert_eq!(written.tasks, [Enqueued::Created]);
}

#[tokio::test]
async fn what_is_no_id_hides_nothing_from_lists_deletion_and_its_holder() {
    let server = RedisServer::start();
    let store = open(&server).await;
    let mut tasks = [(); 3].map(|()| store.owned());
    tasks[1].tracking_id = Some("r".into());
    store.add_all(&tasks).await;
    end(&store, &tasks[0]).await;
    end(&store, &tasks[1]).await;
    let mine = format!("P:o:{}", store.me);
    for set in ["P:f:f", "P:y:@r", &mine, "P:xo"] {
        let add: &[&str] = match set {
            "P:xo" => &["SADD", set, "~"],
            _ => &["ZADD", set, "0", "000~", "0", "~", "0", "no id"],
        };
        put(&server, add);
    }
    // Of one, damage has left what it is without a function.
    let body = server.command(&["GET", &key('t', tasks[1].id)]);
    let nameless = body.replacen(r#""f""#, "[]", 1);
    server.command(&["SET", &key('t', tasks[1].id), &nameless]);

    let mut listed = Vec::new();
    let mut query = ListQuery::default();
    query.limit = 1;
    for _ in 0..9 {
        let page = store.backend.list(query.clone()).await.unwrap();
        listed.extend(ids(&page.tasks));
        query.before = page.next;
        if page.next.is_none() {
            break;
        }
    }
    let held = store.backend.held(store.me).await.unwrap();
    let orphans = store.backend.orphans(9).await.unwrap();
    let later = NOW.saturating_add(Duration::from_secs(60));
    let mut prune = Prune {
        finished_before: later,
        failed_before: later,
        series_before: NOW,
        from: None,
        limit: 1,
    };
    let mut n_deleted = 0;
    for _ in 0..9 {
        let pruned = store.backend.prune(prune).await.unwrap();
        n_deleted += pruned.deleted;
        prune.from = pruned.next;
        if pruned.next.is_none() {
            break;
        }
    }

    assert_eq!(listed, [tasks[2].id, tasks[1].id, tasks[0].id]);
    assert_eq!((held, orphans), (vec![tasks[2].id], vec![]));
    assert_eq!(n_deleted, 1);
    let left = store.backend.list(ListQuery::default()).await.unwrap();
    assert_eq!(ids(&left.tasks), [tasks[2].id, tasks[1].id]);
}

#[tokio::test]
async fn an_attempt_that_cannot_be_read_hides_no_other() {
    let server = RedisServer::start();
    let store = open(&server).await;
    let task = store.owned();
    store.add(&task).await;
    assert!(store.start(&task).await);
    let task = store.backend.get(task.id).await.unwrap().unwrap();
    let mut batch = Batch::at(NOW);
    let policy = RetryPolicy {
        retries: 3,
        ..RetryPolicy::default()
    };
    let timed_out = Outcome::TimedOut(Duration::from_secs(1));
    let end = Change::finished(&task, timed_out, &policy, 0.0, NOW);
    batch.changes.push(end.unwrap());
    store.backend.write(Arc::new(batch)).await.unwrap();
    let attempts = key('p', task.id).replace("{taskflow}:", "P:");
    put(&server, &["LPUSH", &attempts, "~"]);

    let shown = store.backend.get(task.id).await.unwrap().unwrap();

    assert_eq!(shown.past_attempts.len(), 1);
}

#[tokio::test]
async fn a_task_without_an_id_hides_no_other() {
    let server = RedisServer::start();
    let store = open(&server).await;
    let mut tasks = [(); 2].map(|()| store.task());
    tasks[1].life.run_at = NOW.saturating_add(Duration::from_secs(60));
    store.add_all(&tasks).await;
    let at = NOW.as_unix_ms();
    let later = at + 1;
    for id in ["000 no id, of 36 characters as it is", "~"] {
        put(
            &server,
            &[
                "SET",
                &format!("P:l:{id}"),
                &format!("pending 0 - 0 0 {at} - - -\n\n"),
            ],
        );
        put(
            &server,
            &[
                "SET",
                &format!("P:t:{id}"),
                "7fffffff\n{\"name\":\"f\"}\n[]",
            ],
        );
        put(&server, &["ZADD", "P:f:f", "0", id]);
        put(
            &server,
            &["ZADD", "P:w:f", "0", &format!("00000000{at:015}{id}")],
        );
        put(
            &server,
            &["ZADD", "P:a", "0", &format!("{later:015}7fffffff{id:36}f")],
        );
    }

    let listed = store.backend.list(ListQuery::default()).await.unwrap();
    let query = AheadQuery::until(NOW.saturating_add(Duration::from_secs(3_600)));
    let ahead = store.backend.ahead(query).await.unwrap();
    let claimed = store.claim_with_room(9, None).await.tasks;

    assert_eq!(ids(&listed.tasks), [tasks[1].id, tasks[0].id]);
    assert_eq!(ids(&ahead.tasks), [tasks[1].id]);
    assert_eq!(ids(&claimed), [tasks[0].id]);
}
