//! A suite that cannot fail is worse than none: drivers with one flaw each, and the check that finds it.

use std::{
    cmp::Reverse,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum_taskflow_core::{
    AheadPage, AheadQuery, Applied, AuditEntry, Backend, BackendFuture, Batch, Claim, Claimed,
    Count, HeldBy, Instance, InstanceId, ListQuery, LogLine, Memory, Minute, Page, Peer, Prune,
    Pruned, Record, RecordQuery, Said, Standing, Step, Stepped, Task, TaskId, TaskStatus,
    Timestamp, Written,
    conformance::{self, Opened},
};

const MODEL: &str = "model::random_histories_have_the_same_answers_as_memory";

/// One test for each flaw: the named check finds it, and the random histories do too if `model` is said.
macro_rules! flaws {
    ($($flaw:ident: $check:literal $($model:ident)?;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq)]
        #[allow(non_camel_case_types)] // the names of tests too
        enum Flaw { $($flaw),* }

        $(
            #[test]
            fn $flaw() {
                assert!(is_found(Flaw::$flaw, $check), "{} has not found it", $check);
                $(
                    let $model = MODEL;
                    // They are random, and a rare case may want a second look.
                    let is_found = (0..3).any(|_| is_found(Flaw::$flaw, $model));
                    assert!(is_found, "the histories have not found it");
                )?
            }
        )*
    };
}

flaws! {
    claims_any_function: "claim::functions_that_are_not_named_are_not_touched" model;
    claims_without_limit: "claim::no_names_or_no_limit_claim_nothing" model;
    claims_too_early: "claim::a_task_is_not_claimed_before_its_time" model;
    claims_the_oldest_first: "claim::higher_priority_goes_first_then_earlier_then_older" model;
    forgets_what_is_due_next: "claim::next_due_is_the_earliest_time_ahead_of_any_function" model;
    tells_no_owner: "claim::a_claimed_task_belongs_to_the_claimer" model;
    begins_none: "claim::a_claimed_task_belongs_to_the_claimer" model;
    begins_what_processes_died_of: "claim::what_a_process_died_of_is_claimed_and_not_begun";
    claims_what_is_left_out: "claim::what_a_claim_leaves_out_waits_for_somebody_else";
    claims_what_has_no_room: "claim::a_claim_leaves_room_for_what_its_owner_holds" model;
    knows_no_next_turn: "claim::a_claim_leaves_room_for_what_its_owner_holds" model;
    leaves_the_superseded_their_tasks: "orphans::tasks_of_a_superseded_instance_are_orphans";
    tells_nobody_that_it_was_superseded: "instances::a_superseded_instance_learns_it_from_its_beat";
    shows_no_beats: "instances::a_beat_is_seen";
    supersedes_who_has_beaten: "instances::who_has_beaten_since_is_not_superseded";
    remembers_those_who_left: "instances::an_instance_that_left_without_tasks_is_not_seen";
    looks_at_all_to_claim: "pace::a_claim_is_not_slowed_down_by_what_it_cannot_take";
    calls_stale_changes_applied: "apply::a_change_from_another_status_or_epoch_is_stale" model;
    calls_what_is_written_again_stale: "apply::a_change_that_is_written_again_is_applied_and_changes_nothing";
    ignores_epochs: "apply::a_superseded_attempt_cannot_write_an_outcome" model;
    ignores_holders: "apply::a_change_of_a_task_that_another_one_holds_is_stale_if_it_matters" model;
    keeps_no_past_attempts: "apply::an_attempt_that_is_not_the_last_is_kept" model;
    shows_past_attempts_in_lists: "apply::an_attempt_that_is_not_the_last_is_kept" model;
    takes_notes_of_any_epoch: "notes::a_note_of_another_epoch_is_dropped" model;
    takes_notes_before_changes: "notes::a_note_beside_the_end_of_its_attempt_counts" model;
    doubles_lines: "enqueue::a_batch_that_is_written_twice_doubles_nothing" model;
    reads_all_lines: "notes::log_lines_are_read_in_parts" model;
    ignores_the_case_of_keys: "keys::keys_are_compared_byte_for_byte";
    keeps_keys_too_long: "keys::a_key_is_kept_after_success_until_its_time";
    takes_no_keys: "keys::of_a_thousand_writers_of_one_key_one_makes_a_task" model;
    lists_every_status: "list::filters_give_what_fits_and_nothing_else" model;
    lists_every_value_of_a_tag: "list::filters_give_what_fits_and_nothing_else" model;
    lists_from_before_on: "list::before_and_after_leave_out_their_own_ids";
    lists_one_page: "list::pages_of_any_size_show_each_task_once" model;
    cuts_payloads_too_late: "list::payloads_are_cut_at_a_character" model;
    counts_what_is_not_there: "counts::a_count_is_never_zero" model;
    shows_minutes_that_began_before: "series::minutes_come_oldest_first_from_their_beginning_on";
    adds_up_no_time: "series::ends_of_one_minute_are_added_up";
    shows_the_oldest_entry_first: "audit::the_newest_entry_comes_first" model;
    deletes_failures_like_successes: "prune::success_and_failure_have_times_of_their_own";
    deletes_all_at_once: "prune::a_part_is_bounded_and_a_round_ends";
    deletes_nothing: "prune::old_finished_tasks_are_deleted" model;
    takes_steps_whatever_records_say: "step::a_step_that_expects_another_version_changes_nothing" model;
    takes_steps_whatever_changes_say: "step::a_step_with_a_stale_change_changes_nothing" model;
    takes_steps_in_the_order_of_batches: "step::a_task_finds_the_key_that_its_step_has_freed";
    calls_steps_stale_that_were_taken: "step::a_step_that_was_taken_before_is_done" model;
    forgets_who_took_steps: "step::a_step_is_taken_with_its_audit_entries";
    reads_records_of_any_name: "records::records_are_found_by_the_beginning_of_their_names";
    reads_all_records: "records::records_are_read_in_parts_in_the_order_of_their_names";
    reads_records_from_the_beginning: "records::records_are_read_in_parts_in_the_order_of_their_names";
    shows_what_comes_later: "ahead::what_waits_for_its_time_is_found_between_two_moments";
    shows_what_came_before: "ahead::what_waits_for_its_time_is_found_between_two_moments";
    shows_the_first_page_again: "ahead::what_waits_for_its_time_is_read_in_pages";
    shows_the_newest_first: "ahead::what_waits_for_its_time_is_found_between_two_moments";
    numbers_records_apart: "records::a_version_is_larger_than_all_before";
    answers_after_the_end: "close::calls_after_the_end_fail";
}

fn is_found(flaw: Flaw, check: &str) -> bool {
    let open = || async move {
        Opened::new(Flawed {
            memory: Memory::default(),
            flaw,
            names: Mutex::default(),
            n_lines: AtomicU32::default(),
        })
    };
    catch_unwind(AssertUnwindSafe(|| conformance::check(check, open))).is_err()
}

/// A memory with a flaw.
#[derive(Debug)]
struct Flawed {
    memory: Memory,
    flaw: Flaw,
    /// All functions that were ever written.
    names: Mutex<Vec<Arc<str>>>,
    n_lines: AtomicU32,
}

impl Flawed {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == flaw
    }

    async fn before_write(
        &self,
        batch: &mut Batch,
    ) -> Result<(), axum_taskflow_core::BackendError> {
        let names = batch.tasks.iter().map(|task| task.name.clone());
        self.names
            .lock()
            .expect("nothing panics under it")
            .extend(names);
        for task in &mut batch.tasks {
            let task = Arc::make_mut(task);
            match (self.flaw, &mut task.idempotency_key) {
                (Flaw::takes_no_keys, key) => *key = None,
                (Flaw::ignores_the_case_of_keys, Some(key)) => key.key = key.key.to_lowercase(),
                _ => {}
            }
        }
        for change in &mut batch.changes {
            if self.has(Flaw::ignores_epochs)
                && let Some(task) = self.memory.get(change.id).await?
            {
                change.expects.1 = task.life.epoch;
            }
            if self.has(Flaw::ignores_holders) {
                change.held_by = HeldBy::Anybody;
            }
            if self.has(Flaw::keeps_no_past_attempts) {
                change.ended = None;
            }
            if self.has(Flaw::keeps_keys_too_long)
                && let axum_taskflow_core::KeyFate::KeptUntil(_, until) = &mut change.key
            {
                *until = until.saturating_add(Duration::from_millis(1));
            }
        }
        for note in &mut batch.notes {
            if self.has(Flaw::takes_notes_of_any_epoch)
                && let Some(task) = self.memory.get(note.id).await?
            {
                note.epoch = task.life.epoch;
            }
            if self.has(Flaw::doubles_lines)
                && let Said::Log(line) = &mut note.what
            {
                line.seq = self.n_lines.fetch_add(1, Ordering::SeqCst);
            }
        }
        if self.has(Flaw::takes_notes_before_changes) {
            let mut notes = Batch::at(batch.now);
            notes.notes = std::mem::take(&mut batch.notes);
            self.memory.write(Arc::new(notes)).await?;
        }
        Ok(())
    }
}

impl Backend for Flawed {
    fn describe(&self) -> String {
        format!("{:?}", self.flaw)
    }

    fn join(&self, instance: Instance) -> BackendFuture<'_, ()> {
        self.memory.join(instance)
    }

    fn beat(&self, id: InstanceId, now: Timestamp) -> BackendFuture<'_, Standing> {
        match self.flaw {
            Flaw::tells_nobody_that_it_was_superseded => Box::pin(async { Ok(Standing::Alive) }),
            Flaw::shows_no_beats => Box::pin(async { Ok(Standing::Alive) }),
            _ => self.memory.beat(id, now),
        }
    }

    fn instances(&self) -> BackendFuture<'_, Vec<Peer>> {
        self.memory.instances()
    }

    fn supersede(&self, id: InstanceId, mut seen_beat_at: Timestamp) -> BackendFuture<'_, ()> {
        Box::pin(async move {
            if self.has(Flaw::supersedes_who_has_beaten) {
                let peers = self.memory.instances().await?;
                let peer = peers.into_iter().find(|peer| peer.instance.id == id);
                seen_beat_at = peer.map_or(seen_beat_at, |peer| peer.beat_at);
            }
            self.memory.supersede(id, seen_beat_at).await
        })
    }

    fn leave(&self, id: InstanceId) -> BackendFuture<'_, ()> {
        match self.flaw {
            Flaw::remembers_those_who_left => Box::pin(async { Ok(()) }),
            _ => self.memory.leave(id),
        }
    }

    fn write(&self, batch: Arc<Batch>) -> BackendFuture<'_, Written> {
        Box::pin(async move {
            let mut batch = Arc::unwrap_or_clone(batch);
            self.before_write(&mut batch).await?;
            let mut written_before = Vec::new();
            for change in &batch.changes {
                let task = self.memory.get(change.id).await?;
                written_before.push(task.is_some_and(|task| task.life == change.life));
            }
            let mut written = self.memory.write(Arc::new(batch)).await?;
            if self.has(Flaw::calls_what_is_written_again_stale) {
                for (applied, before) in written.changes.iter_mut().zip(written_before) {
                    if before {
                        *applied = Applied::Stale;
                    }
                }
            }
            if self.has(Flaw::calls_stale_changes_applied) {
                written.changes.fill(Applied::Applied);
            }
            Ok(written)
        })
    }

    fn step(&self, step: Arc<Step>) -> BackendFuture<'_, Stepped> {
        Box::pin(async move {
            let mut step = Arc::unwrap_or_clone(step);
            match self.flaw {
                Flaw::takes_steps_whatever_records_say => {
                    for change in &mut step.records {
                        let query = RecordQuery {
                            prefix: change.key.clone(),
                            after: None,
                            limit: 1,
                        };
                        let found = self.memory.records(query).await?;
                        change.expects = found.first().map_or(0, |record| record.version);
                    }
                }
                Flaw::takes_steps_whatever_changes_say => step.changes.clear(),
                Flaw::takes_steps_in_the_order_of_batches => {
                    let mut batch = Batch::at(step.now);
                    batch.tasks = step.tasks.clone();
                    let written = self.memory.write(Arc::new(batch)).await?;
                    step.tasks.clear();
                    return Ok(match self.memory.step(Arc::new(step)).await? {
                        Stepped::Done { versions, .. } => Stepped::Done {
                            versions,
                            tasks: written.tasks,
                        },
                        Stepped::Stale => Stepped::Stale,
                    });
                }
                Flaw::calls_steps_stale_that_were_taken => {
                    for change in &step.records {
                        let query = RecordQuery {
                            prefix: change.key.clone(),
                            after: None,
                            limit: 1,
                        };
                        let found = self.memory.records(query).await?;
                        let version = found.first().map_or(0, |record| record.version);
                        if version != change.expects {
                            return Ok(Stepped::Stale);
                        }
                    }
                }
                Flaw::forgets_who_took_steps => step.audit.clear(),
                _ => {}
            }
            self.memory.step(Arc::new(step)).await
        })
    }

    fn ahead(&self, mut query: AheadQuery) -> BackendFuture<'_, AheadPage> {
        Box::pin(async move {
            match self.flaw {
                Flaw::shows_what_comes_later => query.before = Timestamp::MAX,
                Flaw::shows_what_came_before => query.after = Timestamp::from_unix_ms(0),
                Flaw::shows_the_first_page_again => query.from = None,
                _ => {}
            }
            let mut page = self.memory.ahead(query).await?;
            if self.has(Flaw::shows_the_newest_first) {
                page.tasks.sort_by_key(|task| Reverse(task.id));
            }
            Ok(page)
        })
    }

    fn records(&self, mut query: RecordQuery) -> BackendFuture<'_, Vec<Record>> {
        Box::pin(async move {
            match self.flaw {
                Flaw::reads_records_of_any_name => query.prefix.clear(),
                Flaw::reads_all_records => query.limit = usize::MAX,
                Flaw::reads_records_from_the_beginning => query.after = None,
                _ => {}
            }
            let mut records = self.memory.records(query).await?;
            if self.has(Flaw::numbers_records_apart) {
                for record in &mut records {
                    record.version = 1;
                }
            }
            Ok(records)
        })
    }

    fn claim(&self, mut claim: Claim) -> BackendFuture<'_, Claimed> {
        Box::pin(async move {
            match self.flaw {
                Flaw::claims_any_function => {
                    claim.names = self
                        .names
                        .lock()
                        .expect("nothing panics under it")
                        .clone()
                        .into();
                }
                Flaw::claims_what_is_left_out => claim.except = Arc::default(),
                Flaw::claims_what_has_no_room => claim.reserve = None,
                Flaw::claims_without_limit => claim.limit = usize::MAX,
                Flaw::claims_too_early => {
                    claim.now = claim.now.saturating_add(Duration::from_millis(1));
                }
                Flaw::looks_at_all_to_claim => {
                    let mut all = ListQuery::default();
                    all.limit = usize::MAX;
                    self.memory.list(all).await?;
                }
                _ => {}
            }
            let (owner, now) = (claim.owner, claim.now);
            let mut claimed = self.memory.claim(claim).await?;
            match self.flaw {
                Flaw::claims_the_oldest_first => claimed.tasks.sort_by_key(|task| task.id),
                Flaw::forgets_what_is_due_next => claimed.next_due = None,
                Flaw::knows_no_next_turn => claimed.next_turn = None,
                Flaw::begins_none => {
                    for task in &mut claimed.tasks {
                        task.life.status = TaskStatus::Pending;
                    }
                }
                Flaw::begins_what_processes_died_of => {
                    for task in claimed.tasks.iter_mut().filter(|it| it.life.crashes > 0) {
                        task.life = task.life.begun(task.id, owner, now);
                    }
                }
                Flaw::tells_no_owner => {
                    claimed
                        .tasks
                        .iter_mut()
                        .for_each(|task| task.life.owner = None);
                }
                _ => {}
            }
            Ok(claimed)
        })
    }

    fn orphans(&self, limit: usize) -> BackendFuture<'_, Vec<Task>> {
        match self.flaw {
            Flaw::leaves_the_superseded_their_tasks => Box::pin(async { Ok(Vec::new()) }),
            _ => self.memory.orphans(limit),
        }
    }

    fn get(&self, id: TaskId) -> BackendFuture<'_, Option<Task>> {
        self.memory.get(id)
    }

    fn list(&self, mut query: ListQuery) -> BackendFuture<'_, Page> {
        Box::pin(async move {
            match (self.flaw, &mut query.tag) {
                (Flaw::lists_every_status, _) => query.status = None,
                (Flaw::lists_every_value_of_a_tag, Some((_, value))) => *value = None,
                (Flaw::cuts_payloads_too_late, _) => {
                    query.payload_max = query.payload_max.saturating_add(1);
                }
                _ => {}
            }
            let mut page = self.memory.list(query.clone()).await?;
            match self.flaw {
                Flaw::lists_one_page => page.next = None,
                Flaw::lists_from_before_on if page.tasks.len() < query.limit => {
                    if let Some(before) = query.before {
                        let itself = self.memory.get(before).await?;
                        page.tasks.splice(0..0, itself);
                    }
                }
                Flaw::shows_past_attempts_in_lists => {
                    for task in &mut page.tasks {
                        let whole = self.memory.get(task.id).await?;
                        task.past_attempts = whole.expect("it was listed").past_attempts;
                    }
                }
                _ => {}
            }
            Ok(page)
        })
    }

    fn logs(&self, id: TaskId, skip: usize, limit: usize) -> BackendFuture<'_, Vec<LogLine>> {
        match self.flaw {
            Flaw::reads_all_lines => self.memory.logs(id, 0, usize::MAX),
            _ => self.memory.logs(id, skip, limit),
        }
    }

    fn counts(&self) -> BackendFuture<'_, Vec<Count>> {
        Box::pin(async {
            let mut counts = self.memory.counts().await?;
            if self.has(Flaw::counts_what_is_not_there) {
                counts.push(Count {
                    name: "ghost".into(),
                    status: TaskStatus::Failed,
                    n: 0,
                });
            }
            Ok(counts)
        })
    }

    fn series(&self, since: Timestamp) -> BackendFuture<'_, Vec<Minute>> {
        Box::pin(async move {
            let since = match self.flaw {
                Flaw::shows_minutes_that_began_before => {
                    since.saturating_sub(Duration::from_secs(59))
                }
                _ => since,
            };
            let mut minutes = self.memory.series(since).await?;
            if self.has(Flaw::adds_up_no_time) {
                minutes
                    .iter_mut()
                    .for_each(|minute| minute.run = Duration::ZERO);
            }
            Ok(minutes)
        })
    }

    fn audit(&self, before: Option<TaskId>, limit: usize) -> BackendFuture<'_, Vec<AuditEntry>> {
        Box::pin(async move {
            let mut entries = self.memory.audit(before, limit).await?;
            if self.has(Flaw::shows_the_oldest_entry_first) {
                entries.reverse();
            }
            Ok(entries)
        })
    }

    fn prune(&self, mut prune: Prune) -> BackendFuture<'_, Pruned> {
        match self.flaw {
            Flaw::deletes_failures_like_successes => prune.failed_before = prune.finished_before,
            Flaw::deletes_all_at_once => prune.limit = usize::MAX,
            Flaw::deletes_nothing => return Box::pin(async { Ok(Pruned::default()) }),
            _ => {}
        }
        self.memory.prune(prune)
    }

    fn changed(&self, seen: u64) -> BackendFuture<'_, u64> {
        self.memory.changed(seen)
    }

    fn close(&self) -> BackendFuture<'_, ()> {
        match self.flaw {
            Flaw::answers_after_the_end => Box::pin(async { Ok(()) }),
            _ => self.memory.close(),
        }
    }
}
