//! A batch or a step as one call, and its answers.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::{self, Write as _},
    sync::Arc,
    time::Duration,
};

use axum_taskflow_core::{
    Applied, AuditEntry, BackendError, Batch, Becomes, Change, Enqueued, Epoch, HeldBy, InstanceId,
    KeyFate, Life, Note, Said, Step, Stepped, Task, TaskId, TaskStatus, Timestamp, Turn, Written,
};
use redis::Value;

use crate::{
    answer,
    damage::Damage,
    link::{Link, STEP, Script, WRITE},
    record,
};

/// A list with up to 2^32 - 1 words, whose number follows.
const LIST: u8 = 0xdd;
const LIST_HEAD: usize = 5;
/// More words than these stand in a list: Lua's stack takes 8,000 values. Without one they cost the server less.
const LOOSE_MAX: usize = 4_000;

const MINUTE_MS: i64 = 60_000;

/// At most so many tasks at once: the script gives four words of each to one command, and Lua's stack is small.
const ALIKE_MAX: usize = 500;

/// What each new task beyond these adds to the deadline: all of a bulk are there or none, so they come as one call. It
/// takes a third to two thirds of this; the rest is for the link, and for a server that is slower.
const BULK: usize = 1_000;
const TIME_PER_TASK: Duration = Duration::from_micros(100);

/// At most so many bytes in one argument: a server refuses larger ones than its `proto-max-bulk-len`, which is 1 MiB at
/// least, and ends the connection with that.
const PART_BYTES: usize = 512 * 1024;

/// The longest time that a bulk of the engine's may take beside any other call's.
pub(crate) const BULK_TIME_MAX: Duration = Duration::from_secs(10);

/// What a script is told: words in MessagePack
/// ([specification](https://github.com/msgpack/msgpack/blob/master/spec.md)). `lua/words.lua` says of what.
struct Words<'a> {
    /// What all keys begin with.
    prefix: &'a str,
    /// Behind the room for the head of a list.
    packed: Vec<u8>,
    n_words: usize,
    /// For one word at a time.
    scratch: String,
}

impl<'a> Words<'a> {
    fn new(link: &'a Link) -> Self {
        Self {
            prefix: link.prefix(),
            packed: vec![LIST; LIST_HEAD],
            n_words: 0,
            scratch: String::new(),
        }
    }

    /// So many words follow that belong together, or blocks or moves.
    fn count(&mut self, n: usize) -> &mut Self {
        self.number(n as u64)
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.n_words += 1;
        rmp::encode::write_str(&mut self.packed, text).expect("a Vec takes everything");
        self
    }

    fn number(&mut self, number: u64) -> &mut Self {
        self.n_words += 1;
        rmp::encode::write_uint(&mut self.packed, number).expect("a Vec takes everything");
        self
    }

    fn arg(&mut self, word: impl fmt::Display) -> &mut Self {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let _ = write!(scratch, "{word}"); // a String takes everything
        self.text(&scratch);
        self.scratch = scratch;
        self
    }

    /// The key of this kind of a task.
    fn key(&mut self, kind: char, id: TaskId) -> &mut Self {
        let prefix = self.prefix;
        self.arg(format_args!("{prefix}:{kind}:{id}"))
    }

    fn life(&mut self, life: &Life) -> Result<&mut Self, BackendError> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        record::life(life, &mut scratch)?;
        self.text(&scratch);
        self.scratch = scratch;
        Ok(self)
    }

    fn body(&mut self, task: &Task) -> Result<&mut Self, BackendError> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        record::body(task, &mut scratch)?;
        self.text(&scratch);
        self.scratch = scratch;
        Ok(self)
    }

    async fn send(
        mut self,
        link: &Link,
        script: &'static Script,
        n_tasks: usize,
    ) -> Result<Value, BackendError> {
        let words = match self.n_words > LOOSE_MAX {
            true => {
                let n = u32::try_from(self.n_words).expect("that many words fit into no memory");
                self.packed[1..LIST_HEAD].copy_from_slice(&n.to_be_bytes());
                &self.packed[..]
            }
            false => &self.packed[LIST_HEAD..],
        };
        let mut call = link.call_in_time(script);
        let more = u32::try_from(n_tasks.saturating_sub(BULK)).unwrap_or(u32::MAX);
        call.with_more_time(TIME_PER_TASK.saturating_mul(more).min(BULK_TIME_MAX));
        let mut parts = words.chunks(PART_BYTES);
        call.replicated().arg(parts.next().unwrap_or_default());
        call.arg(u8::from(link.is_cluster()));
        for part in parts {
            call.arg(part);
        }
        link.send(&call).await
    }
}

pub(crate) async fn write(
    link: &Link,
    batch: &Batch,
    damage: &Damage,
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
    let answer = words.send(link, &WRITE, batch.tasks.len()).await?;
    let [refused, stale, _] = read_answer(answer)?;
    let mut changes = vec![Applied::Applied; batch.changes.len()];
    for number in stale {
        *at(&mut changes, number)? = Applied::Stale;
    }
    let tasks = read_tasks(&batch.tasks, refused, damage)?;
    Ok(Written { tasks, changes })
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
    let answer = words.send(link, &STEP, step.tasks.len()).await?;
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

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Waits {
    No,
    Due,
    Ahead,
}

impl<'a> Kind<'a> {
    fn of(task: &'a Task, now: Timestamp) -> Self {
        let life = &task.life;
        Self {
            name: &task.name,
            status: life.status,
            owner: life.owner,
            waits: match waits_for_anybody(life) {
                false => Waits::No,
                true if life.run_at <= now => Waits::Due,
                true => Waits::Ahead,
            },
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
    // These are in no order. Behind them, as they were given: tasks with a key, of which the first one gets it, and
    // those whose id is in the batch already.
    let mut sure = BTreeMap::<Kind<'_>, Numbered<'_>>::new();
    let mut unsure: Vec<(Kind<'_>, Numbered<'_>)> = Vec::new();
    let mut ids = HashSet::with_capacity(tasks.len());
    for (n, task) in tasks.iter().enumerate() {
        let kind = Kind::of(task, now);
        let is_first = ids.insert(task.id);
        if is_first && task.idempotency_key.is_none() {
            sure.entry(kind).or_default().push((n, task));
            continue;
        }
        match unsure.last_mut() {
            Some((last, block)) if is_first && *last == kind => block.push((n, task)),
            _ => unsure.push((kind, vec![(n, task)])),
        }
    }
    let n_blocks = |block: &Numbered<'_>| block.len().div_ceil(ALIKE_MAX);
    let n_unsure: usize = unsure.iter().map(|(_, block)| n_blocks(block)).sum();
    words.count(sure.values().map(n_blocks).sum::<usize>() + n_unsure);
    for (kind, tasks) in &sure {
        for block in tasks.chunks(ALIKE_MAX) {
            add_block(words, *kind, block)?;
            words.count(0);
        }
    }
    for (kind, tasks) in &unsure {
        for block in tasks.chunks(ALIKE_MAX) {
            add_block(words, *kind, block)?;
            words.count(block.len() * 2);
            for (n, task) in block {
                words.number(*n as u64);
                match &task.idempotency_key {
                    Some(key) => words.arg(format_args!("={}", key.key)),
                    None => words.text(""),
                };
            }
        }
    }
    Ok(())
}

/// A block up to the keys.
fn add_block(
    words: &mut Words<'_>,
    kind: Kind<'_>,
    tasks: &[(usize, &Task)],
) -> Result<(), BackendError> {
    words
        .text(kind.name)
        .text(kind.status.as_str())
        .arg(format_args!("o:{}", record::Word(kind.owner)));
    match kind.waits {
        Waits::No => words.text(""),
        Waits::Due => words.arg(format_args!("w:{}", kind.name)),
        Waits::Ahead => words.text("a"),
    };
    words.count(tasks.len() * 4);
    for (_, task) in tasks {
        words.key('t', task.id).body(task)?;
        words.key('l', task.id).life(&task.life)?;
    }
    words.count(tasks.len() * 2);
    for (_, task) in tasks {
        words.text("0").arg(task.id);
    }
    words.count(match kind.waits {
        Waits::No => 0,
        Waits::Due | Waits::Ahead => tasks.len() * 2,
    });
    for (_, task) in tasks {
        match kind.waits {
            Waits::No => break,
            Waits::Due => words.text("0").text(&record::turn(Turn::of(task))),
            Waits::Ahead => {
                let (run_at, priority) = (
                    record::sortable(task.life.run_at),
                    record::priority(task.priority),
                );
                words
                    .text("0")
                    .arg(format_args!("{run_at}{priority}{}{}", task.id, kind.name))
            }
        };
    }
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
    Ok(())
}

fn waits_for_anybody(life: &Life) -> bool {
    life.status == TaskStatus::Pending && life.owner.is_none()
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
    minute: Option<i64>,
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
        let is_plain = change.ended.is_none() && change.key == KeyFate::Stays;
        is_plain.then(|| Self {
            name: &change.name,
            expects: change.expects,
            holder,
            status: life.status,
            owner: life.owner,
            minute: end(life, now).map(|(minute, _)| minute),
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
                Some(minute) => words.text("").arg(minute),
                None => words
                    .arg(format_args!("o:{}", record::Word(alike.owner)))
                    .text(""),
            };
            words.count(changes.len() * 2);
            for (_, change) in changes {
                words.key('l', change.id).life(&change.life)?;
            }
            words.count(changes.len() * 2);
            for (n, change) in changes {
                words.number(*n as u64);
                match waits_for_anybody(&change.life) {
                    true => words.text(&record::sortable(change.life.run_at)),
                    false => words.number(end(&change.life, now).map_or(0, |(_, ran_ms)| ran_ms)),
                };
            }
        }
    }
    Ok(rest)
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
    words.count(changes.len() * 12);
    for (n, change) in changes {
        let life = &change.life;
        let attempt = match &change.ended {
            Some(attempt) => record::to_json(attempt)?,
            None => String::new(),
        };
        let key = match &change.key {
            KeyFate::Stays => String::new(),
            KeyFate::Freed(key) => format!("F{key}"),
            KeyFate::KeptUntil(key, until) => format!("K{} {key}", until.as_unix_ms()),
        };
        words
            .number(*n as u64)
            .arg(change.id)
            .arg(expected(change.expects, change.held_by))
            .life(life)?
            .text(&change.name)
            .text(&attempt)
            .text(&key);
        match end(life, now) {
            Some((minute, ran_ms)) => words.arg(minute).number(ran_ms),
            None => words.text("").number(0),
        };
        words.text(life.status.as_str());
        match life.status.is_terminal() {
            true => words.text(""),
            false => words.arg(format_args!("o:{}", record::Word(life.owner))),
        };
        match waits_for_anybody(life) {
            true => words.text(&record::sortable(life.run_at)),
            false => words.text(""),
        };
    }
    Ok(())
}

fn add_note(words: &mut Words<'_>, note: &Note) -> Result<(), BackendError> {
    let (place, json) = match &note.what {
        Said::Log(line) => (
            format!("L{:010}{:010}", note.epoch.get(), line.seq),
            record::to_json(line)?,
        ),
        Said::Progress(progress) => ("P".to_owned(), record::to_json(progress)?),
        _ => {
            return Err(BackendError::refused(
                "this version of the Redis store does not know what a task said",
            ));
        }
    };
    words
        .arg(note.id)
        .arg(note.epoch.get())
        .text(&place)
        .text(&json);
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
    use axum_taskflow_core::{Backend, IdSource, Instance};
    use servers::RedisServer;

    use super::*;
    use crate::RedisOptions;

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
