//! The suite that every [`Backend`] must pass, with feature `conformance`.
//!
//! Each check is a claim about the contract, played on an empty store of its own; what is compared is only what the
//! contract says. [`conformance_tests!`](crate::conformance_tests) makes a test of each, so that what fails has a
//! name. In the `tests` folder of a driver:
//!
//! ```
//! use axum_taskflow_core::{Memory, conformance::Opened, conformance_tests};
//!
//! // An empty store, each time it is called.
//! async fn open() -> Opened {
//!     Opened::new(Memory::default())
//! }
//!
//! conformance_tests!(open);
//! # fn main() {}
//! ```
//!
//! A store that lives in a folder gives the folder along, which is dropped after the check:
//! `Opened::new(backend).keeping(folder)`. [`run`] plays everything in one go, for a driver whose tests are no
//! `cargo test`.
//!
//! The last check, `model::random_histories_have_the_same_answers_as_memory`, plays random histories on the driver
//! and on [`Memory`](crate::Memory) and compares every answer; a history that differs is shrunk and printed.
//! `PROPTEST_CASES` says how many are played, 64 if it is not set.
//!
//! The death of a process is the one thing that the suite cannot stage: a driver that has processes needs tests of
//! its own for how it learns of one, and for [`Backend::changed`].

mod ahead;
mod apply;
mod audit;
mod bench;
mod claim;
mod close;
mod counts;
mod enqueue;
mod instances;
mod keys;
mod list;
mod model;
mod notes;
mod orphans;
mod pace;
mod prune;
mod records;
mod series;
mod step;

use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use self::bench::Bench;
use crate::backend::Backend;

/// No check takes longer; one that does waits for something that never comes.
const DEADLINE: Duration = Duration::from_secs(300);

/// A store that was opened for one check: empty, and not joined yet.
pub struct Opened {
    backend: Arc<dyn Backend>,
    kept: Vec<Box<dyn Any>>,
}

impl Opened {
    /// A store.
    pub fn new(backend: impl Backend) -> Self {
        Self::from(Arc::new(backend) as Arc<dyn Backend>)
    }

    /// Drops `kept` after the check and after the store: the folder that it lies in, the server that it talks to.
    #[must_use]
    pub fn keeping(mut self, kept: impl Any) -> Self {
        self.kept.push(Box::new(kept));
        self
    }
}

impl From<Arc<dyn Backend>> for Opened {
    fn from(backend: Arc<dyn Backend>) -> Self {
        Self {
            backend,
            kept: Vec::new(),
        }
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Opened").field(&self.backend).finish()
    }
}

/// One claim about backends.
struct Check {
    name: &'static str,
    play: for<'a> fn(&'a Bench<'_>) -> Pin<Box<dyn Future<Output = ()> + 'a>>,
}

/// The names of all checks.
pub fn names() -> impl Iterator<Item = &'static str> {
    CHECKS.iter().map(|check| check.name)
}

/// Plays one check on a store that `open` makes, in a runtime of its own.
///
/// # Panics
/// If the store breaks the claim, and if there is no check of this name.
pub fn check<F: Future<Output = Opened>>(name: &str, open: impl Fn() -> F) {
    let Some(check) = CHECKS.iter().find(|check| check.name == name) else {
        panic!("there is no check {name:?}");
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2) // writers at once should be at once
        .enable_all()
        .build()
        .expect("a runtime can be started");
    let played = runtime.block_on(async {
        tokio::time::timeout(DEADLINE, async {
            let open = || Box::pin(open()) as Pin<Box<dyn Future<Output = Opened>>>;
            let bench = Bench::open(&open).await;
            (check.play)(&bench).await;
            bench.close().await;
        })
        .await
    });
    if played.is_err() {
        panic!("{name} did not end within {DEADLINE:?}");
    }
}

/// Plays all checks, and tells all that failed.
///
/// ```no_run
/// use axum_taskflow_core::{Memory, conformance::{self, Opened}};
///
/// conformance::run(|| async { Opened::new(Memory::default()) });
/// ```
///
/// # Panics
/// If the store breaks one of the claims.
pub fn run<F: Future<Output = Opened>>(open: impl Fn() -> F) {
    let failed: Vec<&str> = names()
        .filter(|name| catch_unwind(AssertUnwindSafe(|| check(name, &open))).is_err())
        .collect();
    assert!(failed.is_empty(), "these claims do not hold: {failed:#?}");
}

/// Makes one `#[test]` of each check of the [suite](crate::conformance), for the backend that `open` opens: a
/// function without arguments whose future gives an [`Opened`](crate::conformance::Opened).
#[macro_export]
macro_rules! conformance_tests {
    ($open:expr) => {
        $crate::__conformance_checks!(__conformance_tests($open));
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests {
    (($open:expr) $($verb:ident { $($check:ident)* })*) => { $(
        mod $verb {
            #[allow(unused_imports)] // `open` may be a whole path
            use super::*;

            $(
                #[test]
                fn $check() {
                    $crate::conformance::check(
                        concat!(stringify!($verb), "::", stringify!($check)),
                        $open,
                    );
                }
            )*
        }
    )* };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_table {
    (() $($verb:ident { $($check:ident)* })*) => {
        const CHECKS: &[Check] = &[$($(
            Check {
                name: concat!(stringify!($verb), "::", stringify!($check)),
                play: |bench| Box::pin($verb::$check(bench)),
            },
        )*)*];
    };
}

/// Every check there is; a function that is missing here is unused, and the compiler says so.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_checks {
    ($then:ident($($open:expr)?)) => { $crate::$then! { ($($open)?)
        enqueue {
            a_task_can_be_stored_as_one_that_has_begun
            a_task_is_stored_as_it_is_given
            each_field_is_stored_without_the_others
            an_id_that_is_not_stored_is_no_task
            texts_of_every_kind_survive
            numbers_and_times_survive_at_their_ends
            a_task_whose_id_is_stored_is_created_and_left_as_it_is
            a_batch_that_is_written_twice_doubles_nothing
            of_a_batch_that_is_written_again_in_part_only_the_rest_is_done
            of_a_large_batch_that_is_written_again_in_part_only_the_rest_is_done
            answers_stand_in_the_order_of_the_tasks
            an_empty_batch_is_written
            a_batch_that_is_taken_later_is_written_like_any_other
            if_there_is_nothing_to_take_nothing_is_written
            ten_thousand_tasks_fit_in_one_batch
            writers_at_once_lose_nothing
        }
        keys {
            of_two_tasks_with_one_key_the_first_is_made
            a_key_is_taken_within_its_batch
            of_a_thousand_writers_of_one_key_one_makes_a_task
            a_task_that_is_refused_leaves_nothing
            a_task_that_is_written_again_does_not_meet_its_own_key
            keys_are_compared_byte_for_byte
            a_key_is_free_when_its_task_ends_without_success
            a_key_stays_taken_between_two_attempts
            a_key_is_kept_after_success_until_its_time
            a_key_without_time_is_free_at_once
            a_key_that_is_taken_again_does_not_end_with_its_first_task
            a_stale_change_frees_no_key
            only_the_task_that_has_a_key_can_free_or_end_it
            a_key_outlives_its_deleted_task
        }
        apply {
            a_change_replaces_the_life_of_its_task
            an_attempt_that_is_not_the_last_is_kept
            errors_and_results_survive
            changes_apply_in_their_order_within_a_batch
            an_end_can_be_written_over_what_was_before_its_start
            a_change_from_another_status_or_epoch_is_stale
            a_change_of_a_task_that_another_one_holds_is_stale_if_it_matters
            of_changes_that_are_written_again_in_part_only_the_rest_is_done
            a_change_that_is_written_again_is_applied_and_changes_nothing
            a_change_of_a_task_that_is_not_stored_is_stale
            a_stale_change_does_not_hold_up_its_batch
            of_many_starts_at_once_one_applies
            a_superseded_attempt_cannot_write_an_outcome
            nothing_changes_a_finished_task
            a_released_task_belongs_to_nobody
            a_held_task_waits_and_says_why
        }
        step {
            a_step_writes_its_record_and_stores_its_task
            a_step_that_expects_another_version_changes_nothing
            a_step_with_a_stale_change_changes_nothing
            a_step_changes_tasks_and_records_together
            a_step_that_was_taken_before_is_done
            a_step_can_require_a_record_that_stays
            a_step_was_taken_if_its_task_is_stored_whatever_came_after_it
            of_many_steps_at_once_one_is_taken
            a_task_finds_the_key_that_its_step_has_freed
            a_task_whose_key_is_taken_is_answered_as_in_a_batch
            a_step_is_taken_with_its_audit_entries
            what_a_step_stores_is_claimed
        }
        ahead {
            what_waits_for_its_time_is_found_between_two_moments
            what_waits_for_its_time_is_read_in_pages
            what_has_ended_begun_or_is_held_does_not_wait
            a_place_that_no_page_has_named_is_refused
        }
        records {
            a_record_is_kept_as_it_was_written
            a_version_is_larger_than_all_before
            names_of_records_are_compared_byte_for_byte
            records_are_found_by_the_beginning_of_their_names
            records_are_read_in_parts_in_the_order_of_their_names
        }
        claim {
            a_claimed_task_belongs_to_the_claimer
            a_claim_that_is_older_than_a_task_begins_it_when_it_was_created_unless_clocks_differ
            a_claimed_task_can_end
            what_a_process_died_of_is_claimed_and_not_begun
            a_task_is_claimed_once
            claimers_at_once_share_what_waits
            higher_priority_goes_first_then_earlier_then_older
            the_order_holds_from_one_claim_to_the_next
            a_claim_leaves_room_for_what_its_owner_holds
            a_claim_that_brings_fewer_than_it_could_says_so
            a_claim_brings_how_far_a_task_was_however_much_it_has_no_room_for
            a_task_is_not_claimed_before_its_time
            a_task_at_the_end_of_time_waits
            only_tasks_that_wait_and_belong_to_nobody_are_claimed
            a_task_that_was_let_go_is_claimed_again
            what_was_let_go_together_is_claimed_but_not_what_had_come_further
            a_task_that_waits_again_keeps_its_priority
            a_task_between_two_attempts_is_claimed_when_it_is_due
            functions_that_are_not_named_are_not_touched
            no_names_or_no_limit_claim_nothing
            two_thousand_names_are_not_too_many
            next_due_is_the_earliest_time_ahead_of_any_function
            a_clock_that_is_set_back_claims_nothing_early
            what_a_claim_leaves_out_waits_for_somebody_else
            a_superseded_instance_claims_nothing
        }
        orphans {
            tasks_of_a_living_instance_or_of_nobody_are_no_orphans
            tasks_of_a_superseded_instance_are_orphans
            what_a_superseded_instance_adds_later_is_orphaned_too
            tasks_of_an_instance_that_left_are_orphans
            orphans_come_in_parts
            an_orphan_comes_with_how_far_it_was_however_much_there_is_no_room_for
        }
        instances {
            an_instance_is_seen_with_all_that_it_said
            a_beat_is_seen
            who_has_beaten_since_is_not_superseded
            a_superseded_instance_learns_it_from_its_beat
            an_instance_that_left_without_tasks_is_not_seen
            one_that_is_not_known_cannot_be_superseded
        }
        list {
            the_newest_task_comes_first
            ids_of_one_millisecond_keep_their_order
            filters_give_what_fits_and_nothing_else
            filters_follow_a_task_through_its_life
            names_tags_and_tracking_ids_are_compared_byte_for_byte
            pages_of_any_size_show_each_task_once
            tasks_of_rare_and_of_busy_functions_stand_where_they_belong
            before_and_after_leave_out_their_own_ids
            paging_goes_on_where_it_was_while_tasks_come_and_go
            payloads_are_cut_at_a_character
            a_page_has_at_most_its_limit
        }
        notes {
            log_lines_come_in_their_order
            log_lines_are_read_in_parts
            ten_thousand_log_lines_are_kept
            a_line_that_is_written_again_is_kept_once
            lines_of_a_repeated_attempt_come_after_those_of_the_first
            progress_replaces_what_was_said_before
            a_note_of_another_epoch_is_dropped
            a_note_beside_the_end_of_its_attempt_counts
            an_end_that_is_written_again_with_what_was_said_after_it_is_applied
            a_note_of_a_task_that_is_not_stored_is_dropped
        }
        counts {
            counts_follow_tasks_through_their_lives
            a_count_is_never_zero
            stale_changes_and_refused_tasks_are_not_counted
        }
        series {
            an_end_counts_in_its_own_minute
            ends_of_one_minute_are_added_up
            only_ends_count
            a_task_that_never_started_took_no_time
            minutes_come_oldest_first_from_their_beginning_on
        }
        audit {
            entries_are_kept_as_they_are_given
            the_newest_entry_comes_first
            an_entry_that_is_written_again_is_kept_once
        }
        prune {
            old_finished_tasks_are_deleted
            success_and_failure_have_times_of_their_own
            live_tasks_are_never_deleted
            a_part_is_bounded_and_a_round_ends
            a_round_reaches_what_is_old_of_all_functions
            what_is_kept_among_what_goes_is_listed_as_before
            a_deleted_task_leaves_nothing
            deletion_leaves_the_series_alone
            old_minutes_and_audit_entries_are_deleted
        }
        close {
            a_backend_says_what_it_is
            calls_after_the_end_fail
        }
        pace {
            a_claim_is_not_slowed_down_by_what_it_cannot_take
        }
        model {
            random_histories_have_the_same_answers_as_memory
        }
    } };
}

crate::__conformance_checks!(__conformance_table());
