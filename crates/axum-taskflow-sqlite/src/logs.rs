//! What functions say while they run.

use axum_taskflow_core::{LogLine, Note, Said, TaskId};
use rusqlite::{Connection, Statement};

use crate::{
    connection::kept,
    fault::Fault,
    row,
    transaction::{Transaction, at_most},
};

/// How many lines of a task are kept at least when its attempts go on and on.
const LINES_KEPT: i64 = 10_000;

#[derive(Debug)]
pub(crate) struct Notes<'c> {
    log: Statement<'c>,
    drop_logs: Statement<'c>,
    progress: Statement<'c>,
}

impl<'c> Notes<'c> {
    pub(crate) fn prepare(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            log: kept(
                conn,
                "INSERT INTO log (task, epoch, seq, attempt, at, level, message)
                 SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7
                 WHERE EXISTS (SELECT 1 FROM task WHERE id = ?1 AND epoch = ?2)
                 ON CONFLICT DO NOTHING",
            )?,
            drop_logs: kept(
                conn,
                "DELETE FROM log WHERE task = ?1 AND epoch < (
                     SELECT epoch FROM log WHERE task = ?1
                     ORDER BY epoch DESC, seq DESC LIMIT 1 OFFSET ?2)",
            )?,
            progress: kept(
                conn,
                "UPDATE task SET progress = ?3 WHERE id = ?1 AND epoch = ?2",
            )?,
        })
    }

    pub(crate) fn run(&mut self, _tx: &mut Transaction<'c>, note: &Note) -> Result<(), Fault> {
        let (id, epoch) = (note.id.as_bytes(), note.epoch.get());
        match &note.what {
            Said::Log(line) => {
                let level = row::level_no(line.level)?;
                let at = line.at.as_unix_ms();
                let values = (id, epoch, line.seq, line.attempt, at, level, &line.message);
                let n_written = self.log.execute(values)?;
                // Once an attempt is often enough: one attempt cannot say more than its own limit.
                if n_written > 0 && line.seq == 0 && epoch > 1 {
                    self.drop_logs.execute((id, LINES_KEPT))?;
                }
            }
            Said::Progress(progress) => {
                self.progress
                    .execute((id, epoch, row::to_json(progress)?))?;
            }
            other => {
                return Err(Fault::unreadable(format!(
                    "{other:?} has no place in this schema"
                )));
            }
        }
        Ok(())
    }
}

/// At most `limit` lines of a task after the first `skip`.
pub(crate) fn logs(
    conn: &Connection,
    id: TaskId,
    skip: usize,
    limit: usize,
) -> Result<Vec<LogLine>, Fault> {
    let mut statement = conn.prepare_cached(
        "SELECT seq, attempt, at, level, message FROM log WHERE task = ?1
         ORDER BY epoch, seq LIMIT ?2 OFFSET ?3",
    )?;
    let mut rows = statement.query((id.as_bytes(), at_most(limit), at_most(skip)))?;
    let mut lines = Vec::new();
    while let Some(row) = rows.next()? {
        lines.push(row::read_log_line(row)?);
    }
    Ok(lines)
}
