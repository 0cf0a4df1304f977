//! Fires the slots of schedules. Every instance that knows the function may: one step moves the schedule on and adds the
//! task, so of those who try one succeeds.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::{
    Engine, LOOP_RETRY, jittered,
    records::{json, parse},
};
use crate::{
    backend::{AuditEntry, Becomes, Record, RecordChange, Step, Stepped},
    clock::Timestamp,
    error::{BackendError, Error, ErrorKind},
    health::Duty,
    id::TaskId,
    panics,
    registry::TaskDef,
    schedule::{
        Decided, Decision, Definition, Origin, Overlap, Paused, ScheduleInfo, ScheduleState, State,
        Totals, compare_versions,
        decide::{Standing, Verdict, decide},
        slots::Slots,
    },
    status::TaskStatus,
    task::{SLOT_TAG, Source, Task},
};

const PREFIX: &str = "schedule:";
/// The tag of its tasks that says which schedule.
const SCHEDULE_TAG: &str = "schedule";
/// Between two looks at what others have changed, at least and at most.
const READ_AFTER: Duration = Duration::from_secs(1);
const READ_EVERY: Duration = Duration::from_secs(5);
/// Between two looks whether a slot that waits for another's task can fire.
const QUEUED_EVERY: Duration = Duration::from_millis(500);
/// A slot that is decided on so long before it comes was so by a clock that is wrong, or this one is.
const FAR_AHEAD: Duration = Duration::from_secs(3_600);
/// Slots that are told ahead.
const NEXT_MAX: usize = 5;

/// A schedule as this instance has read it.
struct Known {
    version: u64,
    state: State,
    slots: Slots,
}

impl Known {
    /// None if a newer program wrote it, which has to fire it.
    fn of(record: &Record) -> Option<Self> {
        let state: State = parse::<Option<State>>(Some(record)).ok()??;
        let slots = state.slots()?;
        Some(Self {
            version: record.version,
            state,
            slots,
        })
    }
}

/// A step that fires slots, until the store has said what became of it.
struct Unheard {
    /// Who wrote its record.
    by: TaskId,
    step: Arc<Step>,
    decisions: Vec<Decision>,
}

impl Engine {
    pub(crate) async fn run_scheduler(self: Arc<Self>) {
        let mut known = BTreeMap::new();
        let mut unheard = BTreeMap::new();
        let mut boot = None;
        let mut changes = self.hold_changes();
        let (mut read_at, mut must_read) = (Instant::now(), true);
        // Also where a look fails, and is tried again: the store may be out for longer than this program runs.
        while !self.stopping.is_cancelled() {
            if must_read || read_at.elapsed() >= READ_EVERY {
                changes.mark_unchanged(); // before the look, so that nothing is missed
                let reading = async {
                    boot = Some(self.boot().await?);
                    self.read_schedules(&mut known).await?;
                    self.hear_late(&mut unheard, &known).await
                };
                match reading.await {
                    Ok(()) => {
                        (read_at, must_read) = (Instant::now(), false);
                        self.troubles.end(Duty::Schedule);
                    }
                    Err(failure) => {
                        self.cannot_schedule(&failure).await;
                        continue;
                    }
                }
            }
            let now = self.clock.now();
            let due: Vec<String> = known
                .iter()
                .filter(|(_, it)| self.is_due(it, boot, now))
                .map(|(name, _)| name.clone())
                .collect();
            for name in due {
                let Some(it) = known.remove(&name) else {
                    continue;
                };
                match self.fire(&name, it, (boot, now), &mut unheard).await {
                    Ok(Some(it)) => {
                        known.insert(name, it);
                    }
                    Ok(None) => must_read = true, // somebody was faster
                    Err(failure) => {
                        must_read = true;
                        self.cannot_schedule(&failure).await;
                    }
                }
            }
            if must_read {
                continue;
            }
            let next = known
                .values()
                .filter(|it| self.fires(&it.state))
                .filter_map(|it| it.state.next)
                .min();
            let is_queued = known.values().any(|it| it.state.queued.is_some());
            let next_due = async {
                match next {
                    Some(next) => self.clock.sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            let look = match is_queued {
                true => QUEUED_EVERY,
                false => READ_EVERY,
            };
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return,
                () = next_due => {}
                () = tokio::time::sleep(jittered(look)) => {}
                () = changes.changed_after(read_at + READ_AFTER) => must_read = true,
                () = self.schedules_changed.notified() => must_read = true,
            }
        }
    }

    async fn cannot_schedule(&self, failure: &BackendError) {
        panics::say(|| error!(error = %failure, "cannot fire schedules"));
        self.troubles
            .begin(Duty::Schedule, self.clock.now(), failure);
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => {}
            () = tokio::time::sleep(jittered(LOOP_RETRY)) => {}
        }
    }

    /// Only what has changed is understood anew.
    async fn read_schedules(
        &self,
        known: &mut BTreeMap<String, Known>,
    ) -> Result<(), BackendError> {
        let records = self.all_records(PREFIX).await?;
        let mut before = std::mem::take(known);
        for record in records {
            let Some(name) = record.key.strip_prefix(PREFIX) else {
                continue;
            };
            let kept = before.remove(name);
            let read = match kept.filter(|kept| kept.version == record.version) {
                Some(kept) => Some(kept),
                None => {
                    let read = Known::of(&record);
                    self.says_if_silenced(name, read.as_ref());
                    read
                }
            };
            if let Some(read) = read {
                known.insert(name.to_owned(), read);
            }
        }
        Ok(())
    }

    /// No slot comes twice, so one who had next year on his clock has left this year's to nobody: people have to know.
    fn says_if_silenced(&self, name: &str, it: Option<&Known>) {
        let decided = it.and_then(|it| it.state.decided).unwrap_or_default();
        if decided.since(self.clock.now()) > FAR_AHEAD {
            panics::say(
                || warn!(schedule = name, until = %decided, "slots were decided on by a clock that is ahead of this one: none fires before they are over"),
            );
        }
    }

    fn fires(&self, state: &State) -> bool {
        state.paused.is_none()
            && !state.retired
            && self.registry.by_name(&state.definition.function).is_some()
    }

    fn is_due(&self, it: &Known, boot: Option<TaskId>, now: Timestamp) -> bool {
        let state = &it.state;
        let is_startup = state.definition.on_startup && state.boot != boot;
        (is_startup || state.queued.is_some() || state.next.is_some_and(|next| next <= now))
            && self.fires(state)
    }

    /// Decides about what is due, and does it in one step; none if somebody was faster.
    async fn fire(
        self: &Arc<Self>,
        name: &str,
        it: Known,
        (boot, now): (Option<TaskId>, Timestamp),
        unheard: &mut BTreeMap<String, Unheard>,
    ) -> Result<Option<Known>, BackendError> {
        let mut state = it.state.clone();
        let policy = state.definition.policy;
        if policy.overlap != Overlap::Allow {
            state.unended = self.unended(name, &state.unended).await?;
        }
        let standing = Standing {
            next: state.next,
            queued: state.queued,
            is_busy: !state.unended.is_empty(),
            is_startup: state.definition.on_startup && state.boot != boot,
        };
        if standing.is_startup {
            state.boot = boot;
        }
        let verdict = decide(&it.slots, policy, standing, now);
        let (tasks, decisions) = self.decided(name, &mut state, &it.slots, &verdict, now);
        if state == it.state {
            return Ok(Some(it)); // it still waits
        }
        let mut step = self.step_of(name, it.version, &mut state, now);
        step.tasks = tasks.into_iter().map(Arc::new).collect();
        let sent = Unheard {
            by: state.by,
            step: Arc::new(step),
            decisions,
        };
        let version = match self.ask(&sent.step).await {
            Ok(Some(version)) => version,
            Ok(None) => return Ok(None),
            Err(failure) => {
                unheard.insert(name.to_owned(), sent);
                return Err(failure);
            }
        };
        self.have_tasks(&sent.step.tasks, now);
        panics::say(|| tell(name, &sent.decisions));
        Ok(Some(Known {
            version,
            state,
            slots: it.slots,
        }))
    }

    /// After a look at all schedules: of the steps whose answers were lost, those that were taken are told. One that was not
    /// is not asked for again: its slot is decided on by the time that it is now. But as long as its schedule stands as it
    /// did then, it may still come, from a queue or a connection that nobody waits for any more.
    async fn hear_late(
        &self,
        unheard: &mut BTreeMap<String, Unheard>,
        known: &BTreeMap<String, Known>,
    ) -> Result<(), BackendError> {
        let names: Vec<String> = unheard.keys().cloned().collect();
        for name in names {
            let (it, sent) = (known.get(&name), &unheard[&name]);
            let expects = sent.step.records[0].expects;
            let may_come = it.is_some_and(|it| it.version == expects);
            let mut was_taken = it.is_some_and(|it| it.state.by == sent.by);
            let mut waiting = Vec::new();
            for task in &sent.step.tasks {
                let stored = match self.backend.get(task.id).await {
                    Err(failure) if failure.is_refused() => {
                        was_taken = true; // it is there, whatever it has come to
                        continue;
                    }
                    stored => stored?,
                };
                was_taken |= stored.is_some(); // others may have moved the schedule on since
                // What has begun was told so: it is no new task any more.
                if stored.is_some_and(|it| it.life == task.life) {
                    waiting.push(task.clone());
                }
            }
            if was_taken {
                self.have_tasks(&waiting, sent.step.now);
                panics::say(|| tell(&name, &sent.decisions));
            }
            if was_taken || !may_come {
                unheard.remove(&name);
            }
        }
        Ok(())
    }

    /// Those of these tasks that have not ended. So counts one that cannot be read: it may run in a program that can.
    async fn unended(&self, schedule: &str, tasks: &[TaskId]) -> Result<Vec<TaskId>, BackendError> {
        let mut unended = Vec::new();
        for id in tasks {
            let why = match self.backend.get(*id).await {
                Ok(Some(task)) if !task.life.status.is_terminal() => why_in_doubt(&task),
                Ok(_) => continue,
                Err(failure) if failure.is_refused() => Some(failure.to_string()),
                Err(failure) => return Err(failure),
            };
            unended.push(*id);
            if let Some(why) = why
                && self.told.is_news(&id.to_string())
            {
                panics::say(
                    || warn!(schedule, task = %id, why, "whether a task has ended cannot be read: it counts as one that has not"),
                );
            }
        }
        Ok(unended)
    }

    /// Writes down what was decided, and makes the tasks. The decisions are all of them: the state remembers only the last.
    fn decided(
        &self,
        name: &str,
        state: &mut State,
        slots: &Slots,
        verdict: &Verdict,
        now: Timestamp,
    ) -> (Vec<Task>, Vec<Decision>) {
        (state.next, state.queued) = (verdict.next, verdict.queued);
        state.decided = verdict.decided.max(state.decided);
        let mut decisions = Vec::new();
        let mut remember = |state: &mut State, slot, what: Decided| {
            state.remember(slot, now, what.clone());
            decisions.push(Decision {
                slot,
                at: now,
                what,
            });
        };
        if let Some((n, last)) = verdict.missed {
            remember(state, last, Decided::Missed { n });
        }
        for slot in &verdict.overlapped {
            remember(state, *slot, Decided::Overlapped);
        }
        let is_new = verdict.queued.is_some_and(|queued| {
            let mut last = state.last.iter();
            !last.any(|it| it.slot == queued && it.what == Decided::Queued)
        });
        if let Some(queued) = verdict.queued.filter(|_| is_new) {
            remember(state, queued, Decided::Queued);
        }
        let mut tasks = Vec::with_capacity(verdict.fire.len());
        for slot in &verdict.fire {
            let Some(task) = self.task_of(name, state, slots, *slot) else {
                continue; // its function is known, or it would not fire
            };
            state.has_task(task.id);
            remember(state, *slot, Decided::Fired { task: task.id });
            tasks.push(task);
        }
        (tasks, decisions)
    }

    /// The task of a slot, or of the start of the cluster, which is none.
    fn task_of(&self, name: &str, state: &State, slots: &Slots, slot: Timestamp) -> Option<Task> {
        let def = self.registry.by_name(&state.definition.function)?;
        let run_at = slot.saturating_add(state.definition.jitter.mul_f64(fastrand::f64()));
        let mut task = self.scheduled(&def, name, &state.definition, run_at);
        if slots.has(slot) {
            task.tags.insert(SLOT_TAG.to_owned(), slot.to_string());
        }
        Some(task)
    }

    /// A new task of a schedule.
    fn scheduled(
        &self,
        def: &TaskDef,
        schedule: &str,
        definition: &Definition,
        run_at: Timestamp,
    ) -> Task {
        let resolved = definition.options.or(&def.options).or(&self.defaults);
        let id = self.ids.task(self.clock.now());
        let mut task = Task::new(id, def.name.clone(), definition.args.clone());
        task.life.run_at = run_at;
        task.priority = resolved.priority.unwrap_or(0);
        task.requeue_on_interrupt = resolved.requeue_on_interrupt.unwrap_or(false);
        task.tags.clone_from(&definition.tags);
        task.tags
            .insert(SCHEDULE_TAG.to_owned(), schedule.to_owned());
        task.options = definition.options.of_attempts();
        task.executor = def.executor;
        task.source = Source::Scheduled;
        task
    }

    fn step_of(&self, name: &str, version: u64, state: &mut State, now: Timestamp) -> Step {
        state.by = self.ids.task(now);
        let mut step = Step::at(now);
        step.records.push(RecordChange {
            key: format!("{PREFIX}{name}"),
            expects: version,
            becomes: Becomes::Value(json(state)),
        });
        step
    }

    /// Takes the step with these tasks; the new version of its record, or none if it is stale.
    async fn take(
        self: &Arc<Self>,
        mut step: Step,
        tasks: Vec<Task>,
    ) -> Result<Option<u64>, BackendError> {
        step.tasks = tasks.into_iter().map(Arc::new).collect();
        let step = Arc::new(step);
        let version = self.ask(&step).await?;
        if version.is_some() {
            self.have_tasks(&step.tasks, step.now);
        }
        Ok(version)
    }

    /// Asks the store to take the step; the new version of its record, or none if it is stale.
    async fn ask(&self, step: &Arc<Step>) -> Result<Option<u64>, BackendError> {
        crash_point!("scheduler::decided");
        let stepped = self.backend.step(step.clone()).await?;
        crash_point!("scheduler::stepped");
        Ok(match stepped {
            Stepped::Done { versions, .. } => versions.first().copied(),
            Stepped::Stale => None,
        })
    }

    /// The tasks of a step are stored, and nobody holds them.
    fn have_tasks(&self, tasks: &[Arc<Task>], now: Timestamp) {
        for task in tasks {
            self.feed.added(task);
            self.waits_on_disk(task, now);
        }
    }

    // ---- what people do ----

    /// Stores what this program says of its schedules, and retires those that it has no more.
    pub(crate) async fn install(
        self: &Arc<Self>,
        definitions: BTreeMap<String, Definition>,
    ) -> Result<(), Error> {
        // One that only adds tasks knows functions for that: what schedules there are is for those to say that run them.
        let may_retire = self.instance().role.runs_tasks();
        for record in self.all_records(PREFIX).await? {
            if let Some(name) = record.key.strip_prefix(PREFIX)
                && may_retire
                && !definitions.contains_key(name)
            {
                self.retire(name).await?;
            }
        }
        for (name, definition) in definitions {
            self.define(&name, definition, Origin::Code, None).await?;
        }
        Ok(())
    }

    /// The program does not have this schedule: it fires no more, if it was one of this program.
    async fn retire(self: &Arc<Self>, name: &str) -> Result<(), Error> {
        let mine = self.instance().version.clone();
        loop {
            let record = self.record(&format!("{PREFIX}{name}")).await?;
            let Ok(Some(mut state)) = parse::<Option<State>>(record.as_ref()) else {
                return Ok(()); // it is gone, or a newer program wrote it in words of its own
            };
            // A program that does not know the function is another one, and says nothing of its schedules.
            let is_gone = state.origin == Origin::Code
                && !state.retired
                && self.registry.by_name(&state.definition.function).is_some()
                && compare_versions(&mine, &state.version).is_ge();
            if !is_gone {
                return Ok(());
            }
            state.retired = true;
            let version = record.map_or(0, |record| record.version);
            let step = self.step_of(name, version, &mut state, self.clock.now());
            if self.take(step, Vec::new()).await?.is_some() {
                info!(schedule = name, "the program has this schedule no more");
                return Ok(());
            } // else it has just fired, or somebody else has started too
        }
    }

    /// Stores a schedule, unless a newer program has defined it.
    pub(crate) async fn define(
        self: &Arc<Self>,
        name: &str,
        definition: Definition,
        origin: Origin,
        actor: Option<String>,
    ) -> Result<(), Error> {
        let slots = Slots::of(&definition.rule)
            .map_err(|wrong| Error::invalid(format!("schedule {name}: {wrong}")))?;
        let mine = self.instance().version.clone();
        loop {
            let record = self.record(&format!("{PREFIX}{name}")).await?;
            let stored = match parse::<Option<State>>(record.as_ref()) {
                Ok(stored) => stored,
                // A newer program wrote it in words of its own.
                Err(_) if origin == Origin::Code => {
                    warn!(
                        schedule = name,
                        "a newer program has this schedule: its definition stays"
                    );
                    return Ok(());
                }
                Err(unreadable) => return Err(unreadable.into()),
            };
            let now = self.clock.now();
            let mut state = match stored {
                None => State {
                    by: self.ids.task(now),
                    definition: definition.clone(),
                    origin,
                    version: mine.clone(),
                    paused: None,
                    retired: false,
                    next: slots.after(now),
                    decided: None,
                    queued: None,
                    unended: Vec::new(),
                    totals: Totals::default(),
                    boot: None,
                    last: Vec::new(),
                },
                Some(stored) if stored.origin == Origin::Code && origin == Origin::Manual => {
                    return Err(Error::conflict(format!(
                        "schedule {name} is one of the program: give this one another name"
                    )));
                }
                Some(stored)
                    if origin == Origin::Code
                        && compare_versions(&mine, &stored.version).is_lt() =>
                {
                    if stored.definition != definition {
                        warn!(
                            schedule = name,
                            version = mine,
                            newer = stored.version,
                            "a newer program says what this schedule is: its definition stays"
                        );
                    }
                    return Ok(());
                }
                Some(stored)
                    if stored.definition == definition
                        && !stored.retired
                        && stored.origin == origin
                        && stored.version == mine =>
                {
                    return Ok(());
                }
                Some(mut stored) => {
                    let is_other = stored.definition.rule != definition.rule || stored.retired;
                    stored.definition = definition.clone();
                    if is_other {
                        stored.goes_on_after(now);
                    }
                    (stored.origin, stored.retired) = (origin, false);
                    stored.version.clone_from(&mine);
                    stored
                }
            };
            let version = record.map_or(0, |record| record.version);
            let mut step = self.step_of(name, version, &mut state, now);
            if let Some(actor) = &actor {
                step.audit.push(AuditEntry {
                    id: self.ids.task(now),
                    at: now,
                    actor: actor.clone(),
                    action: "schedule".to_owned(),
                    task: None,
                    detail: serde_json::json!({ "schedule": name }),
                });
            }
            if self.take(step, Vec::new()).await?.is_some() {
                self.schedules_changed.notify_one();
                return Ok(());
            }
        }
    }

    pub(crate) async fn schedules(&self) -> Result<Vec<ScheduleInfo>, Error> {
        let records = self.all_records(PREFIX).await?;
        let mut infos = Vec::with_capacity(records.len());
        for record in &records {
            let Some(name) = record.key.strip_prefix(PREFIX) else {
                continue;
            };
            match parse::<Option<State>>(Some(record)) {
                Ok(state) => infos.extend(state.map(|state| self.info_of(name, state))),
                // A newer program wrote it in words of its own. The others are shown all the same.
                Err(unreadable) if self.told.is_news(&record.key) => {
                    warn!(schedule = name, error = %unreadable, "a schedule is not shown");
                }
                Err(_) => {}
            }
        }
        Ok(infos)
    }

    fn info_of(&self, name: &str, state: State) -> ScheduleInfo {
        let does = match &state {
            State { retired: true, .. } => ScheduleState::Retired,
            State {
                paused: Some(_), ..
            } => ScheduleState::Paused,
            state if !self.fires(state) => ScheduleState::UnknownFunction,
            _ => ScheduleState::Active,
        };
        let slots = state.slots();
        let ahead = std::iter::successors(state.next, |slot| slots.as_ref()?.after(*slot));
        let next = match does {
            ScheduleState::Active | ScheduleState::UnknownFunction => {
                ahead.take(NEXT_MAX).collect()
            }
            _ => Vec::new(),
        };
        ScheduleInfo {
            name: name.to_owned(),
            function: state.definition.function,
            args: state.definition.args,
            rule: state.definition.rule,
            missed: state.definition.policy.missed,
            overlap: state.definition.policy.overlap,
            origin: state.origin,
            version: state.version,
            state: does,
            paused: state.paused,
            next,
            queued: state.queued,
            last: state.last,
            totals: state.totals,
        }
    }

    /// True if somebody alive has its function. One that went from the program together with it is retired by nobody: who
    /// does not know the function may be another program.
    async fn is_known_to_anybody(&self, state: &State) -> Result<bool, BackendError> {
        let function = &state.definition.function;
        if self.registry.by_name(function).is_some() {
            return Ok(true);
        }
        let peers = self.backend.instances().await?;
        let mut alive = peers.iter().filter(|peer| peer.alive);
        Ok(alive.any(|peer| peer.instance.functions.iter().any(|it| **it == **function)))
    }

    /// Changes a schedule by hand, in one step with the record of who did it.
    pub(crate) async fn edit_schedule(
        self: &Arc<Self>,
        name: &str,
        edit: Edit,
        actor: &str,
    ) -> Result<Option<TaskId>, Error> {
        loop {
            let record = self.record(&format!("{PREFIX}{name}")).await?;
            let Some(Record { version, .. }) = record else {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("there is no schedule {name:?}"),
                ));
            };
            let Some(mut state) = parse::<Option<State>>(record.as_ref())? else {
                continue;
            };
            let now = self.clock.now();
            let (mut tasks, mut is_deleted) = (Vec::new(), false);
            match edit {
                // Who was first, and since when, is what counts.
                Edit::Pause if state.paused.is_some() => return Ok(None),
                Edit::Pause => {
                    state.paused = Some(Paused {
                        by: actor.to_owned(),
                        since: now,
                    });
                }
                Edit::Resume if state.paused.is_none() => return Ok(None),
                Edit::Resume => {
                    // What came meanwhile was not missed: nobody wanted it. Nor the start of the cluster.
                    state.paused = None;
                    state.goes_on_after(now);
                    state.boot = self.current_boot().await?;
                }
                Edit::Run => {
                    let Some(def) = self.registry.by_name(&state.definition.function) else {
                        return Err(Error::conflict(format!(
                            "the function {} of schedule {name} is not known here",
                            state.definition.function
                        )));
                    };
                    let task = self.scheduled(&def, name, &state.definition, now);
                    state.has_task(task.id);
                    state.remember(now, now, Decided::Fired { task: task.id });
                    tasks.push(task);
                }
                Edit::Delete => {
                    let is_of_program = state.origin == Origin::Code && !state.retired;
                    if is_of_program && self.is_known_to_anybody(&state).await? {
                        return Err(Error::conflict(format!(
                            "schedule {name} is one of the program, which would bring it back: pause it"
                        )));
                    }
                    is_deleted = true;
                }
            }
            let mut step = self.step_of(name, version, &mut state, now);
            if is_deleted {
                step.records[0].becomes = Becomes::Gone;
            }
            step.audit.push(AuditEntry {
                id: self.ids.task(now),
                at: now,
                actor: actor.to_owned(),
                action: edit.action().to_owned(),
                task: tasks.first().map(|task: &Task| task.id),
                detail: serde_json::json!({ "schedule": name }),
            });
            let id = tasks.first().map(|task| task.id);
            if self.take(step, tasks).await?.is_some() {
                self.schedules_changed.notify_one();
                return Ok(id);
            }
        }
    }
}

/// Why the status may be another one, if it is so: one that a store cannot read is shown as `pending`.
fn why_in_doubt(task: &Task) -> Option<String> {
    let waits = task.life.status == TaskStatus::Pending;
    task.unreadable().filter(|_| waits).map(str::to_owned)
}

/// Says what was decided. Of several instances that decide about a slot, only the one says so whose word was taken. What
/// goes as it was planned is a detail, as it is of tasks: there are schedules with a slot each second.
fn tell(schedule: &str, decisions: &[Decision]) {
    for Decision { slot, at, what } in decisions {
        match what {
            Decided::Fired { task } => {
                debug!(schedule, %slot, %task, late = ?at.since(*slot), "a schedule fires");
            }
            Decided::Missed { n } => warn!(schedule, n, "slots were missed"),
            Decided::Overlapped => {
                info!(schedule, %slot, "a slot is left out: a task before it has not ended");
            }
            Decided::Queued => {
                debug!(schedule, %slot, "a slot waits: a task before it has not ended");
            }
        }
    }
}

/// What people do with a schedule.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Edit {
    Pause,
    Resume,
    Run,
    Delete,
}

impl Edit {
    fn action(self) -> &'static str {
        match self {
            Self::Pause => "pause_schedule",
            Self::Resume => "resume_schedule",
            Self::Run => "run_schedule",
            Self::Delete => "delete_schedule",
        }
    }
}
