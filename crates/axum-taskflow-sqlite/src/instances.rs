//! Who uses the file, and how each is doing.

use axum_taskflow_core::{Instance, InstanceId, Peer, Standing, Timestamp};
use rusqlite::{Connection, Row, Statement};

use crate::{connection::kept, fault::Fault, lock::LockFolder, row, transaction::Transaction};

/// What the writer does for instances.
#[derive(Debug)]
pub(crate) struct Instances<'c> {
    beat: Statement<'c>,
    supersede: Statement<'c>,
    is_present: Statement<'c>,
    n_present: Statement<'c>,
    owns: Statement<'c>,
    gone: Statement<'c>,
}

impl<'c> Instances<'c> {
    pub(crate) fn prepare(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            beat: kept(
                conn,
                "UPDATE instance SET beat_at = ?2
                 WHERE id = ?1 AND gone IS NULL AND superseded IS NULL",
            )?,
            supersede: kept(
                conn,
                "UPDATE instance SET superseded = 1
                 WHERE id = ?1 AND gone IS NULL AND coalesce(beat_at, started_at) = ?2",
            )?,
            is_present: kept(
                conn,
                "SELECT 1 FROM instance WHERE id = ?1 AND gone IS NULL",
            )?,
            n_present: kept(
                conn,
                "SELECT count(*) FROM instance WHERE gone IS NULL AND started_at IS NOT NULL",
            )?,
            owns: kept(conn, "SELECT 1 FROM task WHERE owner = ?1 LIMIT 1")?,
            gone: kept(
                conn,
                "UPDATE instance SET gone = coalesce((SELECT max(id) FROM task), x'') WHERE no = ?1",
            )?,
        })
    }

    pub(crate) fn beat(&mut self, id: InstanceId, now: Timestamp) -> Result<Standing, Fault> {
        let n = self.beat.execute((id.as_bytes(), now.as_unix_ms()))?;
        Ok(match n {
            0 => Standing::Superseded,
            _ => Standing::Alive,
        })
    }

    pub(crate) fn supersede(
        &mut self,
        id: InstanceId,
        seen_beat_at: Timestamp,
    ) -> Result<(), Fault> {
        self.supersede
            .execute((id.as_bytes(), seen_beat_at.as_unix_ms()))?;
        Ok(())
    }

    /// True if it is known, and not gone.
    pub(crate) fn is_present(&mut self, id: InstanceId) -> Result<bool, Fault> {
        Ok(self.is_present.exists([id.as_bytes()])?)
    }

    /// True if somebody else uses the file, as far as the file says.
    pub(crate) fn has_others(&mut self) -> Result<bool, Fault> {
        let n: i64 = self.n_present.query_row([], |row| row.get(0))?;
        Ok(n > 1)
    }

    /// Marks an instance as gone if nothing belongs to it any more; true if so.
    pub(crate) fn bury(&mut self, tx: &mut Transaction<'c>, id: InstanceId) -> Result<bool, Fault> {
        let no = tx.interned.instance(tx.conn, id)?;
        if self.owns.exists([no])? {
            return Ok(false);
        }
        self.gone.execute([no])?;
        Ok(true)
    }
}

/// Those that joined and are not gone, oldest first.
pub(crate) fn all(conn: &Connection, locks: &LockFolder) -> Result<Vec<Peer>, Fault> {
    const SQL: &str = "
        SELECT id, started_at, host, pid, version, role, functions, beat_at, superseded
        FROM instance WHERE gone IS NULL AND started_at IS NOT NULL ORDER BY no";
    let mut statement = conn.prepare_cached(SQL)?;
    let mut rows = statement.query([])?;
    let mut peers = Vec::new();
    while let Some(row) = rows.next()? {
        peers.push(peer(row, locks)?);
    }
    Ok(peers)
}

fn peer(row: &Row<'_>, locks: &LockFolder) -> Result<Peer, Fault> {
    let started_at = Timestamp::from_unix_ms(row.get(1)?);
    let mut instance = Instance::new(InstanceId::from_bytes(row.get(0)?), started_at);
    instance.host = row.get(2)?;
    instance.pid = row.get(3)?;
    // An instance of a program that knew the first schema only says nothing of these.
    instance.version = row.get::<_, Option<String>>(4)?.unwrap_or_default();
    // Nor can everything be read that a newer one says; that it is there is what counts.
    if let Some(role) = row.get(5)? {
        instance.role = row::role_of(role).unwrap_or_default();
    }
    instance.functions = row::json(row, 6).ok().flatten().unwrap_or_default();
    let beat_at = row::time(row, 7)?.unwrap_or(started_at);
    let superseded = row.get::<_, Option<i64>>(8)?.is_some();
    let alive = !superseded && !locks.is_dead(instance.id, Some(beat_at))?;
    Ok(Peer::new(instance, beat_at, alive))
}
