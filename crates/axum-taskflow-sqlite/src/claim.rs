//! Tasks that nobody holds, given to whoever has a slot for them.

use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
    time::Duration,
};

use axum_taskflow_core::{Claim, Claimed, Task, TaskId, Timestamp, Turn};
use rusqlite::{Connection, OptionalExtension, Statement};

use crate::{
    connection::kept,
    fault::{Fault, say},
    interned::Interned,
    row::{self, LifeRow},
    transaction::{Transaction, at_most},
};

/// How many tasks that became due are moved to the waiting ones in one claim. When more become due at one moment,
/// those that are due first are ordered by priority first. As many as with Redis: meanwhile nobody else can write.
const PROMOTED_MAX: usize = 1_000;
/// How many waiting tasks are looked at for one that is not due any more, after the clock was set back.
const SET_BACK_MAX: i64 = 10_000;

#[derive(Debug)]
pub(crate) struct ClaimVerb<'c> {
    promote: Statement<'c>,
    waiting: Statement<'c>,
    take: Statement<'c>,
    begin: Statement<'c>,
    put_off: Statement<'c>,
    read: Statement<'c>,
    is_gone: Statement<'c>,
    unreadable: Unreadable,
}

/// Tasks that this program cannot read, and until when each is passed over. They stay as they are: a newer program may
/// have written them, and reads them.
#[derive(Debug, Default)]
struct Unreadable(HashMap<TaskId, Timestamp>);

impl Unreadable {
    /// How many are remembered // more: they wait a minute between two tries
    const MAX: usize = 1_000;
    /// Then they are tried again: somebody may have repaired them.
    const FOR: Duration = Duration::from_secs(600);

    /// True if the task is passed over from now on.
    fn remember(&mut self, id: TaskId, now: Timestamp) -> bool {
        let is_full = self.0.len() >= Self::MAX;
        if !is_full {
            self.0.insert(id, now.saturating_add(Self::FOR));
        }
        !is_full
    }

    fn forget_old(&mut self, now: Timestamp) {
        self.0.retain(|_, until| *until > now);
    }
}

/// A task that may be claimed, and its rowid, in the order of claiming.
type Candidate = (Turn, i64);

/// By their ids and with the name of an index, since after an `ANALYZE` of few tasks SQLite would look at every row there is for
/// those with these rowids.
const PROMOTE: &str = "UPDATE task INDEXED BY task_by_id SET shelf = 1 WHERE id IN (
         SELECT id FROM task WHERE shelf = 0 AND func = ?1 AND run_at <= ?2
         ORDER BY run_at LIMIT ?3)";

const WAITS: &str = "SELECT 1 FROM task WHERE shelf = 1 AND func = ?1 LIMIT 1";

const IS_DUE: &str = "SELECT 1 FROM task WHERE shelf = 0 AND func = ?1 AND run_at <= ?2 LIMIT 1";

const FIRST_AHEAD: &str =
    "SELECT func, run_at FROM task WHERE shelf = 0 AND func > ?1 ORDER BY func, run_at LIMIT 1";

impl<'c> ClaimVerb<'c> {
    pub(crate) fn prepare(conn: &'c Connection) -> rusqlite::Result<Self> {
        let columns = row::TASK_COLUMNS;
        Ok(Self {
            promote: kept(conn, PROMOTE)?,
            waiting: kept(conn, include_str!("claim.sql"))?,
            take: kept(
                conn,
                "UPDATE task SET owner = ?1, shelf = NULL WHERE rowid = ?2",
            )?,
            begin: kept(conn, include_str!("claim_begun.sql"))?,
            put_off: kept(
                conn,
                "UPDATE task SET shelf = 0, run_at = ?2 WHERE rowid = ?1",
            )?,
            unreadable: Unreadable::default(),
            read: kept(
                conn,
                &format!("SELECT {columns} FROM task WHERE rowid = ?1"),
            )?,
            is_gone: kept(
                conn,
                "SELECT 1 FROM instance
                 WHERE no = ?1 AND (superseded IS NOT NULL OR gone IS NOT NULL)",
            )?,
        })
    }

    pub(crate) fn run(
        &mut self,
        tx: &mut Transaction<'c>,
        claim: &Claim,
    ) -> Result<Claimed, Fault> {
        let owner = tx.interned.instance(tx.conn, claim.owner)?;
        let (mut tasks, mut next_turn) = (Vec::new(), None);
        if self.is_gone.exists([owner])? {
            let next_due = next_due(tx.conn, claim.now, tx.latest)?;
            return Ok(Claimed {
                tasks,
                next_due,
                next_turn,
            });
        }
        self.unreadable.forget_old(claim.now);
        let mut candidates: VecDeque<Candidate> = self.candidates(tx, claim, claim.limit)?.into();
        let mut n_unreadable = 0;
        while let Some((turn, rowid)) = candidates.pop_front() {
            if claim.has_no_room(tasks.len(), turn) {
                next_turn = Some(turn);
                break;
            }
            match self.read(tx, rowid) {
                Ok(mut task) => {
                    if task.life.crashes == 0 {
                        self.begin(tx, &mut task, rowid, claim)?;
                    } else {
                        self.take.execute((owner, rowid))?;
                        task.life.owner = Some(claim.owner);
                    }
                    tasks.push(task);
                }
                // One row that cannot be read must not keep all others waiting.
                Err(Fault::Unreadable(why)) => {
                    n_unreadable += 1;
                    self.pass_over((turn.id, rowid), &why, claim.now)?;
                }
                Err(fault) => return Err(fault),
            }
            if candidates.is_empty() && std::mem::take(&mut n_unreadable) > 0 {
                // Others in their place: a claim that brings fewer than it could says that there are no more.
                candidates = self
                    .candidates(tx, claim, claim.limit - tasks.len())?
                    .into();
            }
        }
        let next_due = next_due(tx.conn, claim.now, tx.latest)?;
        tx.latest = tx.latest.max(claim.now);
        Ok(Claimed {
            tasks,
            next_due,
            next_turn,
        })
    }

    fn pass_over(
        &mut self,
        (id, rowid): (TaskId, i64),
        why: &str,
        now: Timestamp,
    ) -> Result<(), Fault> {
        const AGAIN_IN: Duration = Duration::from_secs(60);
        say(|| {
            tracing::error!(
                task = %id,
                why,
                "a stored task cannot be read: it waits for a program that can"
            );
        });
        if !self.unreadable.remember(id, now) {
            let again_at = now.saturating_add(AGAIN_IN);
            self.put_off.execute((rowid, again_at.as_unix_ms()))?;
        }
        Ok(())
    }

    /// The first of each function, merged: however many wait, only this many are looked at.
    fn candidates(
        &mut self,
        tx: &mut Transaction<'c>,
        claim: &Claim,
        limit: usize,
    ) -> Result<Vec<Candidate>, Fault> {
        let now = claim.now.as_unix_ms();
        // At least as many of each function as can be claimed: then none that is due is passed over by a claim
        // that has room left.
        let promoted_max = (PROMOTED_MAX / claim.names.len().max(1)).max(claim.limit);
        let mut candidates: Vec<Candidate> = Vec::new();
        for name in &*claim.names {
            let Some(func) = tx.interned.known_function(tx.conn, name)? else {
                continue;
            };
            self.promote.execute((func, now, at_most(promoted_max)))?;
            let n_passed_over = claim.except.len() + self.unreadable.0.len();
            let n = at_most(limit.saturating_add(n_passed_over));
            let mut rows = self.waiting.query((func, now, n))?;
            while let Some(row) = rows.next()? {
                let turn = Turn {
                    priority: Reverse(row.get(0)?),
                    run_at: Timestamp::from_unix_ms(row.get(1)?),
                    id: row::read_id(row, 2)?,
                };
                if !claim.except.contains(&turn.id) && !self.unreadable.0.contains_key(&turn.id) {
                    candidates.push((turn, row.get(3)?));
                }
            }
        }
        candidates.sort_unstable();
        candidates.dedup(); // a name may be given twice
        candidates.truncate(limit);
        Ok(candidates)
    }

    fn begin(
        &mut self,
        tx: &mut Transaction<'c>,
        task: &mut Task,
        rowid: i64,
        claim: &Claim,
    ) -> Result<(), Fault> {
        let func = tx.interned.function(tx.conn, &task.name)?;
        tx.went(func, row::status_no(task.life.status)?);
        task.life = task.life.begun(task.id, claim.owner, claim.now);
        let life = LifeRow::new(&task.life, claim.now, tx.conn, &mut tx.interned)?;
        self.begin.execute((
            rowid,
            life.status,
            life.epoch,
            life.attempt,
            life.owner,
            life.instance,
            life.started_at,
        ))?;
        tx.rows.remember(task.id, rowid);
        tx.came(func, life.status);
        Ok(())
    }

    fn read(&mut self, tx: &mut Transaction<'c>, rowid: i64) -> Result<Task, Fault> {
        let mut rows = self.read.query([rowid])?;
        match rows.next()? {
            Some(row) => row::read_task(row, usize::MAX, tx.conn, &mut tx.interned),
            None => Err(Fault::unreadable("an index names a task that is not there")),
        }
    }
}

/// Answers a claim that has nothing to take, without keeping others from writing; nothing if it has to be made.
pub(crate) fn look(
    conn: &Connection,
    interned: &mut Interned,
    claim: &Claim,
) -> Result<Option<Claimed>, Fault> {
    let mut waits = conn.prepare_cached(WAITS)?;
    let mut is_due = conn.prepare_cached(IS_DUE)?;
    for name in &*claim.names {
        if let Some(func) = interned.known_function(conn, name)?
            && (waits.exists([func])? || is_due.exists((func, claim.now.as_unix_ms()))?)
        {
            return Ok(None);
        }
    }
    Ok(Some(Claimed {
        tasks: Vec::new(),
        next_due: next_due(conn, claim.now, Timestamp::MAX)?,
        next_turn: None,
    }))
}

/// The earliest time ahead. What was due at `latest` may wait again if the clock was set back.
fn next_due(
    conn: &Connection,
    now: Timestamp,
    latest: Timestamp,
) -> Result<Option<Timestamp>, Fault> {
    let now_ms = now.as_unix_ms();
    let mut next: Option<i64> = None;
    for (func, first) in first_ahead(conn)? {
        let run_at = match first > now_ms {
            true => Some(first),
            false => conn
                .prepare_cached(
                    "SELECT run_at FROM task WHERE shelf = 0 AND func = ?1 AND run_at > ?2
                     ORDER BY run_at LIMIT 1",
                )?
                .query_row((func, now_ms), |row| row.get(0))
                .optional()?,
        };
        next = earliest(next, run_at);
    }
    if now < latest {
        let run_at = conn
            .prepare_cached(
                "SELECT min(run_at) FROM (SELECT run_at FROM task WHERE shelf = 1 LIMIT ?2)
                 WHERE run_at > ?1",
            )?
            .query_row((now_ms, SET_BACK_MAX), |row| row.get(0))?;
        next = earliest(next, run_at);
    }
    Ok(next.map(Timestamp::from_unix_ms))
}

/// Each function that has tasks ahead, by its number, and when the first of them is due: one look for each.
pub(crate) fn first_ahead(conn: &Connection) -> Result<Vec<(i64, i64)>, Fault> {
    let mut first_after = conn.prepare_cached(FIRST_AHEAD)?;
    let mut first = Vec::new();
    let mut last_func = i64::MIN;
    while let Some((func, run_at)) = first_after
        .query_row([last_func], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?
    {
        last_func = func;
        first.push((func, run_at));
    }
    Ok(first)
}

fn earliest(one: Option<i64>, other: Option<i64>) -> Option<i64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use axum_taskflow_core::IdSource;

    use super::*;
    use crate::schema;

    #[test]
    fn what_is_due_or_ahead_is_found_by_an_index_whoever_has_analyzed_the_file() {
        let claim = include_str!("claim.sql");
        for n_analyzed in [0, 1, 10, 100] {
            let conn = schema::analyzed(n_analyzed, None);
            for sql in [PROMOTE, WAITS, IS_DUE, FIRST_AHEAD, claim] {
                let mut explain = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
                let steps = explain.raw_query().mapped(|row| row.get::<_, String>(3));
                let plan: Vec<String> = steps.map(Result::unwrap).collect();

                let of_index = |step: &String| {
                    step.starts_with("LIST")
                        || step.starts_with("SEARCH") && !step.contains("by_func")
                };
                assert!(plan.iter().all(of_index), "{sql}: {plan:?}");
            }
        }
    }

    #[test]
    fn of_tasks_that_cannot_be_read_a_bounded_number_is_remembered_for_a_while() {
        let (ids, now) = (IdSource::default(), Timestamp::default());
        let mut unreadable = Unreadable::default();
        for _ in 0..Unreadable::MAX {
            assert!(unreadable.remember(ids.task(now), now));
        }

        let too_many = ids.task(now);
        assert!(!unreadable.remember(too_many, now));
        let later = now.saturating_add(Unreadable::FOR);
        unreadable.forget_old(later);

        assert!(unreadable.remember(too_many, later));
        assert_eq!(unreadable.0.len(), 1);
    }
}
