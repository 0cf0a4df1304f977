//! One stored task, small: what most tasks do not have lies apart.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use crate::{
    backend::Said,
    id::{Epoch, TaskId},
    task::{
        Attempt, Executor, IdempotencyKey, Life, LogLine, Progress, Source, Tags, Task, TaskOptions,
    },
};

/// How many past attempts of a task are kept.
const ATTEMPTS_MAX: usize = 1_000;
/// How many log lines of a task are kept.
const LINES_MAX: usize = 10_000;

/// A [`Task`] without its id, in about a third of the bytes: 100,000 of them wait in memory at times. The payloads
/// are shared with the task that it was made of.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: Arc<str>,
    args: Arc<str>,
    pub(super) priority: i32,
    requeue_on_interrupt: bool,
    source: Source,
    executor: Executor,
    pub(super) life: Life,
    rest: Option<Box<Rest>>,
}

/// What most tasks do not have.
#[derive(Debug, Default)]
struct Rest {
    tags: Tags,
    idempotency_key: Option<IdempotencyKey>,
    options: TaskOptions,
    retry_of: Option<TaskId>,
    tracking_id: Option<Arc<str>>,
    trace_context: Option<Arc<str>>,
    progress: Option<Progress>,
    past_attempts: VecDeque<Attempt>,
    lines: BTreeMap<(Epoch, u32), LogLine>,
}

impl Row {
    /// What is stored of `task`; `name` is its name, shared with the other tasks of the function.
    pub(super) fn of(task: &Task, name: Arc<str>) -> Self {
        let is_plain = task.tags.is_empty()
            && task.idempotency_key.is_none()
            && task.options == TaskOptions::default()
            && task.retry_of.is_none()
            && task.tracking_id.is_none()
            && task.trace_context.is_none();
        let rest = (!is_plain).then(|| {
            Box::new(Rest {
                tags: task.tags.clone(),
                idempotency_key: task.idempotency_key.clone(),
                options: task.options.clone(),
                retry_of: task.retry_of,
                tracking_id: task.tracking_id.clone(),
                trace_context: task.trace_context.clone(),
                ..Rest::default()
            })
        });
        Self {
            name,
            args: task.args.clone(),
            priority: task.priority,
            requeue_on_interrupt: task.requeue_on_interrupt,
            source: task.source,
            executor: task.executor,
            life: task.life.clone(),
            rest,
        }
    }

    /// The task, without its past attempts.
    pub(super) fn task(&self, id: TaskId) -> Task {
        let mut task = Task::new(id, self.name.clone(), self.args.clone());
        task.priority = self.priority;
        task.requeue_on_interrupt = self.requeue_on_interrupt;
        task.source = self.source;
        task.executor = self.executor;
        task.life = self.life.clone();
        if let Some(rest) = &self.rest {
            task.tags = rest.tags.clone();
            task.idempotency_key = rest.idempotency_key.clone();
            task.options = rest.options.clone();
            task.retry_of = rest.retry_of;
            task.tracking_id = rest.tracking_id.clone();
            task.trace_context = rest.trace_context.clone();
            task.progress = rest.progress.clone();
        }
        task
    }

    pub(super) fn past_attempts(&self) -> Vec<Attempt> {
        self.rest.as_ref().map_or_else(Vec::new, |rest| {
            rest.past_attempts.iter().cloned().collect()
        })
    }

    pub(super) fn tags(&self) -> impl Iterator<Item = (&str, &str)> {
        self.rest
            .iter()
            .flat_map(|rest| &rest.tags)
            .map(|(key, value)| (&**key, &**value))
    }

    pub(super) fn tracking_id(&self) -> Option<&Arc<str>> {
        self.rest.as_ref()?.tracking_id.as_ref()
    }

    pub(super) fn has_tag(&self, key: &str, value: Option<&str>) -> bool {
        let found = self.rest.as_ref().and_then(|rest| rest.tags.get(key));
        found.is_some_and(|found| value.is_none_or(|value| value == found))
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = &LogLine> {
        self.rest.iter().flat_map(|rest| rest.lines.values())
    }

    pub(super) fn push_attempt(&mut self, attempt: Attempt) {
        let past = &mut self.rest().past_attempts;
        past.push_back(attempt);
        if past.len() > ATTEMPTS_MAX {
            past.pop_front();
        }
    }

    pub(super) fn say(&mut self, epoch: Epoch, what: &Said) {
        match what {
            Said::Progress(progress) => self.rest().progress = Some(progress.clone()),
            Said::Log(line) => {
                let lines = &mut self.rest().lines;
                // The same line again is a batch that is written again.
                lines
                    .entry((epoch, line.seq))
                    .or_insert_with(|| line.clone());
                if lines.len() > LINES_MAX {
                    lines.pop_first();
                }
            }
        }
    }

    fn rest(&mut self) -> &mut Rest {
        self.rest.get_or_insert_default()
    }
}
