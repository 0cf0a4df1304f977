//! Compare and set: what a task becomes was decided elsewhere.

use axum_taskflow_core::{
    Applied, Attempt, Change, HeldBy, KeyFate, TaskId, TaskStatus, Timestamp,
};
use rusqlite::{Connection, Statement};

use crate::{
    connection::kept,
    fault::Fault,
    interned::NOBODY,
    row::{self, Binder, LifeRow},
    transaction::Transaction,
};

/// How many past attempts of a task are kept.
const ATTEMPTS_MAX: u32 = 1_000;

#[derive(Debug)]
pub(crate) struct Apply<'c> {
    /// Whatever the change is.
    any: Statement<'c>,
    /// The two changes that most tasks see, of rows that are known. SQLite opens and compares every index over a column
    /// that a statement names, whether its value changes or not, and another one to find a row by its id.
    started: Statement<'c>,
    succeeded: Statement<'c>,
    was_applied: Statement<'c>,
    stands: Statement<'c>,
    is_held_by: Statement<'c>,
    free_key: Statement<'c>,
    keep_key: Statement<'c>,
    keep_attempt: Statement<'c>,
    drop_attempts: Statement<'c>,
}

impl<'c> Apply<'c> {
    pub(crate) fn prepare(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            any: kept(conn, include_str!("apply.sql"))?,
            started: kept(conn, include_str!("apply_started.sql"))?,
            succeeded: kept(conn, include_str!("apply_succeeded.sql"))?,
            was_applied: kept(conn, include_str!("apply_again.sql"))?,
            stands: kept(conn, "SELECT 1 FROM task WHERE id = ?1 AND status = ?2 AND epoch = ?3")?,
            is_held_by: kept(conn, "SELECT 1 FROM task WHERE id = ?1 AND coalesce(owner, 0) = ?2")?,
            free_key: kept(conn, "DELETE FROM idempotency WHERE key = ?1 AND task = ?2")?,
            keep_key: kept(conn, "UPDATE idempotency SET until = ?3 WHERE key = ?1 AND task = ?2")?,
            keep_attempt: kept(conn,
                "INSERT INTO attempt (task, epoch, number, instance, started_at, finished_at, outcome, error)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING",
            )?,
            drop_attempts: kept(conn, "DELETE FROM attempt WHERE task = ?1 AND epoch <= ?2")?,
        })
    }

    pub(crate) fn run(
        &mut self,
        tx: &mut Transaction<'c>,
        change: &Change,
        now: Timestamp,
    ) -> Result<Applied, Fault> {
        let func = tx.interned.function(tx.conn, &change.name)?;
        let life = LifeRow::new(&change.life, now, tx.conn, &mut tx.interned)?;
        let before = row::status_no(change.expects.0)?;
        let is_held_so = self.is_held_so(tx, change)?;
        let likely = match change.life.status {
            TaskStatus::Running => Some(&mut self.started),
            TaskStatus::Success => Some(&mut self.succeeded),
            _ => None,
        };
        let applied = match likely.zip(tx.rows.get(change.id)) {
            Some((statement, rowid)) if is_held_so => {
                update(statement, change, before, &life, rowid)?
            }
            _ => false,
        };
        let crashes = life.crashes.into();
        let applied =
            applied || is_held_so && update(&mut self.any, change, before, &life, crashes)?;
        if change.life.status != TaskStatus::Running {
            tx.rows.forget(change.id);
        }
        if !applied {
            return Ok(
                match was_applied(&mut self.was_applied, change, before, &life)? {
                    true => Applied::Applied,
                    false => Applied::Stale,
                },
            );
        }
        tx.went(func, before);
        tx.came(func, life.status);
        if change.life.status.is_terminal() {
            tx.ended(func, life.status, &change.life, now);
        }
        if let Some(attempt) = &change.ended {
            self.keep(tx, change.id, attempt)?;
        }
        match &change.key {
            KeyFate::Stays => {}
            KeyFate::Freed(key) => {
                self.free_key.execute((key, change.id.as_bytes()))?;
            }
            KeyFate::KeptUntil(key, until) => {
                self.keep_key
                    .execute((key, change.id.as_bytes(), until.as_unix_ms()))?;
            }
        }
        Ok(Applied::Applied)
    }

    /// True if the task stands where the change expects it.
    pub(crate) fn would_apply(
        &mut self,
        tx: &mut Transaction<'c>,
        change: &Change,
    ) -> Result<bool, Fault> {
        let (status, epoch) = change.expects;
        let expected = (change.id.as_bytes(), row::status_no(status)?, epoch.get());
        Ok(self.stands.exists(expected)? && self.is_held_so(tx, change)?)
    }

    /// A look of its own: starts and ends do not ask for it, and must not pay for it.
    fn is_held_so(&mut self, tx: &mut Transaction<'c>, change: &Change) -> Result<bool, Fault> {
        let holder = match change.held_by {
            HeldBy::Anybody => return Ok(true),
            HeldBy::Nobody => NOBODY,
            HeldBy::Instance(id) => tx.interned.instance(tx.conn, id)?,
        };
        Ok(self.is_held_by.exists((change.id.as_bytes(), holder))?)
    }

    /// True if the task is as the change would leave it.
    pub(crate) fn was_applied(
        &mut self,
        tx: &mut Transaction<'c>,
        change: &Change,
        now: Timestamp,
    ) -> Result<bool, Fault> {
        let life = LifeRow::new(&change.life, now, tx.conn, &mut tx.interned)?;
        let before = row::status_no(change.expects.0)?;
        was_applied(&mut self.was_applied, change, before, &life)
    }

    fn keep(
        &mut self,
        tx: &mut Transaction<'c>,
        id: TaskId,
        attempt: &Attempt,
    ) -> Result<(), Fault> {
        let instance = attempt
            .instance
            .map(|instance| tx.interned.instance(tx.conn, instance))
            .transpose()?;
        let error = attempt.error.as_deref().map(row::to_json).transpose()?;
        self.keep_attempt.execute((
            id.as_bytes(),
            attempt.epoch.get(),
            attempt.number,
            instance,
            attempt.started_at.map(Timestamp::as_unix_ms),
            attempt.finished_at.as_unix_ms(),
            row::status_no(attempt.outcome)?,
            error,
        ))?;
        if let Some(oldest) = attempt.epoch.get().checked_sub(ATTEMPTS_MAX) {
            self.drop_attempts.execute((id.as_bytes(), oldest))?;
        }
        Ok(())
    }
}

/// True if the task stood where the change expected it. `last` is the last parameter: of `apply.sql` the crashes, of the
/// others the rowid.
fn update(
    statement: &mut Statement<'_>,
    change: &Change,
    before: i64,
    life: &LifeRow<'_>,
    last: i64,
) -> Result<bool, Fault> {
    bind(statement, change, before, life)?;
    statement.raw_bind_parameter(15, last)?;
    Ok(statement.raw_execute()? == 1)
}

/// Tells a change that was written before, whose answer was lost, from a stale one.
fn was_applied(
    statement: &mut Statement<'_>,
    change: &Change,
    before: i64,
    life: &LifeRow<'_>,
) -> Result<bool, Fault> {
    bind(statement, change, before, life)?;
    Ok(statement.raw_query().next()?.is_some())
}

fn bind(
    statement: &mut Statement<'_>,
    change: &Change,
    before: i64,
    life: &LifeRow<'_>,
) -> Result<(), Fault> {
    Binder::new(statement)
        .next(&change.id.as_bytes()[..])?
        .next(before)?
        .next(change.expects.1.get())?
        .next(life.status)?
        .next(life.epoch)?
        .next(life.attempt)?
        .next(life.owner)?
        .next(life.shelf)?
        .next(life.run_at)?
        .next(life.instance)?
        .next(life.started_at)?
        .next(life.finished_at)?
        .next(life.result)?
        .next(life.error.as_deref())?;
    Ok(())
}
