//! What waits for its time.

use axum_taskflow_core::{AheadPage, AheadQuery, TaskId, Timestamp};
use rusqlite::Connection;

use crate::{fault::Fault, interned::Interned, row, transaction::at_most};

/// The first of each function; the caller merges them. The index has its name here since SQLite would take none after an
/// `ANALYZE` of few tasks.
const OF_FUNCTION: &str = "SELECT run_at, id, rowid FROM task INDEXED BY task_ahead
     WHERE shelf = 0 AND func = ?1 AND run_at >= ?2 AND run_at < ?3 AND (run_at, id) > (?2, ?4)
     ORDER BY run_at, id LIMIT ?5";

pub(crate) fn ahead(
    conn: &Connection,
    interned: &mut Interned,
    query: &AheadQuery,
    from: (Timestamp, TaskId),
) -> Result<AheadPage, Fault> {
    let (after, id) = from;
    let mut functions = conn.prepare_cached("SELECT no FROM func")?;
    let functions = functions.query_map([], |row| row.get::<_, i64>(0))?;
    let mut first = conn.prepare_cached(OF_FUNCTION)?;
    let limit = at_most(query.limit.saturating_add(1)); // is there anything after it?
    let mut places = Vec::new();
    for func in functions {
        let (after, before) = (after.as_unix_ms(), query.before.as_unix_ms());
        let mut rows = first.query((func?, after, before, id.as_bytes(), limit))?;
        while let Some(row) = rows.next()? {
            let run_at: i64 = row.get(0)?;
            places.push((run_at, row::read_id(row, 1)?, row.get::<_, i64>(2)?));
        }
    }
    places.sort_unstable();
    let mut page = AheadPage::default();
    if places.len() > query.limit {
        places.truncate(query.limit);
        page.next = places.last().map(|(run_at, id, _)| {
            let run_at = Timestamp::from_unix_ms(*run_at);
            AheadQuery::name_of(run_at, *id)
        });
    }
    let columns = row::TASK_COLUMNS;
    let mut read = conn.prepare_cached(&format!("SELECT {columns} FROM task WHERE rowid = ?1"))?;
    for (.., rowid) in places {
        let mut rows = read.query([rowid])?;
        if let Some(row) = rows.next()? {
            let task = row::show_task(row, query.payload_max, conn, interned)?;
            page.tasks.push(task);
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    #[test]
    fn a_page_is_read_from_the_index_of_what_is_ahead() {
        for n_analyzed in [0, 1, 10] {
            let conn = schema::analyzed(n_analyzed, None);
            let mut explain = conn
                .prepare(&format!("EXPLAIN QUERY PLAN {OF_FUNCTION}"))
                .unwrap();
            let mut plan = explain.raw_query();

            let first: String = plan.next().unwrap().unwrap().get(3).unwrap();

            assert!(
                first.starts_with("SEARCH task USING") && first.contains("task_ahead"),
                "{first}"
            );
            assert!(first.contains("run_at>? AND run_at<?"), "{first}");
        }
    }
}
