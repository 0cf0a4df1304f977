//! Everything under the lock: each verb of the contract as a plain function.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use super::{
    index::Index, instances::Instances, keys::Keys, records::Records, row::Row, waiting::Waiting,
};
use crate::{
    backend::{
        AheadPage, AheadQuery, Applied, AuditEntry, Batch, Claim, Claimed, Count, Enqueued,
        ListQuery, Minute, Note, Page, Prune, Pruned, Step, Stepped, Written,
    },
    change::{Change, KeyFate},
    clock::Timestamp,
    error::BackendError,
    id::{InstanceId, TaskId},
    status::TaskStatus,
    task::{Life, LogLine, Task},
};

/// How many tasks one page looks at; the lock is held meanwhile.
const LOOKED_AT_MAX: usize = 10_000;
/// How many minutes are kept, each for a function and a status.
const MINUTES_MAX: usize = 100_000;
/// How many audit entries are kept.
const AUDIT_MAX: usize = 10_000;

#[derive(Debug)]
pub(super) struct Store {
    /// Boxed: the tree's nodes are half empty when ids come in their order.
    rows: BTreeMap<TaskId, Box<Row>>,
    places: Places,
    keys: Keys,
    pub(super) instances: Instances,
    pub(super) records: Records,
    finished_max: usize,
    minutes: BTreeMap<(Timestamp, Arc<str>, TaskStatus), Ended>,
    audit: BTreeMap<TaskId, AuditEntry>,
    closed: bool,
}

/// Where a task is named beside its row, by its life.
#[derive(Debug, Default)]
struct Places {
    index: Index,
    waiting: Waiting,
    /// Finished tasks by the time of their end.
    finished: BTreeSet<(Timestamp, TaskId)>,
    /// Live tasks that belong to somebody.
    owned: BTreeSet<(InstanceId, TaskId)>,
}

/// What ended in a minute.
#[derive(Debug, Default)]
struct Ended {
    n: u64,
    run: Duration,
}

impl Store {
    pub(super) fn new(finished_max: usize) -> Self {
        Self {
            rows: BTreeMap::new(),
            places: Places::default(),
            keys: Keys::default(),
            instances: Instances::default(),
            records: Records::default(),
            finished_max,
            minutes: BTreeMap::new(),
            audit: BTreeMap::new(),
            closed: false,
        }
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn write(&mut self, batch: &Batch) -> Written {
        self.places.waiting.advance(batch.now);
        let tasks = batch.tasks.iter();
        let tasks = tasks.map(|task| self.enqueue(task, batch.now)).collect();
        let changes = batch.changes.iter();
        let changes = changes.map(|change| self.apply(change)).collect();
        for note in &batch.notes {
            self.note(note);
        }
        self.audited(&batch.audit);
        self.stay_bounded(batch.now);
        Written { tasks, changes }
    }

    pub(super) fn step(&mut self, step: &Step) -> Stepped {
        self.places.waiting.advance(step.now);
        let (records, changes) = (&step.records, &step.changes);
        let stands = records
            .iter()
            .all(|change| self.records.version(&change.key) == change.expects)
            && changes.iter().all(|change| self.stands(change));
        let was_taken = || {
            let has_task = |task: &Arc<Task>| self.rows.contains_key(&task.id);
            let mut tasks = step.tasks.iter();
            tasks.any(has_task)
                || records.iter().all(|change| self.records.is_changed(change))
                    && changes.iter().all(|change| self.was_applied(change))
        };
        if !stands && !was_taken() {
            return Stepped::Stale;
        }
        if stands {
            for change in records {
                self.records.apply(change);
            }
            for change in changes {
                self.apply(change);
            }
        }
        let tasks = step.tasks.iter();
        let tasks = tasks.map(|task| self.enqueue(task, step.now)).collect();
        self.audited(&step.audit);
        self.stay_bounded(step.now);
        let versions = records.iter();
        Stepped::Done {
            versions: versions
                .map(|change| self.records.version(&change.key))
                .collect(),
            tasks,
        }
    }

    fn audited(&mut self, entries: &[AuditEntry]) {
        for entry in entries {
            self.audit.entry(entry.id).or_insert_with(|| entry.clone());
        }
    }

    fn enqueue(&mut self, task: &Task, now: Timestamp) -> Enqueued {
        if self.rows.contains_key(&task.id) {
            return Enqueued::Created;
        }
        let key = task.idempotency_key.as_ref();
        if let Some(taken) = key.and_then(|key| self.keys.holder(&key.key, now)) {
            return Enqueued::Exists {
                id: taken.id,
                name: taken.name.clone(),
            };
        }
        let row = Row::of(task, self.places.index.name(&task.name));
        if let Some(key) = key {
            self.keys.take(&key.key, task.id, row.name.clone());
        }
        for (key, value) in row.tags() {
            self.places.index.insert_tag(key, value, task.id);
        }
        if let Some(tracking_id) = row.tracking_id() {
            self.places.index.insert_tracked(tracking_id, task.id);
        }
        self.places.insert(task.id, &row);
        self.rows.insert(task.id, Box::new(row));
        Enqueued::Created
    }

    fn stands(&self, change: &Change) -> bool {
        let row = self.rows.get(&change.id);
        row.is_some_and(|row| is_expected(&row.life, change))
    }

    fn was_applied(&self, change: &Change) -> bool {
        let row = self.rows.get(&change.id);
        row.is_some_and(|row| row.life == change.life)
    }

    fn apply(&mut self, change: &Change) -> Applied {
        let Some(row) = self.rows.get_mut(&change.id) else {
            return Applied::Stale;
        };
        if !is_expected(&row.life, change) {
            return match row.life == change.life {
                true => Applied::Applied,
                false => Applied::Stale,
            };
        }
        self.places.change(change.id, row, change.life.clone());
        if let Some(attempt) = &change.ended {
            row.push_attempt(attempt.clone());
        }
        match &change.key {
            KeyFate::Stays => {}
            KeyFate::Freed(key) => self.keys.free(key, change.id),
            KeyFate::KeptUntil(key, until) => self.keys.keep_until(key, change.id, *until),
        }
        if row.life.status.is_terminal() {
            count(&mut self.minutes, row);
        }
        Applied::Applied
    }

    fn note(&mut self, note: &Note) {
        if let Some(row) = self.rows.get_mut(&note.id)
            && row.life.epoch == note.epoch
        {
            row.say(note.epoch, &note.what);
        }
    }

    fn stay_bounded(&mut self, now: Timestamp) {
        while self.places.finished.len() > self.finished_max
            && let Some((_, id)) = self.places.finished.first().copied()
        {
            self.delete(id);
        }
        while self.minutes.len() > MINUTES_MAX {
            self.minutes.pop_first();
        }
        while self.audit.len() > AUDIT_MAX {
            self.audit.pop_first();
        }
        self.keys.forget_ended(now);
    }

    fn delete(&mut self, id: TaskId) {
        if let Some(row) = self.rows.remove(&id) {
            self.places.remove(id, &row);
            for (key, value) in row.tags() {
                self.places.index.remove_tag(key, value, id);
            }
            if let Some(tracking_id) = row.tracking_id() {
                self.places.index.remove_tracked(tracking_id, id);
            }
        }
    }

    pub(super) fn claim(&mut self, claim: &Claim) -> Claimed {
        let (ids, next_turn) = match self.instances.is_gone(claim.owner) {
            // What one claims that was taken for dead would be taken from it at once, as if it had crashed.
            true => (Vec::new(), None),
            false => self.places.waiting.take(claim),
        };
        let mut tasks = Vec::with_capacity(ids.len());
        for id in ids {
            let row = self.rows.get_mut(&id).expect("what waits is stored");
            let mut life = row.life.clone();
            if life.crashes == 0 {
                life = life.begun(id, claim.owner, claim.now);
            } else {
                life.owner = Some(claim.owner);
            }
            self.places.change(id, row, life);
            tasks.push(row.task(id));
        }
        Claimed {
            tasks,
            next_due: self.places.waiting.next_due(),
            next_turn,
        }
    }

    pub(super) fn orphans(&self, limit: usize) -> Vec<Task> {
        let (first, last) = (TaskId::from_bytes([0; 16]), TaskId::from_bytes([0xff; 16]));
        let of = |id: &InstanceId| self.places.owned.range((*id, first)..=(*id, last));
        let orphaned = self.instances.gone().flat_map(of).take(limit);
        orphaned
            .map(|(_, id)| {
                self.rows
                    .get(id)
                    .expect("what is owned is stored")
                    .task(*id)
            })
            .collect()
    }

    pub(super) fn held(&self, owner: InstanceId) -> Vec<TaskId> {
        let (first, last) = (TaskId::from_bytes([0; 16]), TaskId::from_bytes([0xff; 16]));
        let held = self.places.owned.range((owner, first)..=(owner, last));
        held.map(|(_, id)| *id).collect()
    }

    pub(super) fn get(&self, id: TaskId) -> Option<Task> {
        let row = self.rows.get(&id)?;
        let mut task = row.task(id);
        task.past_attempts = row.past_attempts();
        Some(task)
    }

    pub(super) fn list(&self, query: &ListQuery) -> Page {
        let after = query.after.map_or(Bound::Unbounded, Bound::Excluded);
        let before = query.before.map_or(Bound::Unbounded, Bound::Excluded);
        if let (Some(after), Some(before)) = (query.after, query.before)
            && after >= before
        {
            return Page::default(); // a tree panics at a range that ends before it begins
        }
        match self.places.index.newest(query, (after, before)) {
            Some(ids) => self.page(query, ids),
            None => {
                let rows = self.rows.range((after, before)).rev();
                self.page(query, rows.map(|(id, _)| *id))
            }
        }
    }

    /// The first of `ids` that fit the query.
    fn page(&self, query: &ListQuery, ids: impl Iterator<Item = TaskId>) -> Page {
        let mut ids = ids.peekable();
        let mut page = Page::default();
        for _ in 0..LOOKED_AT_MAX {
            if page.tasks.len() == query.limit {
                break;
            }
            let Some(id) = ids.next() else {
                return page;
            };
            let row = self.rows.get(&id).expect("what is indexed is stored");
            if fits(row, query) {
                page.tasks.push(cut(row.task(id), query.payload_max));
            }
            page.next = Some(id);
        }
        if ids.peek().is_none() {
            page.next = None;
        }
        page
    }

    pub(super) fn ahead(&self, query: &AheadQuery) -> Result<AheadPage, BackendError> {
        let mut places = self.places.waiting.ahead(query.place()?, query.before);
        let mut page = AheadPage::default();
        let mut last = None;
        for (run_at, id) in places.by_ref().take(query.limit) {
            let row = self.rows.get(&id).expect("what waits is stored");
            page.tasks.push(cut(row.task(id), query.payload_max));
            last = Some((run_at, id));
        }
        if places.next().is_some() {
            page.next = last.map(|(run_at, id)| AheadQuery::name_of(run_at, id));
        }
        Ok(page)
    }

    pub(super) fn logs(&self, id: TaskId, skip: usize, limit: usize) -> Vec<LogLine> {
        let lines = self.rows.get(&id).into_iter().flat_map(|row| row.lines());
        lines.skip(skip).take(limit).cloned().collect()
    }

    pub(super) fn counts(&self) -> Vec<Count> {
        self.places.index.counts()
    }

    pub(super) fn series(&self, since: Timestamp) -> Vec<Minute> {
        // The smallest key of that time.
        let from = (since, Arc::from(""), TaskStatus::Pending);
        let minutes = self.minutes.range(from..);
        minutes
            .map(|((at, name, status), ended)| Minute {
                at: *at,
                name: name.clone(),
                status: *status,
                n: ended.n,
                run: ended.run,
            })
            .collect()
    }

    pub(super) fn audit(&self, before: Option<TaskId>, limit: usize) -> Vec<AuditEntry> {
        let before = before.map_or(Bound::Unbounded, Bound::Excluded);
        let entries = self.audit.range((Bound::Unbounded, before)).rev();
        entries
            .take(limit)
            .map(|(_, entry)| entry.clone())
            .collect()
    }

    pub(super) fn prune(&mut self, prune: Prune) -> Pruned {
        if prune.from.is_none() {
            // Both are bounded: at once.
            let kept = (prune.series_before, Arc::from(""), TaskStatus::Pending);
            self.minutes = self.minutes.split_off(&kept);
            self.audit
                .retain(|_, entry| entry.at >= prune.series_before);
        }
        let from = prune.from.map_or(Bound::Unbounded, Bound::Included);
        let mut rows = self.rows.range((from, Bound::Unbounded));
        let looked_at = rows.by_ref().take(prune.limit.max(1));
        let old: Vec<TaskId> = looked_at
            .filter(|(_, row)| is_old(row, prune))
            .map(|(id, _)| *id)
            .collect();
        let next = rows.next().map(|(id, _)| *id);
        for id in &old {
            self.delete(*id);
        }
        Pruned {
            deleted: old.len(),
            next,
        }
    }
}

impl Places {
    fn insert(&mut self, id: TaskId, row: &Row) {
        self.index.insert(&row.name, row.life.status, id);
        self.file(id, row);
    }

    fn remove(&mut self, id: TaskId, row: &Row) {
        self.index.remove(&row.name, row.life.status, id);
        self.unfile(id, row);
    }

    /// Gives the row another life, and leaves alone what stays as it is.
    fn change(&mut self, id: TaskId, row: &mut Row, life: Life) {
        self.index
            .move_to(&row.name, row.life.status, life.status, id);
        let is_live = |life: &Life| !life.status.is_terminal() && life.owner.is_some();
        if is_live(&row.life) && is_live(&life) && row.life.owner == life.owner {
            row.life = life;
        } else {
            self.unfile(id, row);
            row.life = life;
            self.file(id, row);
        }
    }

    fn file(&mut self, id: TaskId, row: &Row) {
        let life = &row.life;
        if life.status.is_terminal() {
            self.finished.insert((finished_at(row), id));
        } else if let Some(owner) = life.owner {
            self.owned.insert((owner, id));
        } else if life.status == TaskStatus::Pending {
            self.waiting
                .insert(&row.name, row.priority, life.run_at, id);
        }
    }

    fn unfile(&mut self, id: TaskId, row: &Row) {
        let life = &row.life;
        if life.status.is_terminal() {
            self.finished.remove(&(finished_at(row), id));
        } else if let Some(owner) = life.owner {
            self.owned.remove(&(owner, id));
        } else if life.status == TaskStatus::Pending {
            self.waiting
                .remove(&row.name, row.priority, life.run_at, id);
        }
    }
}

fn is_expected(life: &Life, change: &Change) -> bool {
    (life.status, life.epoch) == change.expects && change.held_by.is(life.owner)
}

/// Adds a task that came to its end to the minute of it.
fn count(minutes: &mut BTreeMap<(Timestamp, Arc<str>, TaskStatus), Ended>, row: &Row) {
    let Life {
        started_at, status, ..
    } = row.life;
    let finished_at = finished_at(row);
    let key = (minute(finished_at), row.name.clone(), status);
    let ended = minutes.entry(key).or_default();
    ended.n += 1;
    ended.run += started_at.map_or(Duration::ZERO, |started| finished_at.since(started));
}

fn is_old(row: &Row, prune: Prune) -> bool {
    let before = match row.life.status {
        TaskStatus::Pending | TaskStatus::Running => return false,
        TaskStatus::Success | TaskStatus::Cancelled => prune.finished_before,
        TaskStatus::Failed | TaskStatus::Interrupted => prune.failed_before,
    };
    finished_at(row) < before
}

/// When a finished task ended. Every constructor of a change that ends a task sets it.
fn finished_at(row: &Row) -> Timestamp {
    row.life.finished_at.unwrap_or(row.life.run_at)
}

fn minute(at: Timestamp) -> Timestamp {
    let ms = at.as_unix_ms();
    Timestamp::from_unix_ms(ms - ms % 60_000)
}

fn fits(row: &Row, query: &ListQuery) -> bool {
    query.status.is_none_or(|status| row.life.status == status)
        && query.name.as_ref().is_none_or(|name| **name == *row.name)
        && query
            .tag
            .as_ref()
            .is_none_or(|(key, value)| row.has_tag(key, value.as_deref()))
        && query
            .tracking_id
            .as_deref()
            .is_none_or(|wanted| row.tracking_id().is_some_and(|id| **id == *wanted))
}

/// The task with its payloads cut to this many bytes.
fn cut(mut task: Task, bytes_max: usize) -> Task {
    let cut = |text: &mut Arc<str>| {
        if text.len() > bytes_max {
            *text = text[..text.floor_char_boundary(bytes_max)].into();
        }
    };
    cut(&mut task.args);
    task.life.result.as_mut().map(cut);
    task
}
