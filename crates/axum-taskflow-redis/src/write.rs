//! A batch or a step as one call, and its answers.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use axum_taskflow_core::{
    Applied, AuditEntry, BackendError, Batch, Becomes, Change, Enqueued, Epoch, HeldBy, InstanceId,
    KeyFate, Life, Note, Said, Step, Stepped, Task, TaskId, TaskStatus, Timestamp, Turn, Written,
};
use redis::Value;
use tokio::time::Instant;

use crate::{
    answer,
    damage::Damage,
    link::{ADD, Call, Link, MOVE, STEP, WRITE},
    record,
    words::{PART_BYTES, Words},
};

const MINUTE_MS: i64 = 60_000;

/// At most so many tasks at once: the script gives four words of each to one command, and Lua's stack is small.
const ALIKE_MAX: usize = 500;

pub(crate) async fn write(
    link: &Link,
    batch: &Batch,
    damage: &Damage,
) -> Result<Written, BackendError> {
    // Both calls have one deadline. What is not tried alone may be large, and has time from when it is sent.
    let is_alone = batch.tasks.len() + batch.changes.len() == 1;
    let made = is_alone.then(Instant::now);
    if write_one(link, batch).await? {
        return Ok(Written {
            tasks: vec![Enqueued::Created; batch.tasks.len()],
            changes: vec![Applied::Applied; batch.changes.len()],
        });
    }
    write_all(link, batch, damage, made).await
}

async fn write_all(
    link: &Link,
    batch: &Batch,
    damage: &Damage,
    goes_on_since: Option<Instant>,
) -> Result<Written, BackendError> {
    let mut words = Words::new(link);
    words.arg(batch.now.as_unix_ms());
    add_blocks(&mut words, &batch.tasks, batch.now)?;
    let rest = add_moves(&mut words, &batch.changes, batch.now)?;
    add_changes(&mut words, &rest, batch.now)?;
    words.count(batch.notes.len() * 4);
    for note in &batch.notes {
        add_note(&mut words, note)?;
    }
    add_entries(&mut words, &batch.audit)?;
    let n_tasks = batch.tasks.len();
    let answer = words.send(link, &WRITE, n_tasks, goes_on_since).await?;
    let [refused, stale, _] = read_answer(answer)?;
    let mut changes = vec![Applied::Applied; batch.changes.len()];
    for number in stale {
        *at(&mut changes, number)? = Applied::Stale;
    }
    let tasks = read_tasks(&batch.tasks, refused, damage)?;
    Ok(Written { tasks, changes })
}

/// True if the batch was no more than a plain new task, a start or an end, and was as expected: a service that is not busy
/// writes little else. For these the server has scripts that take it little more than half of what [`WRITE`] does. They
/// change nothing if they are not sure.
async fn write_one(link: &Link, batch: &Batch) -> Result<bool, BackendError> {
    if !batch.notes.is_empty() || !batch.audit.is_empty() {
        return Ok(false);
    }
    let call = match (&*batch.tasks, &*batch.changes) {
        ([task], []) => add_one(link, task, batch.now)?,
        ([], [change]) => move_one(link, change, batch.now)?,
        _ => None,
    };
    match call {
        Some(call) => Ok(link.send(&call).await? == Value::Int(0)),
        None => Ok(false),
    }
}

fn add_one(link: &Link, task: &Task, now: Timestamp) -> Result<Option<Call>, BackendError> {
    if !record::all_tag_sets(task).is_empty() {
        return Ok(None);
    }
    let (mut body, mut life) = (String::new(), String::new());
    record::body(task, &mut body)?;
    record::life(&task.life, &mut life)?;
    if body.len().max(life.len()) > PART_BYTES {
        return Ok(None);
    }
    let kind = Kind::of(task, now);
    let mut call = link.call_in_time(&ADD);
    call.replicated()
        .arg(now.as_unix_ms())
        .arg(u8::from(link.is_cluster()))
        .arg(kind.name)
        .arg(kind.status.as_str())
        .arg(record::Word(kind.owner).to_string())
        .arg(kind.waits.set(kind.name))
        .arg(kind.waits.place(Turn::of(task), kind.name))
        .arg(task.id.to_string())
        .arg(body)
        .arg(life);
    match &task.idempotency_key {
        Some(key) => call
            .arg(format!("{}:k:{}", link.prefix(), key.key))
            .arg(key_says(task.id, None, kind.name)),
        None => call.arg("").arg(""),
    };
    Ok(Some(call))
}

fn move_one(link: &Link, change: &Change, now: Timestamp) -> Result<Option<Call>, BackendError> {
    let of_one = Move::of(change, now).filter(|it| it.owner.is_some() || it.minute.is_some());
    let Some(it) = of_one else { return Ok(None) };
    let mut life = String::new();
    record::life_after(change, &mut life)?;
    if life.len() > PART_BYTES {
        return Ok(None);
    }
    let (status, epoch) = it.expects;
    let mut call = link.call_in_time(&MOVE);
    call.replicated()
        .though_full()
        .arg(change.id.to_string())
        .arg(status.as_str())
        .arg(epoch.get())
        .arg(it.holder.to_string())
        .arg(it.name)
        .arg(it.status.as_str())
        .arg(life)
        .arg(
            it.minute
                .map_or_else(String::new, |minute| minute.to_string()),
        )
        .arg(end(&change.life, now).map_or(0, |(_, ran_ms)| ran_ms));
    for word in fate(link.prefix(), change, now) {
        call.arg(word);
    }
    Ok(Some(call))
}

pub(crate) async fn step(
    link: &Link,
    step: &Step,
    damage: &Damage,
) -> Result<Stepped, BackendError> {
    let mut words = Words::new(link);
    words.arg(step.now.as_unix_ms());
    words.count(step.records.len() * 3);
    for change in &step.records {
        words.text(&change.key).arg(change.expects);
        match &change.becomes {
            Becomes::Same => words.text("="),
            Becomes::Value(value) => words.arg(format_args!("+{value}")),
            Becomes::Gone => words.text("-"),
        };
    }
    let changes: Vec<_> = step.changes.iter().enumerate().collect();
    add_changes(&mut words, &changes, step.now)?;
    add_blocks(&mut words, &step.tasks, step.now)?;
    add_entries(&mut words, &step.audit)?;
    let n_tasks = step.tasks.len();
    let answer = words.send(link, &STEP, n_tasks, None).await?;
    if matches!(answer, Value::Nil | Value::Boolean(false)) {
        return Ok(Stepped::Stale);
    }
    let [refused, _, versions] = read_answer(answer)?;
    let tasks = read_tasks(&step.tasks, refused, damage)?;
    let versions = versions
        .into_iter()
        .map(|answer| Ok(answer::number(answer)?.unsigned_abs()))
        .collect::<Result<_, BackendError>>()?;
    Ok(Stepped::Done { versions, tasks })
}

/// What new tasks of one block have in common.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Kind<'a> {
    name: &'a str,
    status: TaskStatus,
    owner: Option<InstanceId>,
    waits: Waits,
}

impl<'a> Kind<'a> {
    fn of(task: &'a Task, now: Timestamp) -> Self {
        Self {
            name: &task.name,
            status: task.life.status,
            owner: task.life.owner,
            waits: Waits::of(&task.life, now),
        }
    }
}

/// Whether a task waits for anybody.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Waits {
    No,
    Due,
    Ahead,
}

impl Waits {
    fn of(life: &Life, now: Timestamp) -> Self {
        match life.status == TaskStatus::Pending && life.owner.is_none() {
            false => Self::No,
            true if life.run_at <= now => Self::Due,
            true => Self::Ahead,
        }
    }

    /// The set in which tasks of this function wait.
    fn set(self, name: &str) -> String {
        match self {
            Self::No => String::new(),
            Self::Due => format!("w:{name}"),
            Self::Ahead => "a".to_owned(),
        }
    }

    /// Where one of them lies in it.
    fn place(self, turn: Turn, name: &str) -> String {
        match self {
            Self::No => String::new(),
            Self::Due => record::turn(turn),
            Self::Ahead => {
                let (run_at, priority) = (
                    record::sortable(turn.run_at),
                    record::priority(turn.priority.0),
                );
                format!("{run_at}{priority}{}{name}", turn.id)
            }
        }
    }
}

/// Tasks with their numbers in the batch.
type Numbered<'a> = Vec<(usize, &'a Task)>;

fn add_blocks(
    words: &mut Words<'_>,
    tasks: &[Arc<Task>],
    now: Timestamp,
) -> Result<(), BackendError> {
    // These are in no order. Behind them, one by one and as they were given: tasks whose id or key is in the batch already,
    // so that the first one gets it.
    let mut alike = BTreeMap::<(Kind<'_>, bool), Numbered<'_>>::new();
    let mut again: Numbered<'_> = Vec::new();
    let (mut ids, mut keys) = (HashSet::with_capacity(tasks.len()), HashSet::new());
    for (n, task) in tasks.iter().enumerate() {
        let key = task.idempotency_key.as_ref();
        let is_first = ids.insert(task.id) & key.is_none_or(|key| keys.insert(&key.key));
        match is_first {
            true => {
                let alike = alike.entry((Kind::of(task, now), key.is_some()));
                alike.or_default().push((n, task));
            }
            false => again.push((n, task)),
        }
    }
    let n_alike: usize = alike
        .values()
        .map(|them| them.len().div_ceil(ALIKE_MAX))
        .sum();
    words.count(n_alike + again.len());
    let alike = alike.iter().flat_map(|((kind, _), tasks)| {
        let blocks = tasks.chunks(ALIKE_MAX);
        blocks.map(|block| (*kind, block))
    });
    let again = again.chunks(1).map(|one| (Kind::of(one[0].1, now), one));
    for (kind, block) in alike.chain(again) {
        add_block(words, kind, block)?;
    }
    Ok(())
}

/// All of them have keys, or none.
fn add_block(
    words: &mut Words<'_>,
    kind: Kind<'_>,
    tasks: &[(usize, &Task)],
) -> Result<(), BackendError> {
    words
        .text(kind.name)
        .text(kind.status.as_str())
        .arg(format_args!("o:{}", record::Word(kind.owner)))
        .text(&kind.waits.set(kind.name));
    words.count(tasks.len() * 4);
    for (_, task) in tasks {
        words.key('t', task.id).body(task)?;
        words.key('l', task.id).life(&task.life)?;
    }
    words.count(tasks.len() * 2);
    for (_, task) in tasks {
        words.text("0").arg(task.id);
    }
    let turns = tasks.iter().map(|(_, task)| Turn::of(task));
    add_places(words, kind.waits, kind.name, turns);
    let tagged: Vec<_> = tasks
        .iter()
        .flat_map(|(_, task)| {
            record::all_tag_sets(task)
                .into_iter()
                .map(|set| (set, task.id))
        })
        .collect();
    words.count(tagged.len() * 2);
    for (set, id) in tagged {
        words.text(&set).arg(id);
    }
    let keys = tasks.iter().filter_map(|(n, task)| {
        let key = task.idempotency_key.as_ref()?;
        Some((*n, task.id, &key.key))
    });
    let n_keys = keys.clone().count();
    words.count(n_keys);
    for (n, ..) in keys.clone() {
        words.number(n as u64);
    }
    words.count(n_keys * 2);
    for (_, id, key) in keys {
        words.key('k', key).text(&key_says(id, None, kind.name));
    }
    Ok(())
}

/// As the command that puts them there takes them; none of tasks that do not wait.
fn add_places(
    words: &mut Words<'_>,
    waits: Waits,
    name: &str,
    turns: impl ExactSizeIterator<Item = Turn>,
) {
    if waits == Waits::No {
        words.count(0);
        return;
    }
    words.count(turns.len() * 2);
    for turn in turns {
        words.text("0").text(&waits.place(turn, name));
    }
}

/// What starts, ends and releases have in common that are written at once.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Move<'a> {
    name: &'a str,
    expects: (TaskStatus, Epoch),
    /// Who holds the tasks, if nothing has come between: else they are looked at one by one.
    holder: InstanceId,
    status: TaskStatus,
    owner: Option<InstanceId>,
    waits: Waits,
    minute: Option<i64>,
    /// They have idempotency keys, and end.
    has_keys: bool,
}

impl<'a> Move<'a> {
    /// Nothing if the change does more than a start that the holder of the task makes, its end with success, or its
    /// release.
    fn of(change: &'a Change, now: Timestamp) -> Option<Self> {
        let life = &change.life;
        let holder = match (life.status, life.owner, change.held_by) {
            (TaskStatus::Running, Some(owner), HeldBy::Anybody) if life.instance == Some(owner) => {
                owner
            }
            (TaskStatus::Success, _, HeldBy::Anybody) => life.instance?,
            (TaskStatus::Pending, None, HeldBy::Instance(holder)) => holder,
            _ => return None,
        };
        let has_keys = change.key != KeyFate::Stays;
        let is_plain = change.ended.is_none() && (!has_keys || life.status == TaskStatus::Success);
        is_plain.then(|| Self {
            name: &change.name,
            expects: change.expects,
            holder,
            status: life.status,
            owner: life.owner,
            waits: Waits::of(life, now),
            minute: end(life, now).map(|(minute, _)| minute),
            has_keys,
        })
    }
}

/// The changes that are left, with their numbers. Of a task that is changed several times all changes but the first are
/// left: they come behind.
fn add_moves<'a>(
    words: &mut Words<'_>,
    changes: &'a [Change],
    now: Timestamp,
) -> Result<Vec<(usize, &'a Change)>, BackendError> {
    let mut moves = BTreeMap::<Move<'_>, Vec<(usize, &Change)>>::new();
    let (mut rest, mut ids) = (Vec::new(), HashSet::with_capacity(changes.len()));
    for (n, change) in changes.iter().enumerate() {
        let is_first = ids.insert(change.id);
        match Move::of(change, now).filter(|_| is_first) {
            Some(alike) => moves.entry(alike).or_default().push((n, change)),
            None => rest.push((n, change)),
        }
    }
    words.count(
        moves
            .values()
            .map(|them| them.len().div_ceil(ALIKE_MAX))
            .sum(),
    );
    for (alike, changes) in &moves {
        for changes in changes.chunks(ALIKE_MAX) {
            words
                .arg(expected(alike.expects, HeldBy::Anybody))
                .arg(alike.holder)
                .text(alike.name)
                .text(alike.status.as_str());
            match alike.minute {
                Some(minute) => words.text("").text("").arg(minute),
                None => words
                    .arg(format_args!("o:{}", record::Word(alike.owner)))
                    .text(&alike.waits.set(alike.name))
                    .text(""),
            };
            words.count(changes.len() * 2);
            for (_, change) in changes {
                words.key('l', change.id).life_after(change)?;
            }
            words.count(changes.len() * 2);
            for (n, change) in changes {
                words
                    .number(*n as u64)
                    .number(end(&change.life, now).map_or(0, |(_, ran_ms)| ran_ms));
            }
            let turns = changes.iter().map(|(_, change)| Turn::after(change));
            add_places(words, alike.waits, alike.name, turns);
            words.count(if alike.has_keys { changes.len() * 3 } else { 0 });
            if alike.has_keys {
                for (_, change) in changes {
                    words.texts(fate(words.prefix, change, now));
                }
            }
        }
    }
    Ok(rest)
}

/// The idempotency key of the task, what it says from now on and for how many milliseconds, or nothing twice if it is free
/// again. Nothing three times if it stays as it is.
fn fate(prefix: &str, change: &Change, now: Timestamp) -> [String; 3] {
    /// Callers' clocks say when a key is free. This is only so that nothing is left.
    const LEFT_FOR: Duration = Duration::from_secs(3_600);
    /// Ten years: no server takes any number.
    const LEFT_MAX: Duration = Duration::from_secs(315_360_000);
    let named = |key: &str| format!("{prefix}:k:{key}");
    match &change.key {
        KeyFate::Stays => Default::default(),
        KeyFate::Freed(key) => [named(key), String::new(), String::new()],
        KeyFate::KeptUntil(key, until) => {
            let left = until.since(now).min(LEFT_MAX) + LEFT_FOR;
            let says = key_says(change.id, Some(*until), &change.name);
            [named(key), says, left.as_millis().to_string()]
        }
    }
}

/// What an idempotency key says: the task that has it, until when if that has ended, and its function.
fn key_says(id: TaskId, until: Option<Timestamp>, name: &str) -> String {
    format!(
        "{id} {} {name}",
        record::Word(until.map(Timestamp::as_unix_ms))
    )
}

/// What the stored life must begin with.
fn expected((status, epoch): (TaskStatus, Epoch), holder: HeldBy) -> String {
    match holder {
        HeldBy::Anybody => format!("{status} {epoch} "),
        HeldBy::Nobody => format!("{status} {epoch} - "),
        HeldBy::Instance(id) => format!("{status} {epoch} {id} "),
    }
}

/// The minute in which a task ended, if it has, and how many milliseconds it ran.
fn end(life: &Life, now: Timestamp) -> Option<(i64, u64)> {
    life.status.is_terminal().then(|| {
        let finished_at = life.finished_at.unwrap_or(now);
        let ran = life
            .started_at
            .map(|started_at| finished_at.since(started_at));
        let minute = finished_at.as_unix_ms() / MINUTE_MS * MINUTE_MS;
        let ran_ms = ran.unwrap_or_default().as_millis();
        (minute, u64::try_from(ran_ms).unwrap_or(u64::MAX))
    })
}

fn add_changes(
    words: &mut Words<'_>,
    changes: &[(usize, &Change)],
    now: Timestamp,
) -> Result<(), BackendError> {
    words.count(changes.len() * 15);
    for (n, change) in changes {
        let life = &change.life;
        let attempt = match &change.ended {
            Some(attempt) => record::to_json(attempt)?,
            None => String::new(),
        };
        words
            .number(*n as u64)
            .arg(change.id)
            .arg(expected(change.expects, change.held_by))
            .life_after(change)?
            .text(&change.name)
            .text(&attempt);
        words.texts(fate(words.prefix, change, now));
        match end(life, now) {
            Some((minute, ran_ms)) => words.arg(minute).number(ran_ms),
            None => words.text("").number(0),
        };
        words.text(life.status.as_str());
        match life.status.is_terminal() {
            true => words.text(""),
            false => words.arg(format_args!("o:{}", record::Word(life.owner))),
        };
        let waits = Waits::of(life, now);
        words
            .text(&waits.set(&change.name))
            .text(&waits.place(Turn::after(change), &change.name));
    }
    Ok(())
}

fn add_note(words: &mut Words<'_>, note: &Note) -> Result<(), BackendError> {
    let (kind, text) = match &note.what {
        Said::Log(line) => {
            let (epoch, seq, json) = (note.epoch.get(), line.seq, record::to_json(line)?);
            ("L", format!("{epoch:010}{seq:010}{json}"))
        }
        Said::Progress(progress) => ("P", record::to_json(progress)?),
        _ => {
            return Err(BackendError::refused(
                "this version of the Redis store does not know what a task said",
            ));
        }
    };
    words
        .arg(note.id)
        .arg(note.epoch.get())
        .text(kind)
        .text(&text);
    Ok(())
}

fn add_entries(words: &mut Words<'_>, entries: &[AuditEntry]) -> Result<(), BackendError> {
    words.count(entries.len());
    for entry in entries {
        words.arg(format_args!("{}{}", entry.id, record::to_json(entry)?));
    }
    Ok(())
}

/// The tasks that were refused, the changes that were stale, the versions of records.
fn read_answer(answer: Value) -> Result<[Vec<Value>; 3], BackendError> {
    if answer == Value::Int(0) {
        return Ok(Default::default());
    }
    let [refused, stale, versions] = answer::groups(answer::list(answer)?)
        .next()
        .ok_or_else(answer::strange)?;
    Ok([
        answer::list(refused)?,
        answer::list(stale)?,
        answer::list(versions)?,
    ])
}

fn read_tasks(
    tasks: &[Arc<Task>],
    refused: Vec<Value>,
    damage: &Damage,
) -> Result<Vec<Enqueued>, BackendError> {
    let mut enqueued = vec![Enqueued::Created; tasks.len()];
    for [number, holder] in answer::groups(refused) {
        let (holder, _) = answer::text_in_part(holder)?;
        let n = usize::try_from(answer::number(number)?).map_err(|_| answer::strange())?;
        let read = holder.split_at_checked(36);
        let read = read.and_then(|(id, name)| Some((id.parse().ok()?, name)));
        let (id, name) = read.unwrap_or_else(|| {
            // Not free: a second task would be made. It is of no function, so that its caller is told, and nobody else.
            let key = tasks.get(n).and_then(|task| task.idempotency_key.as_ref());
            let key = key.map_or("", |key| &key.key);
            let so = "the key stays taken until it is repaired or deleted";
            damage.tell(&format!("k:{key}"), &holder, so);
            (TaskId::from_bytes([0; 16]), record::NO_NAME)
        });
        let place = enqueued.get_mut(n).ok_or_else(answer::strange)?;
        *place = Enqueued::Exists {
            id,
            name: name.into(),
        };
    }
    Ok(enqueued)
}

/// Where the answer with this number belongs.
fn at<T>(answers: &mut [T], number: Value) -> Result<&mut T, BackendError> {
    let number = usize::try_from(answer::number(number)?);
    let place = number.ok().and_then(|number| answers.get_mut(number));
    place.ok_or_else(answer::strange)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "this is test code")]
    use axum_taskflow_core::{
        Backend, Claim, IdSource, IdempotencyKey, Instance, Outcome, RetryPolicy,
    };
    use servers::RedisServer;

    use super::*;
    use crate::RedisOptions;

    /// All that is stored below a prefix, but for what each store has of its own.
    fn all(server: &RedisServer, prefix: &str) -> String {
        let script = "
            local all = {}
            for _, key in ipairs(redis.call('KEYS', '{' .. ARGV[1] .. '}:*')) do
                local kind, name = redis.call('TYPE', key).ok, string.match(key, ':(.*)')
                local value
                if kind == 'hash' then
                    value = {}
                    for _, field in ipairs(redis.call('HKEYS', key)) do
                        value[#value + 1] = field .. '=' .. redis.call('HGET', key, field)
                    end
                elseif kind == 'zset' then
                    value = redis.call('ZRANGE', key, 0, -1)
                else
                    value = kind == 'set' and redis.call('SMEMBERS', key) or { redis.call('GET', key) }
                end
                if redis.call('TTL', key) > 0 then
                    value[#value + 1] = 'for a time'
                end
                table.sort(value)
                if name ~= 'meta' and string.sub(name, 1, 2) ~= 'v:' then
                    all[#all + 1] = name .. ': ' .. table.concat(value, ', ')
                end
            end
            table.sort(all)
            return table.concat(all, '; ')";
        server.command(&["EVAL", script, "0", prefix])
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_written_alone_is_written_as_in_a_batch() {
        let server = RedisServer::start();
        let now = Timestamp::from_unix_ms(1_795_300_000_000);
        let ids = IdSource::default();
        let me = ids.instance(now);
        let store = async |prefix| {
            let options = RedisOptions::new(server.url()).prefix(prefix);
            let store = options.open().await.unwrap();
            store.join(Instance::new(me, now)).await.unwrap();
            store
        };
        let (one, other) = (store("one").await, store("other").await);
        let batch = |tasks: &[&Task], changes: Vec<Change>| {
            let mut batch = Batch::at(now);
            batch.tasks = tasks.iter().map(|&task| Arc::new(task.clone())).collect();
            batch.changes = changes;
            batch
        };
        let owned = || {
            let mut task = Task::new(ids.task(now), "f", "[]");
            task.life.owner = Some(me);
            task
        };
        let (first, mine, due) = (owned(), owned(), Task::new(ids.task(now), "g", "[1]"));
        let keyed = |ttl_s| {
            let mut task = owned();
            task.life = task.life.begun(task.id, me, now);
            let (key, ttl) = (format!("key {ttl_s}"), Duration::from_secs(ttl_s));
            task.idempotency_key = Some(IdempotencyKey { key, ttl });
            let done = Outcome::Done(None);
            let end = Change::finished(&task, done, &RetryPolicy::default(), 0.0, now).unwrap();
            (task, end)
        };
        let ((keeps, kept), (frees, freed), (loses, lost)) = (keyed(60), keyed(0), keyed(61));
        let mut ahead = Task::new(ids.task(now), "g", "[2]");
        ahead.life.run_at = now.saturating_add(Duration::from_secs(60));
        ahead.priority = 3;
        let start = Change::started(&mine, me, now).unwrap();
        let mut running = mine.clone();
        running.life = start.life.clone();
        let mut goes_on = start.clone();
        goes_on.expects = (running.life.status, running.life.epoch);
        let (policy, later) = (
            RetryPolicy::default(),
            now.saturating_add(Duration::from_millis(250)),
        );
        let end = Change::finished(
            &running,
            Outcome::Done(Some("7".into())),
            &policy,
            0.0,
            later,
        );
        let end = end.unwrap();

        // Who holds something for the first time is looked at more closely.
        let unsure = batch(&[&first], vec![]);
        assert!(!write_one(&one.tasks, &unsure).await.unwrap());
        for store in [&one, &other] {
            write_all(&store.tasks, &unsure, &store.damage, None)
                .await
                .unwrap();
        }
        let alone = [
            batch(&[&mine], vec![]),
            batch(&[&due], vec![]),
            batch(&[&ahead], vec![]),
            batch(&[], vec![start]),
            batch(&[], vec![goes_on]),
            batch(&[], vec![end]),
            batch(&[&keeps], vec![]),
            batch(&[], vec![kept]),
            batch(&[&frees], vec![]),
            batch(&[], vec![freed]),
            batch(&[&loses], vec![]),
        ];
        for (n, batch) in alone.iter().enumerate() {
            assert!(write_one(&one.tasks, batch).await.unwrap(), "batch {n}");
            write_all(&other.tasks, batch, &other.damage, None)
                .await
                .unwrap();
            assert_eq!(all(&server, "one"), all(&server, "other"), "batch {n}");
        }
        for (n, batch) in alone.iter().enumerate() {
            assert!(
                !write_one(&one.tasks, batch).await.unwrap(),
                "batch {n} again"
            );
            assert_eq!(
                all(&server, "one"),
                all(&server, "other"),
                "batch {n} again"
            );
        }

        for prefix in ["one", "other"] {
            server.command(&["SET", &format!("{{{prefix}}}:k:key 61"), "another's"]);
        }
        let lost = batch(&[], vec![lost]);
        assert!(write_one(&one.tasks, &lost).await.unwrap());
        write_all(&other.tasks, &lost, &other.damage, None)
            .await
            .unwrap();
        assert_eq!(all(&server, "one"), all(&server, "other"));

        // A sum that is none is repaired by who looks at all sums.
        let (add, start) = (
            batch(&[&owned()], vec![]),
            batch(&[], vec![Change::started(&first, me, now).unwrap()]),
        );
        for (damaged, n, batch) in [
            ("pending f", "1", &add),
            ("pending f", "1", &start),
            ("running f", "0", &start),
        ] {
            server.command(&["HSET", "{one}:c", damaged, "none"]);
            let before = all(&server, "one");
            assert!(!write_one(&one.tasks, batch).await.unwrap(), "{damaged}");
            assert_eq!(all(&server, "one"), before, "{damaged}");
            server.command(&["HSET", "{one}:c", damaged, n]);
        }
    }

    /// As a list the server would read it from its beginning for each task that begins or ends.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_an_instance_holds_is_no_list_once_it_is_busy() {
        let server = RedisServer::start();
        let store = RedisOptions::new(server.url()).open().await.unwrap();
        let now = Timestamp::from_unix_ms(1_795_300_000_000);
        let ids = IdSource::default();
        let (adds, claims) = (ids.instance(now), ids.instance(now));
        let held_by = |me| {
            let set = format!("{{taskflow}}:o:{me}");
            let n = server.command(&["ZCARD", &set]);
            (n, server.command(&["OBJECT", "ENCODING", &set]))
        };
        let is = |n: &str, encoding: &str| (n.to_owned(), encoding.to_owned());
        let add = async |n, owner| {
            let mut batch = Batch::at(now);
            batch.tasks.extend((0..n).map(|_| {
                let mut task = Task::new(ids.task(now), "f", "[]");
                task.life.owner = owner;
                Arc::new(task)
            }));
            store.write(Arc::new(batch)).await.unwrap();
        };
        for me in [adds, claims] {
            store.join(Instance::new(me, now)).await.unwrap();
        }

        add(31, Some(adds)).await;
        let few = held_by(adds);
        add(2, Some(adds)).await;
        add(40, None).await;
        let claim = Claim {
            owner: claims,
            names: Arc::new(["f".into()]),
            except: Arc::default(),
            limit: 40,
            now,
            reserve: None,
        };
        assert_eq!(store.claim(claim).await.unwrap().tasks.len(), 40);

        assert_ne!(few.1, "skiplist");
        assert_eq!(held_by(adds), is("33", "skiplist"));
        assert_eq!(held_by(claims), is("40", "skiplist"));
        assert_eq!(server.command(&["ZCARD", "{taskflow}:o:-"]), "0");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_batch_of_any_size_is_stored() {
        let server = RedisServer::start();
        let store = RedisOptions::new(server.url()).open().await.unwrap();
        let now = Timestamp::from_unix_ms(1_795_300_000_000);
        let ids = IdSource::default();
        let me = ids.instance(now);
        store.join(Instance::new(me, now)).await.unwrap();
        let mut n_stored = 0;

        // One task has 8 words. Around where they begin to stand in a list, and where one argument has not room for all.
        for n in [1, 2, 490, 498, 499, 500, 501, 510, 1_000, 8_000] {
            let task = || Arc::new(Task::new(ids.task(now), "f", "[]"));
            let mut batch = Batch::at(now);
            batch.tasks = (0..n).map(|_| task()).collect();
            let written = store.write(Arc::new(batch)).await.unwrap();

            assert!(written.tasks.iter().all(|it| *it == Enqueued::Created));
            n_stored += n;
            let counts = store.counts().await.unwrap();
            let n_counted: u64 = counts.iter().map(|count| count.n).sum();
            assert_eq!(n_counted, n_stored, "with {n} tasks");
        }
    }
}
