//! The only place where columns are counted: tasks and lives to parameters, rows to tasks.

use std::sync::Arc;

use axum_taskflow_core::{
    Attempt, Epoch, Executor, FailureKind, FailureReport, IdempotencyKey, Life, LogLevel, LogLine,
    Progress, Role, Source, Tags, Task, TaskId, TaskOptions, TaskStatus, Timestamp,
};
use rusqlite::{Connection, Row, Statement, ToSql, types::ValueRef};
use serde::{Deserialize, Serialize};
use serde_json::{from_str, to_string};

use crate::{
    fault::Fault,
    interned::{Interned, NOBODY},
};

/// What [`read_task`] reads, in its order.
pub(crate) const TASK_COLUMNS: &str = "
    id, func, status, epoch, attempt, owner, priority, run_at, instance, started_at, finished_at,
    source, executor, requeue, args, result, error, tags, options, idempotency, retry_of, progress, crashes";

const STATUSES: [(TaskStatus, i64); 6] = [
    (TaskStatus::Pending, 0),
    (TaskStatus::Running, 1),
    (TaskStatus::Success, 2),
    (TaskStatus::Failed, 3),
    (TaskStatus::Interrupted, 4),
    (TaskStatus::Cancelled, 5),
];
const ROLES: [(Role, i64); 3] = [(Role::Both, 0), (Role::Web, 1), (Role::Worker, 2)];
const SOURCES: [(Source, i64); 3] = [
    (Source::Manual, 0),
    (Source::Retry, 1),
    (Source::Scheduled, 2),
];
const EXECUTORS: [(Executor, i64); 2] = [(Executor::Async, 0), (Executor::Thread, 1)];
const LEVELS: [(LogLevel, i64); 4] = [
    (LogLevel::Debug, 0),
    (LogLevel::Info, 1),
    (LogLevel::Warn, 2),
    (LogLevel::Error, 3),
];

/// Sorts behind every id, since it is longer than they are.
pub(crate) const ABOVE_ALL_IDS: &[u8] = &[0xff; 17];

/// Where tasks lie that are due and belong to nobody.
pub(crate) const SHELF_WAITING: i64 = 1;
/// Where tasks lie that belong to nobody and are not due yet.
pub(crate) const SHELF_AHEAD: i64 = 0;

pub(crate) fn status_no(status: TaskStatus) -> Result<i64, Fault> {
    number_of(&STATUSES, status)
}

pub(crate) fn status_of(no: i64) -> Result<TaskStatus, Fault> {
    meaning_of("status", &STATUSES, no)
}

pub(crate) fn role_no(role: Role) -> Result<i64, Fault> {
    number_of(&ROLES, role)
}

pub(crate) fn role_of(no: i64) -> Result<Role, Fault> {
    meaning_of("role", &ROLES, no)
}

pub(crate) fn level_no(level: LogLevel) -> Result<i64, Fault> {
    number_of(&LEVELS, level)
}

/// The part of a row that changes, in numbers.
#[derive(Debug)]
pub(crate) struct LifeRow<'a> {
    pub(crate) status: i64,
    pub(crate) epoch: u32,
    pub(crate) attempt: u32,
    pub(crate) crashes: u32,
    pub(crate) owner: Option<i64>,
    pub(crate) shelf: Option<i64>,
    pub(crate) run_at: i64,
    pub(crate) instance: Option<i64>,
    pub(crate) started_at: Option<i64>,
    pub(crate) finished_at: Option<i64>,
    pub(crate) result: Option<&'a str>,
    pub(crate) error: Option<String>,
}

impl<'a> LifeRow<'a> {
    /// What `life` looks like in a row that is written at `now`.
    pub(crate) fn new(
        life: &'a Life,
        now: Timestamp,
        conn: &Connection,
        interned: &mut Interned,
    ) -> Result<Self, Fault> {
        let status = status_no(life.status)?;
        let owner = match life.owner {
            _ if life.status.is_terminal() => None,
            None => Some(NOBODY),
            Some(owner) => Some(interned.instance(conn, owner)?),
        };
        let shelf = match (life.status, life.owner) {
            (TaskStatus::Pending, None) if life.run_at <= now => Some(SHELF_WAITING),
            (TaskStatus::Pending, None) => Some(SHELF_AHEAD),
            (TaskStatus::Failed | TaskStatus::Interrupted | TaskStatus::Cancelled, _) => {
                Some(status)
            }
            _ => None,
        };
        let instance = life.instance.map(|id| interned.instance(conn, id));
        Ok(Self {
            status,
            epoch: life.epoch.get(),
            attempt: life.attempt,
            crashes: life.crashes,
            owner,
            shelf,
            run_at: life.run_at.as_unix_ms(),
            instance: instance.transpose()?,
            started_at: life.started_at.map(Timestamp::as_unix_ms),
            finished_at: life.finished_at.map(Timestamp::as_unix_ms),
            result: life.result.as_deref(),
            error: life.error.as_deref().map(to_json).transpose()?,
        })
    }
}

/// Binds one parameter after the other, without collecting them first.
pub(crate) struct Binder<'a, 'c> {
    statement: &'a mut Statement<'c>,
    last: usize,
}

impl<'a, 'c> Binder<'a, 'c> {
    pub(crate) fn new(statement: &'a mut Statement<'c>) -> Self {
        Self { statement, last: 0 }
    }

    pub(crate) fn next(mut self, value: impl ToSql) -> rusqlite::Result<Self> {
        self.last += 1;
        self.statement.raw_bind_parameter(self.last, value)?;
        Ok(self)
    }
}

/// What the column `options` holds: what the caller asked for, and the request that the task belongs to.
#[derive(Serialize)]
struct Asked<'a> {
    #[serde(flatten)]
    options: &'a TaskOptions,
    #[serde(skip_serializing_if = "Option::is_none")]
    tracking_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_context: Option<&'a str>,
}

impl<'a> Asked<'a> {
    /// Nothing for most tasks.
    fn of(task: &'a Task) -> Option<Self> {
        let is_plain = task.options == TaskOptions::default()
            && task.tracking_id.is_none()
            && task.trace_context.is_none();
        (!is_plain).then_some(Self {
            options: &task.options,
            tracking_id: task.tracking_id.as_deref(),
            trace_context: task.trace_context.as_deref(),
        })
    }
}

/// The part of the column `options` that is not [`TaskOptions`].
#[derive(Default, Deserialize)]
pub(crate) struct Tracked {
    pub(crate) tracking_id: Option<Arc<str>>,
    trace_context: Option<Arc<str>>,
}

/// Binds what `enqueue.sql` asks for.
pub(crate) fn bind_task(
    statement: &mut Statement<'_>,
    task: &Task,
    func: i64,
    life: &LifeRow<'_>,
) -> Result<(), Fault> {
    let tags = (!task.tags.is_empty()).then(|| to_json(&task.tags));
    let options = Asked::of(task).map(|asked| to_json(&asked));
    let idempotency = task.idempotency_key.as_ref().map(to_json);
    let progress = task.progress.as_ref().map(to_json);
    Binder::new(statement)
        .next(&task.id.as_bytes()[..])?
        .next(func)?
        .next(life.status)?
        .next(life.epoch)?
        .next(life.attempt)?
        .next(life.owner)?
        .next(life.shelf)?
        .next(task.priority)?
        .next(life.run_at)?
        .next(life.instance)?
        .next(life.started_at)?
        .next(life.finished_at)?
        .next(number_of(&SOURCES, task.source)?)?
        .next(number_of(&EXECUTORS, task.executor)?)?
        .next(task.requeue_on_interrupt)?
        .next(&*task.args)?
        .next(life.result)?
        .next(life.error.as_deref())?
        .next(tags.transpose()?)?
        .next(options.transpose()?)?
        .next(idempotency.transpose()?)?
        .next(task.retry_of.as_ref().map(|id| &id.as_bytes()[..]))?
        .next(progress.transpose()?)?
        .next(life.crashes)?;
    Ok(())
}

/// True for a new task of which nothing was said but its arguments, its priority and when it is due.
pub(crate) fn is_plain(task: &Task) -> bool {
    let life = &task.life;
    task.source == Source::Manual
        && task.tags.is_empty()
        && Asked::of(task).is_none()
        && task.idempotency_key.is_none()
        && task.retry_of.is_none()
        && task.progress.is_none()
        && life.crashes == 0
        && life.finished_at.is_none()
        && life.result.is_none()
        && life.error.is_none()
}

/// Binds what a row of `enqueue_plain.sql` asks for.
pub(crate) fn bind_plain<'a, 'c>(
    row: Binder<'a, 'c>,
    task: &Task,
    func: i64,
    life: &LifeRow<'_>,
) -> Result<Binder<'a, 'c>, Fault> {
    let row = row
        .next(&task.id.as_bytes()[..])?
        .next(func)?
        .next(life.status)?
        .next(life.epoch)?
        .next(life.attempt)?
        .next(life.owner)?
        .next(life.shelf)?
        .next(task.priority)?
        .next(life.run_at)?
        .next(life.instance)?
        .next(life.started_at)?
        .next(number_of(&EXECUTORS, task.executor)?)?
        .next(task.requeue_on_interrupt)?
        .next(&*task.args)?;
    Ok(row)
}

/// The task in a row of [`TASK_COLUMNS`]; of arguments and result at most `payload_max` bytes.
pub(crate) fn read_task(
    row: &Row<'_>,
    payload_max: usize,
    conn: &Connection,
    interned: &mut Interned,
) -> Result<Task, Fault> {
    let id = read_id(row, 0)?;
    let name = interned.name(conn, row.get(1)?)?;
    let mut task = Task::new(id, name, text(row, 14, payload_max)?.unwrap_or_default());
    task.priority = row.get(6)?;
    task.source = meaning_of("source", &SOURCES, row.get(11)?)?;
    task.executor = meaning_of("executor", &EXECUTORS, row.get(12)?)?;
    task.requeue_on_interrupt = row.get(13)?;
    task.tags = json::<Tags>(row, 17)?.unwrap_or_default();
    task.options = json::<TaskOptions>(row, 18)?.unwrap_or_default();
    task.idempotency_key = json::<IdempotencyKey>(row, 19)?;
    task.retry_of = row.get::<_, Option<[u8; 16]>>(20)?.map(TaskId::from_bytes);
    task.progress = json::<Progress>(row, 21)?;
    let tracked = json::<Tracked>(row, 18)?.unwrap_or_default();
    task.tracking_id = tracked.tracking_id;
    task.trace_context = tracked.trace_context;
    let owner = match row.get::<_, Option<i64>>(5)? {
        None | Some(NOBODY) => None,
        Some(no) => Some(interned.instance_id(conn, no)?),
    };
    let instance = match row.get::<_, Option<i64>>(8)? {
        None => None,
        Some(no) => Some(interned.instance_id(conn, no)?),
    };
    task.life = Life {
        status: status_of(row.get(2)?)?,
        epoch: Epoch::from_u32(row.get(3)?),
        attempt: row.get(4)?,
        crashes: row.get(22)?,
        owner,
        instance,
        run_at: Timestamp::from_unix_ms(row.get(7)?),
        started_at: time(row, 9)?,
        finished_at: time(row, 10)?,
        error: json(row, 16)?.map(Arc::new),
        result: text(row, 15, payload_max)?.map(Arc::from),
    };
    Ok(task)
}

/// The same for somebody who looks. Of a row that this program cannot read, what can be read, and why the rest cannot.
pub(crate) fn show_task(
    row: &Row<'_>,
    payload_max: usize,
    conn: &Connection,
    interned: &mut Interned,
) -> Result<Task, Fault> {
    match read_task(row, payload_max, conn, interned) {
        Err(Fault::Unreadable(why)) => read_in_part(row, payload_max, &why, conn, interned),
        read => read,
    }
}

/// What is left out has its default. So a status that is not known is `pending`: it waits for who knows it.
fn read_in_part(
    row: &Row<'_>,
    payload_max: usize,
    why: &str,
    conn: &Connection,
    interned: &mut Interned,
) -> Result<Task, Fault> {
    fn part<T: rusqlite::types::FromSql + Default>(row: &Row<'_>, column: usize) -> T {
        row.get(column).unwrap_or_default() // the reason is told already
    }
    let name = match row.get(1).map_err(Fault::from) {
        Ok(no) => interned.name(conn, no),
        Err(fault) => Err(fault),
    };
    let name = match name {
        Err(Fault::Unreadable(_)) => Arc::from("?"),
        name => name?,
    };
    let args = text(row, 14, payload_max).ok().flatten(); // as above
    let mut task = Task::new(read_id(row, 0)?, name, args.unwrap_or_default());
    task.priority = part(row, 6);
    task.tags = json(row, 17).ok().flatten().unwrap_or_default(); // as above
    task.life.status = status_of(part(row, 2)).unwrap_or(TaskStatus::Pending);
    task.life.epoch = Epoch::from_u32(part(row, 3));
    task.life.attempt = part(row, 4);
    task.life.crashes = part(row, 22);
    task.life.run_at = Timestamp::from_unix_ms(part(row, 7));
    task.life.started_at = part::<Option<i64>>(row, 9).map(Timestamp::from_unix_ms);
    task.life.finished_at = part::<Option<i64>>(row, 10).map(Timestamp::from_unix_ms);
    let why = format!("this program cannot read what is stored of the task: {why}");
    task.life.error = Some(FailureReport::new(FailureKind::Unreadable, why).into());
    Ok(task)
}

/// The attempt in a row of `number, epoch, instance, started_at, finished_at, outcome, error`.
pub(crate) fn read_attempt(
    row: &Row<'_>,
    conn: &Connection,
    interned: &mut Interned,
) -> Result<Attempt, Fault> {
    let instance: Option<i64> = row.get(2)?;
    Ok(Attempt {
        number: row.get(0)?,
        epoch: Epoch::from_u32(row.get(1)?),
        instance: instance
            .map(|no| interned.instance_id(conn, no))
            .transpose()?,
        started_at: time(row, 3)?,
        finished_at: Timestamp::from_unix_ms(row.get(4)?),
        outcome: status_of(row.get(5)?)?,
        error: json(row, 6)?.map(Arc::new),
    })
}

/// The line in a row of `seq, attempt, at, level, message`.
pub(crate) fn read_log_line(row: &Row<'_>) -> Result<LogLine, Fault> {
    Ok(LogLine {
        seq: row.get(0)?,
        attempt: row.get(1)?,
        at: Timestamp::from_unix_ms(row.get(2)?),
        level: meaning_of("log level", &LEVELS, row.get(3)?).unwrap_or(LogLevel::Info), // a newer one
        message: row.get(4)?,
    })
}

/// The id in this column.
pub(crate) fn read_id(row: &Row<'_>, column: usize) -> rusqlite::Result<TaskId> {
    row.get(column).map(TaskId::from_bytes)
}

/// The number in this column, which is never below zero.
pub(crate) fn whole(row: &Row<'_>, column: usize) -> Result<u64, Fault> {
    let n: i64 = row.get(column)?;
    u64::try_from(n).map_err(|_| Fault::unreadable(format!("a stored number is {n}, below zero")))
}

/// The JSON of a stored part.
pub(crate) fn to_json(part: &impl Serialize) -> Result<String, Fault> {
    to_string(part).map_err(|error| Fault::unreadable(format!("it has no JSON form: {error}")))
}

/// The time in this column, if there is one.
pub(crate) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    Ok(row
        .get::<_, Option<i64>>(column)?
        .map(Timestamp::from_unix_ms))
}

/// The first whole characters of a text that fit into `bytes_max`; copies no more than that.
fn text<'r>(row: &'r Row<'_>, column: usize, bytes_max: usize) -> Result<Option<&'r str>, Fault> {
    let ValueRef::Text(bytes) = row.get_ref(column)? else {
        return Ok(None);
    };
    let text = std::str::from_utf8(bytes)
        .map_err(|error| Fault::unreadable(format!("a stored text is not UTF-8: {error}")))?;
    Ok(Some(&text[..text.floor_char_boundary(bytes_max)]))
}

pub(crate) fn json<T: serde::de::DeserializeOwned>(
    row: &Row<'_>,
    column: usize,
) -> Result<Option<T>, Fault> {
    let Some(text) = text(row, column, usize::MAX)? else {
        return Ok(None);
    };
    from_str(text).map(Some).map_err(|error| {
        Fault::unreadable(format!("a stored part of a task is unreadable: {error}"))
    })
}

fn number_of<T: Copy + PartialEq + std::fmt::Debug>(
    numbers: &[(T, i64)],
    value: T,
) -> Result<i64, Fault> {
    let found = numbers.iter().find(|(known, _)| *known == value);
    found
        .map(|(_, no)| *no)
        .ok_or_else(|| Fault::unreadable(format!("{value:?} has no place in this schema")))
}

fn meaning_of<T: Copy>(what: &str, numbers: &[(T, i64)], no: i64) -> Result<T, Fault> {
    let found = numbers.iter().find(|(_, known)| *known == no);
    found
        .map(|(value, _)| *value)
        .ok_or_else(|| Fault::unreadable(format!("{what} {no} is not known here")))
}
