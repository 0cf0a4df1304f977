//! Functions and instances have numbers in the file; this knows them by heart.

use std::{collections::HashMap, sync::Arc};

use axum_taskflow_core::{Instance, InstanceId};
use rusqlite::{Connection, OptionalExtension};

use crate::{fault::Fault, row};

/// The number that stands for "nobody" as an owner.
pub(crate) const NOBODY: i64 = 0;

/// Numbers that this connection has met. Both kinds are few: functions of the program, boots of its processes.
#[derive(Debug, Default)]
pub(crate) struct Interned {
    functions: HashMap<Arc<str>, i64>,
    names: HashMap<i64, Arc<str>>,
    instances: HashMap<InstanceId, i64>,
    instance_ids: HashMap<i64, InstanceId>,
    /// The last ones that were asked for, which are asked for again most of the time.
    last_function: Option<(Arc<str>, i64)>,
    last_instance: Option<(InstanceId, i64)>,
}

impl Interned {
    /// The number of a function, if it ever had a task.
    pub(crate) fn known_function(
        &mut self,
        conn: &Connection,
        name: &str,
    ) -> Result<Option<i64>, Fault> {
        if let Some((last, no)) = &self.last_function
            && **last == *name
        {
            return Ok(Some(*no));
        }
        if let Some((known, no)) = self.functions.get_key_value(name) {
            self.last_function = Some((known.clone(), *no));
            return Ok(Some(*no));
        }
        let no = conn
            .prepare_cached("SELECT no FROM func WHERE name = ?1")?
            .query_row([name], |row| row.get(0))
            .optional()?;
        if let Some(no) = no {
            self.remember(no, Arc::from(name));
        }
        Ok(no)
    }

    /// The number of a function, a new one if it has none. For the writer.
    pub(crate) fn function(&mut self, conn: &Connection, name: &str) -> Result<i64, Fault> {
        if let Some(no) = self.known_function(conn, name)? {
            return Ok(no);
        }
        conn.prepare_cached("INSERT INTO func (name) VALUES (?1)")?
            .execute([name])?;
        let no = conn.last_insert_rowid();
        self.remember(no, Arc::from(name));
        Ok(no)
    }

    /// The function that a number stands for.
    pub(crate) fn name(&mut self, conn: &Connection, no: i64) -> Result<Arc<str>, Fault> {
        if let Some(name) = self.names.get(&no) {
            return Ok(name.clone());
        }
        let name: Option<Arc<str>> = conn
            .prepare_cached("SELECT name FROM func WHERE no = ?1")?
            .query_row([no], |row| row.get(0))
            .optional()?;
        let name = name.ok_or_else(|| Fault::unreadable(format!("function {no} has no name")))?;
        self.remember(no, name.clone());
        Ok(name)
    }

    /// The number of an instance, a new one if it has none. For the writer.
    pub(crate) fn instance(&mut self, conn: &Connection, id: InstanceId) -> Result<i64, Fault> {
        if let Some((last, no)) = self.last_instance
            && last == id
        {
            return Ok(no);
        }
        if let Some(no) = self.instances.get(&id) {
            self.last_instance = Some((id, *no));
            return Ok(*no);
        }
        let no: Option<i64> = conn
            .prepare_cached("SELECT no FROM instance WHERE id = ?1")?
            .query_row([id.as_bytes()], |row| row.get(0))
            .optional()?;
        let no = match no {
            Some(no) => no,
            // Unless it joins, nothing is known but the name.
            None => conn
                .prepare_cached("INSERT INTO instance (id) VALUES (?1) RETURNING no")?
                .query_row([id.as_bytes()], |row| row.get(0))?,
        };
        self.instances.insert(id, no);
        self.instance_ids.insert(no, id);
        self.last_instance = Some((id, no));
        Ok(no)
    }

    /// Makes an instance known with all that is to be said about it.
    pub(crate) fn join(&mut self, conn: &Connection, instance: &Instance) -> Result<(), Fault> {
        const SQL: &str = "
            UPDATE instance SET host = ?2, pid = ?3, started_at = ?4, beat_at = ?4, version = ?5, role = ?6,
                functions = ?7, gone = NULL, superseded = NULL
            WHERE no = ?1";
        let no = self.instance(conn, instance.id)?;
        conn.prepare_cached(SQL)?.execute((
            no,
            &instance.host,
            instance.pid,
            instance.started_at.as_unix_ms(),
            &instance.version,
            row::role_no(instance.role)?,
            row::to_json(&instance.functions)?,
        ))?;
        Ok(())
    }

    /// The instance that a number stands for.
    pub(crate) fn instance_id(&mut self, conn: &Connection, no: i64) -> Result<InstanceId, Fault> {
        if let Some(id) = self.instance_ids.get(&no) {
            return Ok(*id);
        }
        let bytes: Option<[u8; 16]> = conn
            .prepare_cached("SELECT id FROM instance WHERE no = ?1")?
            .query_row([no], |row| row.get(0))
            .optional()?;
        let bytes =
            bytes.ok_or_else(|| Fault::unreadable(format!("instance {no} is not stored")))?;
        let id = InstanceId::from_bytes(bytes);
        self.instance_ids.insert(no, id);
        Ok(id)
    }

    /// Forgets everything: a transaction that was undone may have made some of it up.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    fn remember(&mut self, no: i64, name: Arc<str>) {
        self.functions.insert(name.clone(), no);
        self.names.insert(no, name);
    }
}
