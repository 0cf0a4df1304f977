//! A batch or a step as one call, and its answers.

use std::fmt::{self, Write as _};

use axum_taskflow_core::{
    Applied, AuditEntry, BackendError, Batch, Becomes, Change, Enqueued, KeyFate, Life, Note, Said,
    Step, Stepped, Task, TaskStatus, Timestamp, Written,
};
use redis::Value;

use crate::{
    answer,
    link::{Link, WRITE},
    record,
};

const MINUTE_MS: i64 = 60_000;

/// What the script is told, as one argument: a list in MessagePack
/// ([specification](https://github.com/msgpack/msgpack/blob/master/spec.md)).
#[derive(Default)]
struct Words {
    n: u32,
    packed: Vec<u8>,
    /// For one word at a time.
    scratch: String,
}

impl Words {
    fn text(&mut self, text: &str) -> &mut Self {
        self.n += 1;
        rmp::encode::write_str(&mut self.packed, text).expect("a Vec takes everything");
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

    async fn send(self, link: &Link) -> Result<Value, BackendError> {
        let mut list = Vec::with_capacity(self.packed.len() + 5);
        list.push(0xdd); // a list of up to 2^32 - 1
        list.extend(self.n.to_be_bytes());
        list.extend(self.packed);
        let mut call = link.call_in_time(&WRITE);
        call.arg(list);
        link.send(&call).await
    }
}

pub(crate) async fn write(link: &Link, batch: &Batch) -> Result<Written, BackendError> {
    let mut words = Words::default();
    words
        .arg(batch.now.as_unix_ms())
        .arg(batch.tasks.len())
        .arg(batch.changes.len())
        .arg(batch.notes.len())
        .arg(batch.audit.len())
        .arg(0)
        .arg(0);
    for task in &batch.tasks {
        add_task(&mut words, task, batch.now)?;
    }
    for change in &batch.changes {
        add_change(&mut words, change, batch.now)?;
    }
    for note in &batch.notes {
        add_note(&mut words, note)?;
    }
    for entry in &batch.audit {
        add_entry(&mut words, entry)?;
    }
    let mut answers = answer::list(words.send(link).await?)?.into_iter();
    link.replicated().await?;
    let tasks = read_tasks(answers.by_ref().take(batch.tasks.len()))?;
    let changes = answers
        .map(|answer| {
            Ok(match answer::number(answer)? {
                0 => Applied::Stale,
                _ => Applied::Applied,
            })
        })
        .collect::<Result<_, BackendError>>()?;
    Ok(Written { tasks, changes })
}

pub(crate) async fn step(link: &Link, step: &Step) -> Result<Stepped, BackendError> {
    let mut words = Words::default();
    words
        .arg(step.now.as_unix_ms())
        .arg(step.tasks.len())
        .arg(step.changes.len())
        .arg(0)
        .arg(step.audit.len())
        .arg(step.records.len())
        .arg(1);
    for task in &step.tasks {
        add_task(&mut words, task, step.now)?;
    }
    for change in &step.changes {
        add_change(&mut words, change, step.now)?;
    }
    for entry in &step.audit {
        add_entry(&mut words, entry)?;
    }
    for change in &step.records {
        words.text(&change.key).arg(change.expects);
        match &change.becomes {
            Becomes::Same => words.text("="),
            Becomes::Value(value) => words.arg(format_args!("+{value}")),
            Becomes::Gone => words.text("-"),
        };
    }
    let answers = words.send(link).await?;
    if matches!(answers, Value::Nil | Value::Boolean(false)) {
        return Ok(Stepped::Stale);
    }
    link.replicated().await?;
    let mut answers = answer::list(answers)?.into_iter();
    let tasks = read_tasks(answers.by_ref().take(step.tasks.len()))?;
    let versions = answers
        .skip(step.changes.len())
        .map(|answer| Ok(answer::number(answer)?.unsigned_abs()))
        .collect::<Result<_, BackendError>>()?;
    Ok(Stepped::Done { versions, tasks })
}

fn add_task(words: &mut Words, task: &Task, now: Timestamp) -> Result<(), BackendError> {
    let id = task.id.to_string();
    let life = &task.life;
    let key = match &task.idempotency_key {
        Some(key) => format!("={}", key.key),
        None => String::new(),
    };
    let (priority, run_at) = (record::priority(task), record::sortable(life.run_at));
    let (waits_in, place) = match waits_for_anybody(life) {
        false => (String::new(), String::new()),
        true if life.run_at <= now => (
            format!("w:{}", task.name),
            format!("{priority}{run_at}{id}"),
        ),
        true => (
            "a".to_owned(),
            format!("{run_at}{priority}{id}{}", task.name),
        ),
    };
    words
        .text(&id)
        .text(&record::life(life)?)
        .text(&record::body(task)?)
        .text(&task.name)
        .text(&key)
        .text(&record::tags(task)?)
        .arg(format_args!("{} {}", life.status, task.name))
        .arg(format_args!("o:{}", record::Word(life.owner)))
        .text(&waits_in)
        .text(&place);
    Ok(())
}

fn waits_for_anybody(life: &Life) -> bool {
    life.status == TaskStatus::Pending && life.owner.is_none()
}

fn add_change(words: &mut Words, change: &Change, now: Timestamp) -> Result<(), BackendError> {
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
    let (minute, ran_ms) = match life.status.is_terminal() {
        true => {
            let finished_at = life.finished_at.unwrap_or(now);
            let ran = life
                .started_at
                .map(|started_at| finished_at.since(started_at));
            let minute = finished_at.as_unix_ms() / MINUTE_MS * MINUTE_MS;
            let ran_ms = ran.unwrap_or_default().as_millis();
            (minute.to_string(), ran_ms.to_string())
        }
        false => (String::new(), String::new()),
    };
    words
        .arg(change.id)
        .arg(format_args!("{} {} ", change.expects.0, change.expects.1))
        .text(&record::life(life)?)
        .text(&change.name)
        .text(&attempt)
        .text(&key)
        .text(&minute)
        .text(&ran_ms)
        .text(life.status.as_str())
        .arg(match life.status.is_terminal() {
            true => String::new(),
            false => format!("o:{}", record::Word(life.owner)),
        })
        .arg(match waits_for_anybody(life) {
            true => record::sortable(life.run_at),
            false => String::new(),
        });
    Ok(())
}

fn add_note(words: &mut Words, note: &Note) -> Result<(), BackendError> {
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

fn add_entry(words: &mut Words, entry: &AuditEntry) -> Result<(), BackendError> {
    words.arg(format!("{}{}", entry.id, record::to_json(entry)?));
    Ok(())
}

fn read_tasks(answers: impl Iterator<Item = Value>) -> Result<Vec<Enqueued>, BackendError> {
    let mut tasks = Vec::new();
    for answer in answers {
        tasks.push(match answer {
            Value::Int(_) => Enqueued::Created,
            holder => {
                let holder = answer::text(holder)?;
                let (id, name) = holder
                    .split_at_checked(36)
                    .ok_or_else(|| record::strange("idempotency key", &holder))?;
                Enqueued::Exists {
                    id: id.parse().map_err(|_| record::strange("id", id))?,
                    name: name.into(),
                }
            }
        });
    }
    Ok(tasks)
}
