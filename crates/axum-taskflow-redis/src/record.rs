//! A task as it is written in Redis: lines that `redis-cli` shows.
//!
//! `t:ID`: the priority so that it sorts, a line of JSON, the arguments. `l:ID`: a line of words, a line with the error
//! as JSON, the result. Behind the words of a task that has ended stands what is to be deleted with it.

use std::{borrow::Cow, cmp::Reverse, fmt::Write, sync::Arc, time::Duration};

use axum_taskflow_core::{
    BackendError, Change, Epoch, Executor, FailureKind, FailureReport, IdempotencyKey, Instance,
    InstanceId, Life, Source, Tags, Task, TaskId, TaskOptions, TaskStatus, Timestamp, Turn,
};
use redis::Value;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::answer;

/// The second line of what a task is.
#[derive(Serialize, Deserialize)]
struct Meta<'a> {
    name: Arc<str>,
    #[serde(default, skip_serializing_if = "has_none")]
    tags: Cow<'a, Tags>,
    /// The sets that the tags and the tracking id are in, for the script that deletes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tag_sets: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    requeue_on_interrupt: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<(Cow<'a, str>, Duration)>,
    #[serde(default, skip_serializing_if = "is_default")]
    options: Cow<'a, TaskOptions>,
    #[serde(default = "manual", skip_serializing_if = "is_manual")]
    source: Source,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_of: Option<TaskId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tracking_id: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace_context: Option<Arc<str>>,
    #[serde(default = "asynchronous", skip_serializing_if = "is_async")]
    executor: Executor,
}

fn has_none(tags: &Tags) -> bool {
    tags.is_empty()
}

fn is_default(options: &TaskOptions) -> bool {
    *options == TaskOptions::default()
}

fn manual() -> Source {
    Source::Manual
}

fn is_manual(source: &Source) -> bool {
    *source == Source::Manual
}

fn asynchronous() -> Executor {
    Executor::Async
}

fn is_async(executor: &Executor) -> bool {
    *executor == Executor::Async
}

/// The sets in which a task with this tag is found: by its value, and by any.
pub(crate) fn tag_sets(key: &str, value: Option<&str>) -> String {
    // The length in front keeps one key from looking like another key with a value.
    match value {
        Some(value) => format!("{}:{key}:{value}", key.len()),
        None => format!("{}:{key}", key.len()),
    }
}

/// The set of the tasks with this tracking id. No tag's set is called so: they begin with a digit.
pub(crate) fn tracking_set(tracking_id: &str) -> String {
    format!("@{tracking_id}")
}

/// The sets of all tags and of the tracking id.
pub(crate) fn all_tag_sets(task: &Task) -> Vec<String> {
    let sets = task
        .tags
        .iter()
        .flat_map(|(key, value)| [tag_sets(key, Some(value)), tag_sets(key, None)]);
    sets.chain(task.tracking_id.as_deref().map(tracking_set))
        .collect()
}

pub(crate) fn body(task: &Task, to: &mut String) -> Result<(), BackendError> {
    let meta = Meta {
        name: task.name.clone(),
        tags: Cow::Borrowed(&task.tags),
        tag_sets: all_tag_sets(task),
        requeue_on_interrupt: task.requeue_on_interrupt,
        key: task
            .idempotency_key
            .as_ref()
            .map(|key| (Cow::Borrowed(&*key.key), key.ttl)),
        options: Cow::Borrowed(&task.options),
        source: task.source,
        retry_of: task.retry_of,
        tracking_id: task.tracking_id.clone(),
        trace_context: task.trace_context.clone(),
        executor: task.executor,
    };
    let (priority, meta) = (priority(task.priority), to_json(&meta)?);
    let _ = write!(to, "{priority}\n{meta}\n{}", task.args); // a String takes everything
    Ok(())
}

/// The priority in digits that sort: the highest first.
pub(crate) fn priority(priority: i32) -> String {
    format!("{:08x}", i64::from(i32::MAX) - i64::from(priority))
}

fn read_priority(digits: &str) -> Result<i32, BackendError> {
    let priority = i64::from_str_radix(digits, 16).ok();
    priority
        .and_then(|n| i32::try_from(i64::from(i32::MAX) - n).ok())
        .ok_or_else(|| strange("priority", digits))
}

/// A turn as a word that sorts.
pub(crate) fn turn(turn: Turn) -> String {
    let priority = priority(turn.priority.0);
    format!("{priority}{}{}", sortable(turn.run_at), turn.id)
}

pub(crate) fn read_turn(word: &str) -> Result<Turn, BackendError> {
    let strange = || strange("turn", word);
    let (priority, rest) = word.split_at_checked(8).ok_or_else(strange)?;
    let (run_at, id) = rest.split_at_checked(15).ok_or_else(strange)?;
    Ok(Turn {
        priority: Reverse(read_priority(priority)?),
        run_at: Timestamp::from_unix_ms(number(run_at)?),
        id: id.parse().map_err(|_| strange())?,
    })
}

/// A time in digits that sort.
pub(crate) fn sortable(at: Timestamp) -> String {
    format!("{:015}", at.as_unix_ms())
}

pub(crate) fn life(life: &Life, to: &mut String) -> Result<(), BackendError> {
    life_and(life, None, to)
}

/// What a task is after a change. Of one that has ended it is said what has to be deleted with it, if that is known.
pub(crate) fn life_after(change: &Change, to: &mut String) -> Result<(), BackendError> {
    let has_ended = change.life.status.is_terminal();
    let beside = has_ended.then_some([!change.is_untagged, !change.is_silent]);
    life_and(&change.life, beside, to)
}

fn life_and(life: &Life, beside: Option<[bool; 2]>, to: &mut String) -> Result<(), BackendError> {
    let error = match &life.error {
        Some(error) => to_json(&**error)?,
        None => String::new(),
    };
    // A String takes everything.
    let _ = write!(
        to,
        "{} {} {} {} {} {} {} {} {}",
        life.status,
        life.epoch,
        Word(life.owner),
        life.attempt,
        life.crashes,
        life.run_at.as_unix_ms(),
        Word(life.instance),
        Word(life.started_at.map(Timestamp::as_unix_ms)),
        Word(life.finished_at.map(Timestamp::as_unix_ms)),
    );
    if let Some(beside) = beside {
        to.push(' ');
        to.extend(beside.map(|may_be| if may_be { '+' } else { '-' }));
    }
    let _ = write!(to, "\n{error}\n");
    if let Some(result) = &life.result {
        to.push_str(result);
    }
    Ok(())
}

/// A word, or a dash for nothing.
pub(crate) struct Word<T>(pub(crate) Option<T>);

impl<T: std::fmt::Display> std::fmt::Display for Word<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(word) => word.fmt(f),
            None => f.write_str("-"),
        }
    }
}

/// What is stored of a task.
pub(crate) struct Stored {
    id: String,
    life: String,
    body: String,
    progress: Option<String>,
    /// Nothing of it is other than UTF-8.
    is_text: bool,
}

impl Stored {
    /// Id, life, body and progress as scripts give them.
    pub(crate) fn of([id, life, body, progress]: [Value; 4]) -> Result<Self, BackendError> {
        let (life, is_life) = answer::text_in_part(life)?;
        let (body, is_body) = answer::text_in_part(body)?;
        let progress = answer::text_or_nothing(progress);
        Ok(Self {
            id: answer::text_in_part(id)?.0, // what is no text is no id either
            life,
            body,
            is_text: is_life && is_body && progress.is_ok(),
            progress: progress.unwrap_or_default(),
        })
    }

    /// The same, of a life and a body that may be cut anywhere.
    pub(crate) fn cut([id, life, body, progress]: [Value; 4]) -> Result<Self, BackendError> {
        let [life, body] = [life, body].map(answer::whole_characters);
        Self::of([id, life, body, progress])
    }

    /// The task; arguments and result are cut to `payload_max`.
    pub(crate) fn task(&self, payload_max: usize) -> Result<Task, BackendError> {
        let id = self.id()?;
        if !self.is_text {
            return Err(BackendError::unavailable("it is not UTF-8"));
        }
        let mut parts = self.body.splitn(3, '\n');
        let (Some(priority), Some(meta), Some(args)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(strange("task", &self.body));
        };
        let meta: Meta<'static> = from_json(meta)?;
        let mut task = Task::new(id, meta.name, cut(args, payload_max));
        task.priority = read_priority(priority)?;
        task.tags = meta.tags.into_owned();
        task.requeue_on_interrupt = meta.requeue_on_interrupt;
        task.idempotency_key = meta.key.map(|(key, ttl)| IdempotencyKey {
            key: key.into_owned(),
            ttl,
        });
        task.options = meta.options.into_owned();
        task.source = meta.source;
        task.retry_of = meta.retry_of;
        task.tracking_id = meta.tracking_id;
        task.trace_context = meta.trace_context;
        task.executor = meta.executor;
        task.life = read_life(&self.life, payload_max)?;
        task.progress = self.progress.as_deref().map(from_json).transpose()?;
        Ok(task)
    }

    /// The same for somebody who looks. Of one that this program cannot read, what can be read, and why the rest cannot.
    pub(crate) fn shown(&self, payload_max: usize) -> Result<Task, BackendError> {
        match self.task(payload_max) {
            Err(why) => self.in_part(payload_max, &why),
            read => read,
        }
    }

    /// What is left out has its default. So a status that is not known is `pending`: it waits for who knows it.
    ///
    /// # Errors
    /// If not even the id can be read.
    pub(crate) fn in_part(
        &self,
        payload_max: usize,
        why: &BackendError,
    ) -> Result<Task, BackendError> {
        #[derive(Deserialize)]
        struct Named {
            name: Arc<str>,
        }
        let id = self.id()?;
        let mut parts = self.body.splitn(3, '\n');
        let (priority, meta, args) = (parts.next(), parts.next(), parts.next());
        let named = meta.and_then(|meta| from_json::<Named>(meta).ok()); // the reason is told already, as below
        // Of a name in which bytes were replaced no task is known, and none is to be counted.
        let is_whole =
            |name: &Arc<str>| self.is_text || !name.contains(char::REPLACEMENT_CHARACTER);
        let name = named.map(|named| named.name).filter(is_whole);
        let name = name.unwrap_or_else(|| Arc::from(NO_NAME));
        let mut task = Task::new(id, name, cut(args.unwrap_or_default(), payload_max));
        let priority = priority.and_then(|digits| read_priority(digits).ok());
        task.priority = priority.unwrap_or_default();
        let words = self.life.lines().next().unwrap_or_default();
        if let Ok(life) = read_words(words) {
            task.life = life;
        } else if let Some(Ok(status)) = self.life.split(' ').next().map(str::parse) {
            task.life.status = status;
        }
        let why = format!("this program cannot read what is stored of the task: {why}");
        task.life.error = Some(Arc::new(FailureReport::new(FailureKind::Unreadable, why)));
        Ok(task)
    }

    fn id(&self) -> Result<TaskId, BackendError> {
        task_id(&self.id)
    }
}

/// Stands for a function's name that cannot be read.
pub(crate) const NO_NAME: &str = "?";

fn read_life(text: &str, payload_max: usize) -> Result<Life, BackendError> {
    let mut lines = text.splitn(3, '\n');
    let (Some(words), Some(error), Some(result)) = (lines.next(), lines.next(), lines.next())
    else {
        return Err(strange("state of a task", text));
    };
    Ok(Life {
        error: match error {
            "" => None,
            error => Some(Arc::new(from_json::<FailureReport>(error)?)),
        },
        // JSON is never empty.
        result: match result {
            "" => None,
            result => Some(cut(result, payload_max).into()),
        },
        ..read_words(words)?
    })
}

/// The first line, without error and result.
fn read_words(line: &str) -> Result<Life, BackendError> {
    let words: Vec<&str> = line.split(' ').collect();
    let words = match &words[..] {
        // The last one is for the script that deletes.
        [words @ .., beside] if words.len() == 9 && is_beside(beside) => words,
        words => words,
    };
    let [
        status,
        epoch,
        owner,
        attempt,
        crashes,
        run_at,
        instance,
        started_at,
        finished_at,
    ] = *words
    else {
        return Err(strange("state of a task", line));
    };
    Ok(Life {
        status: status
            .parse::<TaskStatus>()
            .map_err(|_| strange("status", status))?,
        epoch: Epoch::from_u32(number(epoch)?),
        attempt: number(attempt)?,
        crashes: number(crashes)?,
        owner: word(owner).map(read_instance).transpose()?,
        instance: word(instance).map(read_instance).transpose()?,
        run_at: Timestamp::from_unix_ms(number(run_at)?),
        started_at: word(started_at).map(read_time).transpose()?,
        finished_at: word(finished_at).map(read_time).transpose()?,
        error: None,
        result: None,
    })
}

/// Two signs: whether there are tags, and whether there are past attempts, log lines or progress.
fn is_beside(word: &str) -> bool {
    word.len() == 2 && word.bytes().all(|sign| matches!(sign, b'+' | b'-'))
}

/// As many whole characters as fit.
fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

fn word(word: &str) -> Option<&str> {
    (word != "-").then_some(word)
}

pub(crate) fn number<T: std::str::FromStr>(text: &str) -> Result<T, BackendError> {
    text.parse().map_err(|_| strange("number", text))
}

pub(crate) fn task_id(text: &str) -> Result<TaskId, BackendError> {
    text.parse().map_err(|_| strange("id", text))
}

pub(crate) fn read_instance(text: &str) -> Result<InstanceId, BackendError> {
    let id = Uuid::try_parse(text).map_err(|_| strange("instance", text))?;
    Ok(InstanceId::from_bytes(*id.as_bytes()))
}

/// Not everything can be read that an instance of a newer program says; that it is there is what counts.
pub(crate) fn instance(id: InstanceId, beat_at: Timestamp, json: &str) -> Instance {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Known {
        host: String,
        pid: u32,
        started_at: Option<Timestamp>,
        version: String,
        functions: Arc<[Arc<str>]>,
    }
    from_json(json).unwrap_or_else(|_| {
        let known: Known = from_json(json).unwrap_or_default();
        let mut instance = Instance::new(id, known.started_at.unwrap_or(beat_at));
        (instance.host, instance.pid) = (known.host, known.pid);
        (instance.version, instance.functions) = (known.version, known.functions);
        instance
    })
}

fn read_time(text: &str) -> Result<Timestamp, BackendError> {
    number(text).map(Timestamp::from_unix_ms)
}

pub(crate) fn to_json<T: Serialize + ?Sized>(value: &T) -> Result<String, BackendError> {
    serde_json::to_string(value).map_err(|error| {
        BackendError::refused("something cannot be written as JSON").with_source(error)
    })
}

pub(crate) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, BackendError> {
    serde_json::from_str(text).map_err(|error| strange("JSON", text).with_source(error))
}

/// What another program, or another version of this one, has put there.
pub(crate) fn strange(what: &str, text: &str) -> BackendError {
    let beginning: String = text.chars().take(80).collect();
    BackendError::unavailable(format!(
        "Redis holds a {what} that cannot be read: {beginning:?}"
    ))
}
