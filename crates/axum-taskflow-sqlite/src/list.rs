//! Pages of tasks, newest first, from whichever index is shortest.

use axum_taskflow_core::{ListQuery, Page, Task, TaskId, TaskStatus};
use rusqlite::{Connection, OptionalExtension, Row, ToSql};

use crate::{
    fault::Fault,
    interned::{Interned, NOBODY},
    row,
};

/// How many tasks are looked at for one page. A page that finds fewer matches among them is short, and says where
/// to go on.
const LOOKED_AT_MAX: usize = 100_000;

/// A key, with a value or any.
type Tag<'q> = Option<(&'q str, Option<&'q str>)>;

/// Where candidates come from.
enum Source<'q> {
    Tracked(&'q str, Tag<'q>),
    Tag(&'q str, &'q str),
    TagKey(&'q str),
    EndedBadly(i64),
    Owner(i64),
    Func(i64),
    All,
}

/// What every candidate must be.
struct Filter<'q> {
    status: Option<i64>,
    func: Option<i64>,
    /// Older than this.
    before: &'q [u8],
    /// Newer than this; what is empty sorts before every id.
    after: &'q [u8],
}

struct Match {
    id: TaskId,
    rowid: i64,
}

pub(crate) fn list(
    conn: &Connection,
    interned: &mut Interned,
    query: &ListQuery,
) -> Result<Page, Fault> {
    list_within(conn, interned, query, LOOKED_AT_MAX)
}

fn list_within(
    conn: &Connection,
    interned: &mut Interned,
    query: &ListQuery,
    looked_at_max: usize,
) -> Result<Page, Fault> {
    if query.limit == 0 {
        return Ok(Page::default());
    }
    let func = match &query.name {
        None => None,
        Some(name) => match interned.known_function(conn, name)? {
            Some(func) => Some(func),
            None => return Ok(Page::default()), // it never had a task
        },
    };
    let filter = Filter {
        status: query.status.map(row::status_no).transpose()?,
        func,
        before: query
            .before
            .as_ref()
            .map_or(row::ABOVE_ALL_IDS, |id| id.as_bytes()),
        after: query.after.as_ref().map_or(&[], |id| id.as_bytes()),
    };
    let sources = sources(conn, query, &filter)?;
    let looked_at_max = (looked_at_max / sources.len().max(1)).max(1);

    let mut matches = Vec::new();
    let mut stopped: Option<TaskId> = None;
    for source in &sources {
        let stopped_at = scan(
            conn,
            source,
            &filter,
            query.limit,
            looked_at_max,
            &mut matches,
        )?;
        stopped = stopped.max(stopped_at);
    }
    // Below the point where one source stopped, the others' matches come too early.
    matches.sort_unstable_by_key(|found| std::cmp::Reverse(found.id));
    matches.retain(|found| Some(found.id) >= stopped);
    let mut next = stopped;
    if matches.len() > query.limit {
        matches.truncate(query.limit);
        next = matches.last().map(|found| found.id);
    }
    Ok(Page {
        tasks: fetch(conn, interned, &matches, query.payload_max)?,
        next,
    })
}

/// The shortest way to everything that the query can match.
fn sources<'q>(
    conn: &Connection,
    query: &'q ListQuery,
    filter: &Filter<'_>,
) -> Result<Vec<Source<'q>>, Fault> {
    if let Some(tracking_id) = &query.tracking_id {
        let tag = query.tag.as_ref();
        let tag = tag.map(|(key, value)| (&**key, value.as_deref()));
        return Ok(vec![Source::Tracked(tracking_id, tag)]);
    }
    Ok(
        match (&query.tag, query.status, filter.status, filter.func) {
            (Some((key, Some(value))), ..) => vec![Source::Tag(key, value)],
            (Some((key, None)), ..) => vec![Source::TagKey(key)],
            (None, Some(TaskStatus::Pending), ..) => owners(conn, NOBODY - 1)?,
            (None, Some(TaskStatus::Running), ..) => owners(conn, NOBODY)?, // nobody runs nothing
            (
                None,
                Some(TaskStatus::Failed | TaskStatus::Interrupted | TaskStatus::Cancelled),
                Some(no),
                _,
            ) => {
                vec![Source::EndedBadly(no)]
            }
            (None, _, _, Some(func)) => vec![Source::Func(func)],
            _ => vec![Source::All],
        },
    )
}

/// One source for each owner of live tasks.
fn owners<'q>(conn: &Connection, mut after: i64) -> Result<Vec<Source<'q>>, Fault> {
    let mut statement =
        conn.prepare_cached("SELECT owner FROM task WHERE owner > ?1 ORDER BY owner LIMIT 1")?;
    let mut owners = Vec::new();
    while let Some(owner) = statement.query_row([after], |row| row.get(0)).optional()? {
        owners.push(Source::Owner(owner));
        after = owner;
    }
    Ok(owners)
}

impl Source<'_> {
    /// Candidates older than `?1` and newer than `?2`, newest first.
    fn sql(&self) -> &'static str {
        match self {
            // Looks at each task of the request, and says of each whether it has the tag.
            Self::Tracked(..) => {
                "SELECT task.rowid, task.id, task.status, task.func,
                        ?4 IS NULL OR EXISTS (
                            SELECT 1 FROM task_tag
                            WHERE key = ?4 AND value = ifnull(?5, value) AND task_tag.task = task.id)
                 FROM task_tracking CROSS JOIN task ON task.id = task_tracking.task
                 WHERE task_tracking.task < ?1 AND task_tracking.task > ?2 AND tracking_id = ?3
                 ORDER BY task_tracking.task DESC"
            }
            Self::Tag(..) => {
                "SELECT task.rowid, task.id, task.status, task.func
                 FROM task_tag CROSS JOIN task ON task.id = task_tag.task
                 WHERE task_tag.task < ?1 AND task_tag.task > ?2 AND task_tag.key = ?3 AND task_tag.value = ?4
                 ORDER BY task_tag.task DESC"
            }
            Self::TagKey(_) => {
                "SELECT task.rowid, task.id, task.status, task.func
                 FROM task_tag CROSS JOIN task ON task.id = task_tag.task
                 WHERE task_tag.task < ?1 AND task_tag.task > ?2 AND task_tag.key = ?3
                 ORDER BY task_tag.task DESC"
            }
            Self::EndedBadly(_) => {
                "SELECT rowid, id, status, func FROM task
                 WHERE id < ?1 AND id > ?2 AND shelf >= 3 AND shelf = ?3 ORDER BY id DESC"
            }
            // Here and below, the index has its name since SQLite would take that of all ids after an `ANALYZE` of few tasks.
            Self::Owner(_) => {
                "SELECT rowid, id, status, func FROM task INDEXED BY task_live
                 WHERE id < ?1 AND id > ?2 AND owner = ?3 ORDER BY id DESC"
            }
            Self::Func(_) => {
                "SELECT rowid, id, status, func FROM task INDEXED BY task_by_func
                 WHERE id < ?1 AND id > ?2 AND func = ?3 ORDER BY id DESC"
            }
            Self::All => {
                "SELECT rowid, id, status, func FROM task
                 WHERE id < ?1 AND id > ?2 ORDER BY id DESC"
            }
        }
    }

    /// Whether a candidate has the tag that is asked for.
    fn has_tag(&self, row: &Row<'_>) -> rusqlite::Result<bool> {
        match self {
            Self::Tracked(..) => row.get(4),
            _ => Ok(true), // the candidates come from the tag, or none is asked for
        }
    }

    /// What stands for `?3` and on.
    fn values(&self) -> Vec<&dyn ToSql> {
        match self {
            Self::Tracked(tracking_id, None) => vec![tracking_id, &None::<&str>, &None::<&str>],
            Self::Tracked(tracking_id, Some((key, value))) => vec![tracking_id, key, value],
            Self::Tag(key, value) => vec![key, value],
            Self::TagKey(key) => vec![key],
            Self::EndedBadly(no) | Self::Owner(no) | Self::Func(no) => vec![no],
            Self::All => vec![],
        }
    }
}

/// Adds up to `limit + 1` matches of one source; the answer is where it stopped, unless it came to its end.
fn scan(
    conn: &Connection,
    source: &Source<'_>,
    filter: &Filter<'_>,
    limit: usize,
    looked_at_max: usize,
    matches: &mut Vec<Match>,
) -> Result<Option<TaskId>, Fault> {
    let mut values: Vec<&dyn ToSql> = vec![&filter.before, &filter.after];
    values.extend(source.values());
    let mut statement = conn.prepare_cached(source.sql())?;
    let mut rows = statement.query(&*values)?;
    let (mut n_looked_at, mut n_matches) = (0, 0);
    while let Some(row) = rows.next()? {
        let id = row::read_id(row, 1)?;
        let is_match = filter.status.is_none_or(|status| row.get(2) == Ok(status))
            && filter.func.is_none_or(|func| row.get(3) == Ok(func))
            && source.has_tag(row)?;
        if is_match {
            let rowid = row.get(0)?;
            matches.push(Match { id, rowid });
            n_matches += 1;
        }
        n_looked_at += 1;
        if n_matches > limit || n_looked_at >= looked_at_max {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

fn fetch(
    conn: &Connection,
    interned: &mut Interned,
    matches: &[Match],
    payload_max: usize,
) -> Result<Vec<Task>, Fault> {
    let columns = row::TASK_COLUMNS;
    let mut statement =
        conn.prepare_cached(&format!("SELECT {columns} FROM task WHERE rowid = ?1"))?;
    let mut tasks = Vec::with_capacity(matches.len());
    for found in matches {
        let mut rows = statement.query([found.rowid])?;
        if let Some(row) = rows.next()? {
            tasks.push(row::show_task(row, payload_max, conn, interned)?);
        }
    }
    Ok(tasks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    #[test]
    fn every_source_walks_down_an_index_and_sorts_nothing() {
        let sources = [
            (Source::Tracked("", None), "PRIMARY KEY"),
            (Source::Tag("", ""), "PRIMARY KEY"),
            (Source::TagKey(""), "task_tag_by_key"),
            (Source::EndedBadly(3), "task_ended_badly"),
            (Source::Owner(1), "task_live"),
            (Source::Func(1), "task_by_func"),
            (Source::All, "task_by_id"),
        ];

        let analyzed = [(0, None), (1, None), (10, None), (10, Some(NOBODY))]
            .map(|(n_tasks, owner)| schema::analyzed(n_tasks, owner));
        for (conn, (source, index)) in analyzed
            .iter()
            .flat_map(|conn| sources.iter().map(move |it| (conn, it)))
        {
            let sql = format!("EXPLAIN QUERY PLAN {}", source.sql());
            let mut statement = conn.prepare(&sql).unwrap();
            let mut rows = statement.raw_query();
            let mut plan: Vec<String> = Vec::new();
            while let Some(row) = rows.next().unwrap() {
                plan.push(row.get(3).unwrap());
            }

            assert!(
                plan[0].starts_with("SEARCH") && plan[0].contains(*index),
                "{plan:?}"
            );
            assert!(
                !plan.iter().any(|step| step.contains("TEMP B-TREE")),
                "{plan:?}"
            );
        }
    }

    /// Tasks of two functions and three owners in all statuses, some tagged; as `(id, status, func, tag)`, newest first.
    fn filled(conn: &Connection) -> Vec<(TaskId, TaskStatus, &'static str, Option<char>)> {
        let mut dice = fastrand::Rng::with_seed(7);
        let mut tasks = Vec::new();
        conn.execute_batch(
            "INSERT INTO func (no, name) VALUES (1, 'f'), (2, 'g');
             INSERT INTO instance (no, id) VALUES (1, zeroblob(16)), (2, x'01010101010101010101010101010101')",
        )
        .unwrap();
        for n in 1..=300_u32 {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            let status = TaskStatus::ALL[dice.usize(..6)];
            let owner = match status {
                TaskStatus::Pending => Some(dice.i64(0..3)),
                TaskStatus::Running => Some(dice.i64(1..3)),
                _ => None,
            };
            let no = row::status_no(status).unwrap();
            let shelf = (no >= 3).then_some(no);
            let func = dice.i64(1..3);
            let tag = [None, Some('a'), Some('b')][dice.usize(..3)];
            conn.execute(
                "INSERT INTO task (id, func, status, epoch, attempt, owner, shelf, priority, run_at,
                                   source, executor, requeue, args)
                 VALUES (?1, ?2, ?3, 0, 0, ?4, ?5, 0, 0, 0, 0, 0, '[]')",
                (bytes, func, no, owner, shelf),
            )
            .unwrap();
            if let Some(value) = tag {
                conn.execute(
                    "INSERT INTO task_tag (key, value, task) VALUES ('k', ?1, ?2)",
                    (value.to_string(), bytes),
                )
                .unwrap();
            }
            let name = if func == 1 { "f" } else { "g" };
            tasks.push((TaskId::from_bytes(bytes), status, name, tag));
        }
        tasks.reverse();
        tasks
    }

    #[test]
    fn pages_show_each_match_once_however_little_is_looked_at() {
        let conn = Connection::open_in_memory().unwrap();
        schema::migrate(&conn).unwrap();
        let tasks = filled(&conn);
        let mut interned = Interned::default();
        let statuses = TaskStatus::ALL.map(Some).into_iter().chain([None]);
        let tags = [None, Some(None), Some(Some('a'))];

        for (status, name, tag, limit, looked_at_max) in statuses
            .flat_map(|status| [None, Some("f")].map(|name| (status, name)))
            .flat_map(|(status, name)| tags.map(|tag| (status, name, tag)))
            .flat_map(|(s, n, t)| {
                [
                    (s, n, t, 1, 9),
                    (s, n, t, 7, 3),
                    (s, n, t, 7, 1_000),
                    (s, n, t, 1_000, 50),
                ]
            })
        {
            let mut query = ListQuery::default();
            query.status = status;
            query.name = name.map(str::to_owned);
            query.tag = tag.map(|value: Option<char>| ("k".to_owned(), value.map(String::from)));
            query.limit = limit;
            let mut shown = Vec::new();
            loop {
                let page = list_within(&conn, &mut interned, &query, looked_at_max).unwrap();
                assert!(page.tasks.len() <= limit);
                shown.extend(page.tasks.iter().map(|task| task.id));
                assert!(
                    page.next
                        .is_none_or(|next| query.before.is_none_or(|before| next < before))
                );
                query.before = page.next;
                if page.next.is_none() {
                    break;
                }
            }

            let fitting = tasks.iter().filter(|(_, its_status, its_name, its_tag)| {
                status.is_none_or(|status| status == *its_status)
                    && name.is_none_or(|name| name == *its_name)
                    && match tag {
                        None => true,
                        Some(None) => its_tag.is_some(),
                        Some(value) => value == *its_tag,
                    }
            });
            let expected: Vec<TaskId> = fitting.map(|(id, ..)| *id).collect();
            assert_eq!(shown, expected, "{query:?} looking at {looked_at_max}");
        }
    }

    #[test]
    fn a_page_with_little_to_find_is_short_and_says_where_to_go_on() {
        let conn = Connection::open_in_memory().unwrap();
        schema::migrate(&conn).unwrap();
        let tasks = filled(&conn);
        let mut query = ListQuery::default();
        query.tag = Some(("k".to_owned(), None));
        query.status = Some(TaskStatus::Success);

        let page = list_within(&conn, &mut Interned::default(), &query, 20).unwrap();

        let tagged: Vec<_> = tasks
            .iter()
            .filter(|task| task.3.is_some())
            .take(20)
            .collect();
        let n_found = tagged
            .iter()
            .filter(|task| task.1 == TaskStatus::Success)
            .count();
        assert_eq!(page.tasks.len(), n_found);
        assert_eq!(page.next, Some(tagged[19].0), "the last that was looked at");
    }
}
