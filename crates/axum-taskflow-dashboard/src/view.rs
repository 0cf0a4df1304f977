//! What is printed of a task: by JSON, by templates, by the stream. A handler makes these; a template only prints.

use std::time::Duration;

use axum_taskflow_core::{
    AuditEntry, FailureKind, FailureReport, Life, LogLine, Progress, Tags, Task, TaskId,
    TaskManager, TaskStatus, Timestamp,
};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{query::Tag, runners::Runners, text};

/// A task as fastapi-taskflow's clients know it, and our fields beside theirs.
#[derive(Debug, Serialize)]
pub(crate) struct TaskJson<'a> {
    task_id: TaskId,
    func_name: &'a str,
    status: TaskStatus,
    created_at: Timestamp,
    start_time: Option<Timestamp>,
    end_time: Option<Timestamp>,
    duration: Option<f64>,
    retries_used: u32,
    error: Option<&'a str>,
    logs: Vec<String>,
    stacktrace: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    error_truncated: bool,
    tags: &'a Tags,
    source: &'static str,
    priority: i32,
    executor: &'static str,
    queue: &'static str,
    run_at: Timestamp,
    attempt: u32,
    crashes: u32,
    held_reason: Option<String>,
    result: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    result_truncated: bool,
    progress: Option<&'a Progress>,
    instance: Option<String>,
    idempotency_key: Option<&'a str>,
    tracking_id: Option<&'a str>,
}

impl<'a> TaskJson<'a> {
    /// Whether somebody `can_run` it counts for a task that waits.
    pub(crate) fn of(task: &'a Task, logs: &[LogLine], can_run: bool) -> Self {
        let life = &task.life;
        // Between two attempts a task has an end of its own as little as while it runs.
        let end_time = life.finished_at.filter(|_| life.status.is_terminal());
        let error = life.error.as_deref();
        // A result that was cut for a list is no JSON any more.
        let result = life.result.as_deref().map(serde_json::from_str);
        Self {
            task_id: task.id,
            func_name: &task.name,
            status: life.status,
            created_at: task.created_at(),
            start_time: life.started_at,
            end_time,
            duration: end_time.and(task.duration()).map(|ran| ran.as_secs_f64()),
            retries_used: life.attempt.saturating_sub(1),
            error: error.map(|error| &*error.message),
            logs: log_lines(logs),
            stacktrace: error.map(FailureReport::to_string),
            error_truncated: false,
            tags: &task.tags,
            source: task.source.as_str(),
            priority: task.priority,
            executor: task.executor.as_str(),
            queue: "default",
            run_at: life.run_at,
            attempt: life.attempt,
            crashes: life.crashes,
            held_reason: held_reason(&task.name, life, can_run),
            result_truncated: matches!(result, Some(Err(_))),
            result: result.and_then(Result::ok),
            progress: task.progress.as_ref(),
            instance: life.instance.map(|instance| instance.to_string()),
            idempotency_key: task.idempotency_key.as_ref().map(|key| &*key.key),
            tracking_id: task.tracking_id.as_deref(),
        }
    }

    /// In a list: one error may have 270 KB with its sources, and there may be a thousand of them.
    pub(crate) fn in_list(mut self) -> Self {
        if let Some(error) = &mut self.error {
            let end = error.floor_char_boundary(ERROR_IN_LIST_MAX);
            self.error_truncated |= end < error.len();
            *error = &error[..end];
        }
        if let Some(stack) = &mut self.stacktrace {
            let end = stack.floor_char_boundary(ERROR_IN_LIST_MAX);
            self.error_truncated |= end < stack.len();
            stack.truncate(end);
            stack.shrink_to_fit();
        }
        self
    }
}

/// Log lines in fastapi-taskflow's form: `2026-11-22T09:00:00Z text`, and a line where a further attempt begins.
fn log_lines(logs: &[LogLine]) -> Vec<String> {
    let mut lines = Vec::with_capacity(logs.len());
    let mut attempt = 1;
    for line in logs {
        if line.attempt != attempt {
            attempt = line.attempt;
            lines.push(format!("--- Retry {} ---", attempt.saturating_sub(1)));
        }
        let at = line.at.to_string();
        let seconds = at.get(..19).unwrap_or(&at);
        lines.push(format!("{seconds}Z {}", line.message));
    }
    lines
}

/// Somebody's action as fastapi-taskflow's clients know it.
#[derive(Debug, Serialize)]
pub(crate) struct AuditJson<'a> {
    entry_id: TaskId,
    action: &'a str,
    task_id: Option<String>,
    actor: &'a str,
    timestamp: Timestamp,
    detail: &'a serde_json::Value,
}

impl<'a> AuditJson<'a> {
    pub(crate) fn of(entry: &'a AuditEntry) -> Self {
        // Clients that know only fastapi-taskflow expect a text.
        let many = match &*entry.action {
            "bulk_retry" => Some("bulk".to_owned()),
            "delete_history" => Some("history".to_owned()),
            _ => None,
        };
        Self {
            entry_id: entry.id,
            action: &entry.action,
            task_id: entry.task.map(|id| id.to_string()).or(many),
            actor: &entry.actor,
            timestamp: entry.at,
            detail: &entry.detail,
        }
    }
}

/// How a task's status is shown: a pending task says what it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Pending, and not due yet.
    Scheduled,
    Pending,
    Running,
    /// Pending between two attempts.
    Retrying,
    /// Pending, and nobody can run it.
    Held,
    Success,
    Failed,
    Interrupted,
    Cancelled,
}

impl State {
    pub(crate) fn of(life: &Life, can_run: bool, now: Timestamp) -> Self {
        match life.status {
            TaskStatus::Pending if !can_run || is_held(life) => Self::Held,
            TaskStatus::Pending if life.attempt > 0 => Self::Retrying,
            TaskStatus::Pending if life.run_at > now => Self::Scheduled,
            TaskStatus::Running => Self::Running,
            TaskStatus::Success => Self::Success,
            TaskStatus::Failed => Self::Failed,
            TaskStatus::Interrupted => Self::Interrupted,
            TaskStatus::Cancelled => Self::Cancelled,
            // Also a status that this page does not know yet.
            _ => Self::Pending,
        }
    }

    /// The word, which is also the icon and the colour.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Held => "held",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Cancelled => "cancelled",
        }
    }

    /// What can be done with such a task.
    pub(crate) fn action(self) -> &'static str {
        match self {
            Self::Failed | Self::Interrupted | Self::Cancelled => "retry",
            Self::Success => "",
            Self::Scheduled | Self::Pending | Self::Running | Self::Retrying | Self::Held => {
                "cancel"
            }
        }
    }
}

fn is_held(life: &Life) -> bool {
    matches!(&life.error, Some(error) if waits_for_another(error))
}

/// True if the error is that of a program that cannot read the task, and not of the task.
fn waits_for_another(error: &FailureReport) -> bool {
    matches!(error.kind, FailureKind::Held | FailureKind::Unreadable)
}

/// Why a pending task waits whatever the time is.
fn held_reason(name: &str, life: &Life, can_run: bool) -> Option<String> {
    match &life.error {
        _ if life.status != TaskStatus::Pending => None,
        Some(error) if waits_for_another(error) => Some(error.message.clone()),
        _ if can_run => None,
        _ => Some(format!(
            "no running instance knows a function called {name}"
        )),
    }
}

/// Why a task waits or failed, on one line.
fn error_head(name: &str, life: &Life, can_run: bool) -> Option<String> {
    let error = || life.error.as_ref().map(|error| error.message.clone());
    let why = held_reason(name, life, can_run).or_else(error)?;
    Some(text::head(&why, ERROR_HEAD_MAX))
}

/// Bytes of an error, and of it with its sources, in a list for programs: as many as of a result.
const ERROR_IN_LIST_MAX: usize = 4 * 1024;
/// Characters of an error in a row.
const ERROR_HEAD_MAX: usize = 120;
/// Characters of the arguments in a row.
const ARGS_HEAD_MAX: usize = 160;
/// Bytes of arguments, of a result and of an error on a task's page.
const PAYLOAD_MAX: usize = 64 * 1024;
/// Characters of a log line on a task's page.
pub(crate) const LOG_LINE_MAX: usize = 2_000;

/// An instant, ready to be printed.
#[derive(Debug)]
pub(crate) struct At {
    pub(crate) iso: String,
    pub(crate) title: String,
    pub(crate) relative: String,
}

impl At {
    pub(crate) fn of(at: Timestamp, now: Timestamp) -> Self {
        Self {
            iso: at.to_string(),
            title: text::absolute(at),
            relative: text::relative(at, now),
        }
    }
}

/// One line of the list.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) id: TaskId,
    pub(crate) name: String,
    pub(crate) state: State,
    pub(crate) percent: String,
    /// When it will run, in milliseconds, if it waits for a time.
    pub(crate) when_ms: Option<i64>,
    pub(crate) when: String,
    pub(crate) error: String,
    pub(crate) args: String,
    pub(crate) attempt: u32,
    pub(crate) attempts_max: u32,
    pub(crate) duration: String,
    /// Since when it runs, in milliseconds, if it does.
    pub(crate) since_ms: Option<i64>,
    pub(crate) created: At,
}

impl Row {
    pub(crate) fn of(
        task: &Task,
        manager: &TaskManager,
        runners: &Runners,
        now: Timestamp,
    ) -> Self {
        let life = &task.life;
        let can_run = runners.can_run(manager, &task.name, life);
        let state = State::of(life, can_run, now);
        let waits = wait(life, now);
        Self {
            id: task.id,
            name: text::clean(&task.name),
            state,
            percent: match (&task.progress, state) {
                (Some(progress), State::Running) => percent(progress.fraction),
                _ => String::new(),
            },
            when_ms: waits.map(Timestamp::as_unix_ms),
            when: waits
                .map(|at| format!("runs {}", text::relative(at, now)))
                .unwrap_or_default(),
            error: error_head(&task.name, life, can_run).unwrap_or_default(),
            args: text::head(&task.args, ARGS_HEAD_MAX),
            attempt: life.attempt,
            attempts_max: attempts_max(task, manager),
            duration: ran(life, now).map(text::duration).unwrap_or_default(),
            since_ms: since(life).map(Timestamp::as_unix_ms),
            created: At::of(task.created_at(), now),
        }
    }
}

/// A task may have been given fewer retries since it made its attempts.
fn attempts_max(task: &Task, manager: &TaskManager) -> u32 {
    let allowed = manager.retries(task).saturating_add(1);
    allowed.max(task.life.attempt)
}

/// What a pending task waits for, if that is a time to come.
fn wait(life: &Life, now: Timestamp) -> Option<Timestamp> {
    (life.status == TaskStatus::Pending && life.run_at > now && !is_held(life))
        .then_some(life.run_at)
}

fn since(life: &Life) -> Option<Timestamp> {
    life.started_at
        .filter(|_| life.status == TaskStatus::Running)
}

/// How long the last attempt ran, or runs by now.
fn ran(life: &Life, now: Timestamp) -> Option<Duration> {
    let end = match life.status {
        TaskStatus::Running => now,
        _ => life.finished_at?,
    };
    Some(end.since(life.started_at?))
}

pub(crate) fn percent(fraction: f64) -> String {
    format!("{:.0} %", (fraction * 100.0).floor())
}

/// What changed in a row, in few bytes. `s` says that everything else that hangs on the status is told anew.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Delta {
    pub(crate) id: TaskId,
    /// The state's word.
    #[serde(skip_serializing_if = "Option::is_none")]
    s: Option<&'static str>,
    /// Attempts begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    a: Option<u32>,
    /// How long the last attempt ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    d: Option<String>,
    /// Since when it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    t: Option<i64>,
    /// When it will run.
    #[serde(skip_serializing_if = "Option::is_none")]
    r: Option<i64>,
    /// The head of its error.
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    /// How far it is, two digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    p: Option<f64>,
    /// What it is doing.
    #[serde(skip_serializing_if = "Option::is_none")]
    m: Option<String>,
}

impl Delta {
    pub(crate) fn of_life(
        id: TaskId,
        name: &str,
        life: &Life,
        can_run: bool,
        now: Timestamp,
    ) -> Self {
        let ended = match life.status {
            TaskStatus::Running => None,
            _ => ran(life, now),
        };
        Self {
            id,
            s: Some(State::of(life, can_run, now).word()),
            a: Some(life.attempt),
            d: ended.map(text::duration),
            t: since(life).map(Timestamp::as_unix_ms),
            r: wait(life, now).map(Timestamp::as_unix_ms),
            e: error_head(name, life, can_run),
            p: None,
            m: None,
        }
    }

    pub(crate) fn of_progress(id: TaskId, progress: &Progress, with_message: bool) -> Self {
        Self {
            id,
            s: None,
            a: None,
            d: None,
            t: None,
            r: None,
            e: None,
            p: Some((progress.fraction * 100.0).floor() / 100.0),
            m: with_message.then(|| text::head(&progress.message, ARGS_HEAD_MAX)),
        }
    }

    /// This delta with what `newer` says; a new status replaces everything that hung on the old one.
    pub(crate) fn merge(&mut self, newer: Self) {
        if newer.s.is_some() {
            *self = newer;
            return;
        }
        self.p = newer.p.or(self.p);
        self.m = newer.m.or(self.m.take());
    }
}

/// Everything about one task.
#[derive(Debug)]
pub(crate) struct Detail {
    pub(crate) row: Row,
    pub(crate) error: Option<ErrorText>,
    pub(crate) progress: Option<ProgressText>,
    pub(crate) logs: Logs,
    pub(crate) args: text::Json,
    pub(crate) args_bytes: String,
    pub(crate) result: Option<text::Json>,
    pub(crate) waited: String,
    /// Of each attempt; nothing if only another instance can tell.
    pub(crate) timeout: Option<String>,
    pub(crate) priority: i32,
    pub(crate) executor: &'static str,
    pub(crate) source: &'static str,
    pub(crate) requeue: bool,
    pub(crate) retry_of: Option<TaskId>,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) tracking_id: Option<Sought>,
    pub(crate) tags: Vec<Sought>,
    /// Attempts that are not listed.
    pub(crate) attempts_left_out: usize,
    pub(crate) attempts: Vec<AttemptText>,
    /// When it will run, if it waits for a time.
    pub(crate) due: Option<At>,
    pub(crate) finished: Option<At>,
}

/// What other tasks may have, too.
#[derive(Debug)]
pub(crate) struct Sought {
    pub(crate) text: String,
    /// What finds them, also where it has characters that are not shown.
    pub(crate) word: String,
}

#[derive(Debug)]
pub(crate) struct ErrorText {
    pub(crate) title: &'static str,
    pub(crate) text: String,
}

#[derive(Debug)]
pub(crate) struct ProgressText {
    pub(crate) fraction: f64,
    pub(crate) percent: String,
    pub(crate) message: String,
}

/// The end of a task's log.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    /// How many lines there are, up to the last one shown.
    pub(crate) total: usize,
    pub(crate) left_out: usize,
    pub(crate) lines: Vec<LogText>,
}

#[derive(Debug)]
pub(crate) struct LogText {
    pub(crate) attempt: u32,
    /// The first line of its attempt.
    pub(crate) is_first: bool,
    pub(crate) time: String,
    pub(crate) level: &'static str,
    pub(crate) text: String,
}

impl LogText {
    pub(crate) fn of(line: &LogLine, is_first: bool) -> Self {
        let mut text = text::clean(&line.message);
        if let Some((end, _)) = text.char_indices().nth(LOG_LINE_MAX) {
            text.truncate(end);
            text.push('…');
        }
        Self {
            attempt: line.attempt,
            is_first,
            time: text::time_of_day(line.at),
            level: line.level.as_str(),
            text,
        }
    }
}

#[derive(Debug)]
pub(crate) struct AttemptText {
    pub(crate) number: u32,
    pub(crate) state: &'static str,
    pub(crate) started: Option<At>,
    pub(crate) ran: String,
    pub(crate) error: String,
}

/// Attempts on a task's page; of more, the last ones.
const ATTEMPTS_MAX: usize = 50;

impl Detail {
    pub(crate) fn of(
        task: &Task,
        logs: Logs,
        manager: &TaskManager,
        runners: &Runners,
        now: Timestamp,
    ) -> Self {
        let life = &task.life;
        let first_start = task
            .past_attempts
            .first()
            .map_or(life.started_at, |first| first.started_at);
        let waited = match first_start {
            Some(started) => started.since(task.created_at()),
            None => life.finished_at.unwrap_or(now).since(task.created_at()),
        };
        let can_run = runners.can_run(manager, &task.name, life);
        let args_bytes = u64::try_from(task.args.len()).unwrap_or(u64::MAX);
        Self {
            row: Row::of(task, manager, runners, now),
            error: error_text(task, can_run),
            progress: task.progress.as_ref().map(|progress| ProgressText {
                fraction: progress.fraction,
                percent: percent(progress.fraction),
                message: text::head(&progress.message, ARGS_HEAD_MAX),
            }),
            logs,
            args: text::pretty_json(&task.args, PAYLOAD_MAX),
            args_bytes: text::count(args_bytes),
            result: (life.status == TaskStatus::Success).then(|| {
                let result = life.result.as_deref().unwrap_or("null");
                text::pretty_json(result, PAYLOAD_MAX)
            }),
            waited: text::duration(waited),
            timeout: match manager.timeout(task) {
                Some(timeout) => Some(text::duration(timeout)),
                None => manager.knows(&task.name).then(|| "none".to_owned()),
            },
            priority: task.priority,
            executor: task.executor.as_str(),
            source: task.source.as_str(),
            requeue: task.requeue_on_interrupt,
            retry_of: task.retry_of,
            idempotency_key: task
                .idempotency_key
                .as_ref()
                .map(|key| text::clean(&key.key)),
            tracking_id: task.tracking_id.as_deref().map(|id| Sought {
                text: text::clean(id),
                word: id.to_owned(),
            }),
            tags: task
                .tags
                .iter()
                .map(|(key, value)| Sought {
                    text: text::clean(&format!("{key}={value}")),
                    word: Tag::of_task(key, value).to_string(),
                })
                .collect(),
            attempts_left_out: task.past_attempts.len().saturating_sub(ATTEMPTS_MAX),
            attempts: attempts(task, now),
            due: wait(life, now).map(|at| At::of(at, now)),
            finished: life
                .finished_at
                .filter(|_| life.status.is_terminal())
                .map(|at| At::of(at, now)),
        }
    }
}

fn error_text(task: &Task, can_run: bool) -> Option<ErrorText> {
    let error = task.life.error.as_deref();
    let is_held = error.is_some_and(waits_for_another);
    if let Some(why) = held_reason(&task.name, &task.life, can_run).filter(|_| !is_held) {
        return Some(ErrorText {
            title: "Why it waits",
            text: text::clean(&why),
        });
    }
    let error = error?;
    let title = match (error.kind, task.life.status) {
        (FailureKind::Held, _) | (FailureKind::Unreadable, TaskStatus::Pending) => "Why it waits",
        (FailureKind::Unreadable, _) => "Why it is shown in part",
        (FailureKind::Panic, _) => "Panic",
        (FailureKind::Timeout, _) => "Timeout",
        (FailureKind::Cancelled, _) => "Cancelled",
        (FailureKind::Interrupted, _) => "Interrupted",
        (FailureKind::Crashed, _) => "Crashed",
        (_, TaskStatus::Pending) => "Error of the last attempt",
        _ => "Error",
    };
    let full = error.to_string();
    let part = &full[..full.floor_char_boundary(PAYLOAD_MAX)];
    Some(ErrorText {
        title,
        text: text::clean(part),
    })
}

fn attempts(task: &Task, now: Timestamp) -> Vec<AttemptText> {
    let skip = task.past_attempts.len().saturating_sub(ATTEMPTS_MAX);
    let mut attempts: Vec<AttemptText> = task.past_attempts[skip..]
        .iter()
        .map(|attempt| AttemptText {
            number: attempt.number,
            state: attempt.outcome.as_str(),
            started: attempt.started_at.map(|at| At::of(at, now)),
            ran: attempt
                .started_at
                .map(|started| text::duration(attempt.finished_at.since(started)))
                .unwrap_or_default(),
            error: attempt
                .error
                .as_ref()
                .map(|error| text::head(&error.message, ARGS_HEAD_MAX))
                .unwrap_or_default(),
        })
        .collect();
    let life = &task.life;
    // Between two attempts the last one stands among the past ones already.
    if life.attempt > 0 && life.status != TaskStatus::Pending {
        attempts.push(AttemptText {
            number: life.attempt,
            state: life.status.as_str(),
            started: life.started_at.map(|at| At::of(at, now)),
            ran: ran(life, now).map(text::duration).unwrap_or_default(),
            error: error_head(&task.name, life, true).unwrap_or_default(),
        });
    }
    attempts
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum_taskflow_core::{IdSource, LogLevel};

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_795_300_000_000);

    fn later(ms: u64) -> Timestamp {
        NOW.saturating_add(Duration::from_millis(ms))
    }

    fn task() -> Task {
        Task::new(IdSource::default().task(NOW), "send_email", "[\"a\"]")
    }

    #[test]
    fn a_pending_task_says_what_it_waits_for() {
        let mut life = Life::new(later(60_000));
        let state = |life: &Life, is_known| State::of(life, is_known, NOW).word();
        assert_eq!(state(&life, true), "scheduled");
        assert_eq!(state(&life, false), "held");

        life.run_at = NOW;
        assert_eq!(state(&life, true), "pending");

        life.attempt = 1;
        assert_eq!(state(&life, true), "retrying");

        life.error = Some(Arc::new(FailureReport::new(FailureKind::Held, "no")));
        assert_eq!(state(&life, true), "held");
    }

    #[test]
    fn a_function_that_nobody_knows_is_the_reason_to_wait_only_while_the_task_waits() {
        let mut task = task();
        let unknown = Some("no running instance knows a function called send_email".to_owned());
        assert_eq!(held_reason(&task.name, &task.life, true), None);
        assert_eq!(held_reason(&task.name, &task.life, false), unknown);

        let report = |kind| Some(Arc::new(FailureReport::new(kind, "why")));
        task.life.error = report(FailureKind::Error);
        assert_eq!(error_head(&task.name, &task.life, false), unknown);
        assert_eq!(error_text(&task, false).unwrap().title, "Why it waits");
        task.life.error = report(FailureKind::Held);
        let stored = Some("why".to_owned());
        assert_eq!(held_reason(&task.name, &task.life, false), stored);
        assert_eq!(held_reason(&task.name, &task.life, true), stored);

        task.life.status = TaskStatus::Success;
        assert_eq!(held_reason(&task.name, &task.life, false), None);
    }

    #[test]
    fn a_task_between_two_attempts_has_no_end() {
        let mut task = task();
        task.life.attempt = 1;
        task.life.started_at = Some(NOW);
        task.life.finished_at = Some(later(1_500));
        let json = serde_json::to_value(TaskJson::of(&task, &[], true)).unwrap();
        assert!(json["end_time"].is_null() && json["duration"].is_null());

        task.life.status = TaskStatus::Failed;
        let json = serde_json::to_value(TaskJson::of(&task, &[], true)).unwrap();
        assert_eq!(json["duration"], 1.5);
        assert_eq!(json["end_time"], "2026-11-21T22:26:41.500+00:00");
    }

    #[test]
    fn a_result_that_was_cut_is_said_to_be_and_not_printed_as_another_one() {
        let mut task = task();
        task.life.result = Some("\"abc".into());
        let json = serde_json::to_value(TaskJson::of(&task, &[], true)).unwrap();
        assert!(json["result"].is_null());
        assert_eq!(json["result_truncated"], true);

        task.life.result = Some("{\"a\":1}".into());
        let json = serde_json::to_value(TaskJson::of(&task, &[], true)).unwrap();
        assert_eq!(json["result"]["a"], 1);
        assert!(json.get("result_truncated").is_none());
    }

    #[test]
    fn logs_are_lines_of_text_with_a_mark_where_a_retry_begins() {
        let line = |attempt, message: &str| LogLine {
            seq: 0,
            attempt,
            at: later(123),
            level: LogLevel::Info,
            message: message.to_owned(),
        };

        let lines = log_lines(&[line(1, "one"), line(1, "two"), line(2, "three")]);

        assert_eq!(
            lines,
            [
                "2026-11-21T22:26:40Z one",
                "2026-11-21T22:26:40Z two",
                "--- Retry 1 ---",
                "2026-11-21T22:26:40Z three"
            ]
        );
    }

    #[test]
    fn a_changed_row_costs_few_bytes() {
        let mut life = Life::new(NOW);
        life.status = TaskStatus::Success;
        life.attempt = 1;
        life.started_at = Some(NOW);
        life.finished_at = Some(later(48));

        let delta = Delta::of_life(task().id, "f", &life, true, later(50));
        let json = serde_json::to_string(&delta).unwrap();

        assert!(
            json.ends_with(r#","s":"success","a":1,"d":"48 ms"}"#),
            "{json}"
        );
        assert!(json.len() < 90, "{} bytes", json.len());
    }

    #[test]
    fn a_new_status_replaces_what_hung_on_the_old_one() {
        let id = task().id;
        let mut life = Life::new(later(10_000));
        life.attempt = 1;
        life.error = Some(Arc::new(FailureReport::new(FailureKind::Error, "no")));
        let mut delta = Delta::of_life(id, "f", &life, true, NOW);
        assert!(delta.e.is_some() && delta.r.is_some());

        life.status = TaskStatus::Running;
        life.error = None;
        delta.merge(Delta::of_life(id, "f", &life, true, NOW));
        let progress = Progress {
            fraction: 0.429,
            message: "x".to_owned(),
        };
        delta.merge(Delta::of_progress(id, &progress, false));

        assert_eq!((delta.e, delta.r), (None, None));
        assert_eq!((delta.s, delta.p), (Some("running"), Some(0.42)));
    }

    #[test]
    fn a_clock_that_went_back_gives_no_negative_times() {
        let mut task = task();
        task.life.status = TaskStatus::Success;
        task.life.attempt = 1;
        task.life.started_at = Some(later(5_000));
        task.life.finished_at = Some(NOW);

        assert_eq!(ran(&task.life, NOW), Some(Duration::ZERO));
    }
}
