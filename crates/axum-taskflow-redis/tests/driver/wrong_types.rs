//! A key that somebody has replaced by one of another type fails the calls that meet it. A script is not rolled back: what
//! has failed half-way must be as if it had not been called, or be completed when it is called again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::support::{NOW, Store, patient};
use axum_taskflow_core::{
    AuditEntry, Backend, BackendError, Batch, Becomes, Change, Claim, FailureKind, FailureReport,
    IdSource, IdempotencyKey, Instance, InstanceId, LogLevel, LogLine, Note, Outcome, Prune,
    RecordChange, RetryPolicy, Said, Step, Stepped, Task, TaskId, Timestamp,
};
use axum_taskflow_redis::Redis;
use servers::RedisServer;

/// What is stored below a prefix, by key and sorted, but for what each store has of its own: what it is called, the numbers
/// of its calls and claims, and times of the server.
const ALL: &str = "
    local all = {}
    for _, key in ipairs(redis.call('KEYS', '{' .. ARGV[1] .. '}:*')) do
        local kind, name = redis.call('TYPE', key).ok, string.match(key, ':(.*)')
        local values
        if kind == 'hash' then
            values = {}
            for _, field in ipairs(redis.call('HKEYS', key)) do
                local value = redis.call('HGET', key, field)
                values[#values + 1] = field .. '=' .. (name == 'r' and string.gsub(value, '^%d+', '') or value)
            end
        elseif kind == 'zset' then
            values = redis.call('ZRANGE', key, 0, -1)
        elseif kind == 'set' then
            values = redis.call('SMEMBERS', key)
        elseif kind == 'list' then
            values = redis.call('LRANGE', key, 0, -1)
        else
            values = { redis.call('GET', key) }
        end
        if string.sub(name, 1, 3) == 'cl:' then values[1] = string.gsub(values[1], '^%d+', '') end
        if name ~= 'meta' and name ~= 'rv' and string.sub(name, 1, 2) ~= 'v:' then
            for _, value in ipairs(values) do all[#all + 1] = name .. '\\1' .. value .. '\\2' end
        end
    end
    return table.concat(all)";

/// Two stores to which the same is done. In the one, a key is of another type when anything is done first.
struct Pair {
    server: RedisServer,
    one: Redis,
    other: Redis,
    /// The key, without its prefix.
    broken: String,
}

type All = BTreeMap<String, Vec<String>>;

impl Pair {
    async fn open(broken: &str) -> Self {
        let server = RedisServer::start();
        let store = async |prefix| {
            let options = patient(server.url()).prefix(prefix);
            options.open().await.unwrap()
        };
        let (one, other) = (store("one").await, store("other").await);
        Self {
            server,
            one,
            other,
            broken: broken.to_owned(),
        }
    }

    async fn both(&self, what: &str, act: impl AsyncFn(&Redis) -> Result<String, BackendError>) {
        let expected = act(&self.other).await.unwrap();
        let (key, aside) = (format!("{{one}}:{}", self.broken), "{aside}:key");
        let was_there = self.server.try_command(&["RENAME", &key, aside]).is_ok();
        let is_string = ["h", "rv"].contains(&&*self.broken)
            || ["cl:", "k:", "q:", "l:", "t:"]
                .iter()
                .any(|kind| self.broken.starts_with(kind));
        match is_string {
            true => self.server.command(&["HSET", &key, "mine", "1"]),
            false => self.server.command(&["SET", &key, "mine"]),
        };

        let mut answer = act(&self.one).await;
        let is_still_broken =
            self.server.command(&["TYPE", &key]) == if is_string { "hash" } else { "string" };
        if is_still_broken {
            self.server.command(&["DEL", &key]);
            if was_there {
                self.server.command(&["RENAME", aside, &key]);
            }
        }
        self.server.command(&["DEL", aside]);
        let has_failed = answer.is_err();
        if let Err(why) = answer {
            assert!(why.to_string().contains("another type"), "{what}: {why}");
            answer = act(&self.one).await;
        }

        assert_eq!(answer.unwrap(), expected, "{what}, with {}", self.broken);
        let (mut one, mut other) = (self.all("one"), self.all("other"));
        if !has_failed {
            // Nothing can be taken out of what it is not in.
            let of_one = one.remove(&self.broken).unwrap_or_default();
            for value in other.remove(&self.broken).unwrap_or_default() {
                assert!(
                    of_one.contains(&value),
                    "{what}: {value} is not in {}",
                    self.broken
                );
            }
            self.server.command(&["DEL", &key]);
            self.server
                .command(&["COPY", &format!("{{other}}:{}", self.broken), &key]);
        }
        assert_eq!(one, other, "{what}, with {}", self.broken);
    }

    fn all(&self, prefix: &str) -> All {
        let mut all = All::new();
        for entry in self
            .server
            .command(&["EVAL", ALL, "0", prefix])
            .split('\u{2}')
        {
            if let Some((name, value)) = entry.split_once('\u{1}') {
                all.entry(name.to_owned())
                    .or_default()
                    .push(value.to_owned());
            }
        }
        all.values_mut().for_each(|values| values.sort());
        all
    }

    async fn write(&self, what: &str, batch: Batch) {
        let batch = Arc::new(batch);
        let act = async |store: &Redis| Ok(format!("{:?}", store.write(batch.clone()).await?));
        self.both(what, act).await;
    }

    async fn get(&self, id: TaskId) -> Task {
        self.other.get(id).await.unwrap().unwrap()
    }
}

fn at(now: Timestamp, tasks: &[&Task], changes: Vec<Change>) -> Batch {
    let mut batch = Batch::at(now);
    batch.tasks = tasks.iter().map(|&task| Arc::new(task.clone())).collect();
    batch.changes = changes;
    batch
}

fn finished(task: &Task, outcome: Outcome, retries: u32, now: Timestamp) -> Change {
    let policy = RetryPolicy {
        retries,
        ..RetryPolicy::default()
    };
    Change::finished(task, outcome, &policy, 0.0, now).unwrap()
}

/// The life of tasks of all kinds.
async fn live(pair: &Pair, me: InstanceId, dead: InstanceId, ids: &IdSource) {
    let later = NOW.saturating_add(Duration::from_secs(3_600));
    let new = |name: &str, owner| {
        let mut task = Task::new(ids.task(NOW), name, "[]");
        task.life.owner = owner;
        task
    };
    for id in [me, dead] {
        let act = async |store: &Redis| {
            store.join(Instance::new(id, NOW)).await?;
            Ok(String::new())
        };
        pair.both("join", act).await;
    }
    let of_dead = new("f", Some(dead));
    pair.write("add what another one holds", at(NOW, &[&of_dead], vec![]))
        .await;
    let due = new("f", None);
    pair.write("add one that is due", at(NOW, &[&due], vec![]))
        .await;
    let mine = new("f", Some(me));
    pair.write("add one that is held first", at(NOW, &[&mine], vec![]))
        .await;
    let also_mine = new("f", Some(me));
    pair.write("add one that is held", at(NOW, &[&also_mine], vec![]))
        .await;
    let with_key = |key: &str| {
        let mut task = new("f", Some(me));
        task.idempotency_key = Some(IdempotencyKey {
            key: key.to_owned(),
            ttl: Duration::from_secs(60),
        });
        task
    };
    let alone = with_key("alone");
    pair.write("add one with a key", at(NOW, &[&alone], vec![]))
        .await;
    let start = Change::started(&pair.get(alone.id).await, me, NOW).unwrap();
    pair.write("start one with a key", at(NOW, &[], vec![start]))
        .await;
    let end = finished(&pair.get(alone.id).await, Outcome::Done(None), 0, NOW);
    pair.write("end one with a key", at(NOW, &[], vec![end]))
        .await;
    let mut keyed = with_key("key");
    keyed.tags.insert("k".into(), "v".into());
    let mut ahead = new("g", None);
    ahead.life.run_at = later;
    let (two, three) = (new("g", None), new("g", Some(me)));
    let mut batch = at(NOW, &[&two, &keyed, &ahead, &three], vec![]);
    batch.audit.push(AuditEntry {
        id: ids.task(NOW),
        at: NOW,
        actor: "ada".to_owned(),
        action: "add".to_owned(),
        task: None,
        detail: "{}".into(),
    });
    pair.write("add several", batch).await;

    let start = Change::started(&mine, me, NOW).unwrap();
    pair.write("start one", at(NOW, &[], vec![start])).await;
    let starts = [&also_mine, &keyed, &three].map(|task| Change::started(task, me, NOW).unwrap());
    pair.write("start several", at(NOW, &[], starts.to_vec()))
        .await;
    let end = finished(&pair.get(mine.id).await, Outcome::Done(None), 0, NOW);
    pair.write("end one", at(NOW, &[], vec![end])).await;

    let claim = |now| Claim {
        owner: me,
        names: Arc::new(["f".into(), "g".into()]),
        except: Arc::default(),
        limit: 9,
        now,
        reserve: None,
    };
    let claimed = async |store: &Redis| Ok(format!("{:?}", store.claim(claim(NOW)).await?));
    pair.both("claim", claimed).await;

    let failed = || Outcome::Panicked(FailureReport::new(FailureKind::Panic, "no"));
    let (three, keyed) = (pair.get(three.id).await, pair.get(keyed.id).await);
    let (due, two) = (pair.get(due.id).await, pair.get(two.id).await);
    let mut batch = at(
        NOW,
        &[&new("f", None), &new("h", None)],
        vec![
            finished(&three, failed(), 3, NOW),
            finished(&due, failed(), 0, NOW),
            finished(&keyed, Outcome::Done(Some("7".into())), 0, NOW),
            finished(&pair.get(also_mine.id).await, Outcome::Done(None), 0, NOW),
        ],
    );
    batch.notes.push(Note {
        id: two.id,
        epoch: two.life.epoch,
        what: Said::Log(LogLine {
            seq: 0,
            attempt: 1,
            at: NOW,
            level: LogLevel::Info,
            message: "said".to_owned(),
        }),
    });
    pair.write("end several", batch).await;
    let release = Change::released(&pair.get(two.id).await).unwrap();
    pair.write("release", at(NOW, &[], vec![release])).await;

    let mut step = Step::at(NOW);
    for key in ["a", "b"] {
        step.records.push(RecordChange {
            key: key.to_owned(),
            expects: 0,
            becomes: Becomes::Value("{}".into()),
        });
    }
    let cancel = Change::cancelled(&pair.get(ahead.id).await, NOW).unwrap();
    step.changes.push(cancel);
    let mut keyed = new("i", None);
    keyed.idempotency_key = Some(IdempotencyKey {
        key: "slot".to_owned(),
        ttl: Duration::from_secs(60),
    });
    step.tasks.extend([new("f", None), keyed].map(Arc::new));
    let step = Arc::new(step);
    let act = async |store: &Redis| match store.step(step.clone()).await? {
        Stepped::Done { tasks, .. } => Ok(format!("{tasks:?}")),
        Stepped::Stale => Ok("stale".to_owned()),
    };
    pair.both("step", act).await;

    let act = async |store: &Redis| {
        store.leave(dead).await?;
        Ok(String::new())
    };
    pair.both("leave", act).await;
    let act = async |store: &Redis| Ok(format!("{:?}", store.orphans(9).await?));
    pair.both("look for orphans", act).await;
    let release = Change::released(&of_dead).unwrap();
    pair.write("take over", at(NOW, &[], vec![release])).await;
    let act = async |store: &Redis| Ok(format!("{:?}", store.orphans(9).await?));
    pair.both("forget who is dead", act).await;

    let much_later = later.saturating_add(Duration::from_secs(1));
    let claimed = async |store: &Redis| Ok(format!("{:?}", store.claim(claim(much_later)).await?));
    pair.both("claim what has become due", claimed).await;
    let prune = Prune {
        finished_before: much_later,
        failed_before: much_later,
        series_before: much_later,
        from: None,
        limit: 99,
    };
    let act = async |store: &Redis| Ok(format!("{:?}", store.prune(prune).await?));
    pair.both("delete", act).await;
}

/// Makes a key one of another type, and back again after a call that fails by it.
async fn fails(
    server: &RedisServer,
    key: &str,
    call: impl Future<Output = Result<(), BackendError>>,
) {
    let (key, aside) = (format!("{{taskflow}}:{key}"), "{taskflow}:aside");
    let was_there = server.try_command(&["RENAME", &key, aside]).is_ok();
    server.command(&["SET", &key, "mine"]);
    let why = call.await.unwrap_err().to_string();
    assert!(why.contains("another type"), "{key}: {why}");
    server.command(&["DEL", &key]);
    if was_there {
        server.command(&["RENAME", aside, &key]);
    }
}

#[tokio::test]
async fn what_a_failed_claim_leaves_takes_no_task_from_whoever_holds_it() {
    let server = RedisServer::start();
    let open = async || Store::open(patient(server.url())).await;
    let (one, other) = (open().await, open().await);
    let task = one.task();
    one.add(&task).await;
    let claim = async |store: &Store| {
        let claim = Claim {
            owner: store.me,
            names: Arc::new(["f".into()]),
            except: Arc::default(),
            limit: 9,
            now: NOW,
            reserve: None,
        };
        store.backend.claim(claim).await
    };
    fails(&server, "c", async { claim(&one).await.map(drop) }).await;

    let claimed = claim(&other).await.unwrap().tasks;
    one.backend.leave(one.me).await.unwrap();

    assert_eq!(claimed.len(), 1);
    assert_eq!(other.backend.orphans(9).await.unwrap(), []);
    assert_eq!(other.backend.held(other.me).await.unwrap(), [task.id]);
    assert_eq!(other.backend.orphans(9).await.unwrap(), []);
    assert_eq!(server.command(&["SMEMBERS", "{taskflow}:xo"]), "");
}

#[tokio::test]
async fn of_tasks_that_could_not_be_added_and_are_not_tried_again_nothing_is_left() {
    let server = RedisServer::start();
    let store = Store::open(patient(server.url())).await;
    let (due, mut ahead, mut keyed) = (store.task(), store.task(), store.owned());
    ahead.life.run_at = NOW.saturating_add(Duration::from_secs(60));
    keyed.tags.insert("k".into(), "v".into());
    keyed.idempotency_key = Some(IdempotencyKey {
        key: "key".to_owned(),
        ttl: Duration::from_secs(60),
    });
    let (other_due, owned) = (store.task(), store.owned());
    store.add(&store.owned()).await;

    for broken in ["u", "wn", "y:1:k", "a", "w:f"] {
        let mut batch = at(NOW, &[&due, &other_due, &ahead, &keyed], vec![]);
        batch.audit.push(AuditEntry {
            id: store.task().id,
            at: NOW,
            actor: "ada".to_owned(),
            action: "add".to_owned(),
            task: None,
            detail: "{}".into(),
        });
        let write = async { store.backend.write(Arc::new(batch)).await.map(drop) };
        fails(&server, broken, write).await;
    }
    for (broken, task) in [("w:f", &due), ("a", &ahead), ("f:f", &owned)] {
        fails(&server, broken, store.try_add(task)).await;
    }

    let sizes = |set: &str| server.command(&["ZCARD", &format!("{{taskflow}}:{set}")]);
    let mine = format!("o:{}", store.me);
    let left = ["f:f", &mine, "o:-", "w:f", "a", "y:1:k"].map(sizes);
    assert_eq!(left, ["1", "1", "0", "0", "0", "0"]);
}

#[tokio::test]
async fn a_call_that_fails_and_is_not_made_again_leaves_no_key_for_ever() {
    let server = RedisServer::start();
    let store = Store::open(patient(server.url())).await;
    let keyed = || {
        let mut task = store.owned();
        task.idempotency_key = Some(IdempotencyKey {
            key: "key".to_owned(),
            ttl: Duration::from_secs(60),
        });
        task
    };
    let [first, other] = [keyed(), store.owned()];
    store.add_all(&[first.clone(), other.clone()]).await;
    let mut ends = Vec::new();
    for task in [&first, &other] {
        assert!(store.start(task).await);
        let task = store.backend.get(task.id).await.unwrap().unwrap();
        ends.push(task);
    }
    let done = |task, now| finished(task, Outcome::Done(None), 0, now);
    let write = async |batch| store.backend.write(Arc::new(batch)).await.map(drop);
    write(at(NOW, &[], vec![done(&ends[0], NOW)]))
        .await
        .unwrap();
    let later = NOW.saturating_add(Duration::from_secs(60));

    let again = at(later, &[&keyed()], vec![]);
    fails(&server, "f:f", write(again)).await;
    let end = at(later, &[], vec![done(&ends[1], later)]);
    fails(&server, "ms", write(end)).await;

    assert_ne!(server.command(&["TTL", "{taskflow}:k:key"]), "-1");
    let minutes = server.command(&["KEYS", "{taskflow}:m:*"]);
    assert_eq!(minutes.lines().count(), 1, "{minutes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_has_failed_half_way_is_completed_when_it_is_made_again() {
    let ids = IdSource::default();
    let (me, dead) = (ids.instance(NOW), ids.instance(NOW));
    let minute = NOW.as_unix_ms() / 60_000 * 60_000;
    let mut failed = Vec::new();
    for key in [
        "none",
        "c",
        "ms",
        "m:MINUTE",
        "u",
        "r",
        "rn",
        "rv",
        "os",
        "i",
        "b",
        "x",
        "xo",
        "wn",
        "w:f",
        "w:g",
        "w:h",
        "w:i",
        "a",
        "h",
        "o:-",
        "o:ME",
        "o:DEAD",
        "f:f",
        "f:g",
        "f:h",
        "f:i",
        "s:failed",
        "s:cancelled",
        "y:1:k",
        "k:key",
        "k:alone",
        "k:slot",
        "cl:ME",
    ] {
        let key = key.replace("MINUTE", &minute.to_string());
        let key = key.replace("ME", &me.to_string());
        let key = key.replace("DEAD", &dead.to_string());
        let pair = Pair::open(&key).await;
        let ids = IdSource::default();
        let local = tokio::task::LocalSet::new();
        let lived = local.spawn_local(async move { live(&pair, me, dead, &ids).await });
        local.await;
        if lived.await.is_err() {
            failed.push(key);
        }
    }

    assert_eq!(failed, [""; 0]);
}

#[test]
fn other_servers_do_the_same() {
    servers::test_with_others("wrong_types::", &["other_servers_do_the_same"]);
}
