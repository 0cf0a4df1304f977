//! Lists, single tasks and sums.

use std::{collections::BTreeMap, time::Duration};

use axum_taskflow_core::{
    AheadPage, AheadQuery, Attempt, AuditEntry, BackendError, Count, ListQuery, LogLevel, LogLine,
    Minute, Page, Record, RecordQuery, Task, TaskId, TaskStatus, Timestamp,
};
use redis::Value;
use serde::Deserialize;

use crate::{
    answer,
    damage::Damage,
    link::{AHEAD, AUDIT, COUNTS, GET, LIST, LOGS, Link, RECORDS, SERIES},
    record::{self, Stored},
};

/// How many tasks are looked at for one page: those of a filter without a set of its own may be rare.
const LOOKED_AT_MAX: usize = 10_000;
/// How many tasks one call reads at most: the server does nothing else meanwhile.
const PART_MAX: usize = 500;
/// How many bytes one call reads at most, about.
const PART_BYTES: usize = 4 * 1024 * 1024;
/// A time, a priority and an id: what the place of a task that waits for its time begins with.
const PLACE_BYTES_MIN: usize = 15 + 8 + 36;
const MILLISECOND: Duration = Duration::from_millis(1);
/// How many minutes one call reads at most, and how many fields of them, about: each function has up to eight.
const MINUTES_MAX: usize = 500;
const FIELDS_MAX: usize = 10_000;
/// How many log lines one call reads at most: they have 8 KiB each at most.
const LINES_MAX: usize = PART_BYTES / (8 * 1024);
/// Stands for what a record says that cannot be read. It is no JSON: so to the engine it is a record that cannot be read,
/// and never as if there were none. Else a second one would take what somebody holds, or run what was run.
const UNREADABLE: &str = "?";
/// How many records one call reads at most.
const RECORDS_MAX: usize = 1_000;

pub(crate) async fn get(link: &Link, id: TaskId) -> Result<Option<Task>, BackendError> {
    let mut call = link.call(&GET);
    call.arg(id.to_string()).arg(0);
    let Value::Array(parts) = link.send(&call).await? else {
        return Ok(None);
    };
    let mut parts = parts.into_iter();
    let Some([n_attempts, life, body, progress]) = answer::groups::<4>(parts.by_ref()).next()
    else {
        return Err(answer::strange());
    };
    let stored = Stored::of([Value::SimpleString(id.to_string()), life, body, progress]);
    let mut task = stored?.shown(usize::MAX)?;
    let n_attempts = usize::try_from(answer::number(n_attempts)?).unwrap_or(0);
    let mut n_known = 0;
    loop {
        n_known += parts.len();
        for attempt in parts {
            // One of a newer program is left out: the rest is shown all the same.
            let (attempt, _) = answer::text_in_part(attempt)?;
            task.past_attempts
                .extend(record::from_json::<Attempt>(&attempt));
        }
        if n_known >= n_attempts {
            return Ok(Some(task));
        }
        let mut call = link.call(&GET);
        call.arg(id.to_string()).arg(n_known).arg(n_attempts);
        parts = answer::list(link.send(&call).await?)?.into_iter();
        drop(answer::groups::<4>(parts.by_ref()).next()); // they are empty
        if parts.len() == 0 {
            return Ok(Some(task)); // it was deleted meanwhile
        }
    }
}

pub(crate) async fn list(link: &Link, query: &ListQuery) -> Result<Page, BackendError> {
    let set = set_of(query);
    let oldest = match query.after {
        Some(after) => format!("({after}"),
        None => "-".to_owned(),
    };
    let mut newest = match query.before {
        Some(before) => format!("({before}").into_bytes(),
        None => b"+".to_vec(),
    };
    let mut before = query.before;
    let mut page = Page::default();
    let mut looked_at = 0;
    let part_max = (PART_BYTES / query.payload_max.max(1)).clamp(1, PART_MAX);
    loop {
        let missing = query.limit.saturating_sub(page.tasks.len());
        if missing == 0 || looked_at >= LOOKED_AT_MAX {
            // Is there anything after it? One more look, at one task.
            let mut call = link.call(&LIST);
            call.arg(&set).arg(&newest).arg(&oldest).arg(1).arg(0);
            let (last, _) = part(link.send(&call).await?)?;
            page.next = last.and(before.or(Some(TaskId::from_bytes([0xff; 16]))));
            return Ok(page);
        }
        // With a filter more are looked at than are needed.
        let n = missing.saturating_mul(2).clamp(1, part_max);
        let mut call = link.call(&LIST);
        call.arg(&set)
            .arg(&newest)
            .arg(&oldest)
            .arg(n)
            .arg(query.payload_max.min(PART_BYTES));
        let (last, tasks) = part(link.send(&call).await?)?;
        for parts in answer::groups::<4>(tasks) {
            let Ok(task) = Stored::cut(parts)?.shown(query.payload_max) else {
                continue; // damage: without an id it is no task
            };
            before = Some(task.id);
            newest = format!("({}", task.id).into_bytes();
            if fits(&task, query) {
                page.tasks.push(task);
                if page.tasks.len() == query.limit {
                    break;
                }
            }
        }
        looked_at += n;
        if page.tasks.len() < query.limit {
            let Some(last) = last else {
                return Ok(page); // this was the end
            };
            // What is no id has its place all the same.
            before = str::from_utf8(&last)
                .ok()
                .and_then(|last| record::task_id(last).ok())
                .or(before);
            newest = [b"(", &*last].concat();
        }
    }
}

/// A part of a list as the scripts give it: where the next part begins, if there is one, and the tasks. There may be fewer
/// than were asked for: damage can leave an id in a set, and nothing else of the task.
fn part(answer: Value) -> Result<(Option<Vec<u8>>, std::vec::IntoIter<Value>), BackendError> {
    let mut values = answer::list(answer)?.into_iter();
    let last = answer::bytes(values.next().ok_or_else(answer::strange)?)?;
    Ok(((!last.is_empty()).then_some(last), values))
}

pub(crate) async fn ahead(link: &Link, query: &AheadQuery) -> Result<AheadPage, BackendError> {
    // A place begins with its time.
    let time = |at: Timestamp| format!("{:015}", at.as_unix_ms());
    let mut first = format!("[{}", time(query.after.saturating_add(MILLISECOND)));
    let until = format!("({}", time(query.before));
    if let Some(from) = &query.from {
        if from.len() < PLACE_BYTES_MIN || !from.bytes().take(15).all(|byte| byte.is_ascii_digit())
        {
            return Err(AheadQuery::is_no_place(from));
        }
        if from[..15] > first[1..] {
            first = format!("({from}");
        }
    }
    let part_max = (PART_BYTES / query.payload_max.max(1)).clamp(1, PART_MAX);
    let mut page = AheadPage::default();
    let mut n_gone = 0;
    loop {
        let missing = query.limit.saturating_sub(page.tasks.len());
        let is_over = missing == 0 || n_gone >= LOOKED_AT_MAX;
        // One more look, at one task: is there anything after it?
        let n = if is_over { 1 } else { missing.min(part_max) };
        let mut call = link.call(&AHEAD);
        call.arg(&first)
            .arg(&until)
            .arg(n)
            .arg(query.payload_max.min(PART_BYTES));
        let (last, tasks) = part(link.send(&call).await?)?;
        if is_over {
            if last.is_some() && query.limit > 0 {
                page.next = Some(first.split_off(1));
            }
            return Ok(page);
        }
        n_gone += n;
        for parts in answer::groups::<4>(tasks) {
            let Ok(task) = Stored::cut(parts)?.shown(query.payload_max) else {
                continue; // damage: without an id it is no task
            };
            page.tasks.push(task);
            n_gone -= 1;
        }
        let Some(last) = last else {
            return Ok(page); // this was the end
        };
        first = format!("({}", String::from_utf8_lossy(&last));
    }
}

/// The smallest set that holds everything the query asks for.
fn set_of(query: &ListQuery) -> String {
    if let Some(tracking_id) = &query.tracking_id {
        return format!("y:{}", record::tracking_set(tracking_id));
    }
    if let Some((key, value)) = &query.tag {
        return format!("y:{}", record::tag_sets(key, value.as_deref()));
    }
    match (query.status, &query.name) {
        (Some(status @ (TaskStatus::Pending | TaskStatus::Running)), _) => status.to_string(),
        (Some(status), _) if status != TaskStatus::Success => format!("s:{status}"),
        (_, Some(name)) => format!("f:{name}"),
        _ => "all".to_owned(),
    }
}

fn fits(task: &Task, query: &ListQuery) -> bool {
    query.status.is_none_or(|status| task.life.status == status)
        && query.name.as_deref().is_none_or(|name| *task.name == *name)
        && query.tag.as_ref().is_none_or(|(key, value)| {
            let is = task.tags.get(key);
            is.is_some_and(|is| value.as_ref().is_none_or(|value| is == value))
        })
        && query.tracking_id.as_deref().is_none_or(|wanted| {
            let is = task.tracking_id.as_deref();
            is == Some(wanted)
        })
}

pub(crate) async fn logs(
    link: &Link,
    id: TaskId,
    skip: usize,
    limit: usize,
) -> Result<Vec<LogLine>, BackendError> {
    let mut lines: Vec<LogLine> = Vec::new();
    while lines.len() < limit {
        let n = LINES_MAX.min(limit - lines.len());
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let first = number(skip.saturating_add(lines.len()));
        let mut call = link.call(&LOGS);
        call.arg(id.to_string())
            .arg(first)
            .arg(first.saturating_add(number(n - 1)));
        let part = answer::list(link.send(&call).await?)?;
        let is_end = part.len() < n;
        for line in part {
            let (line, _) = answer::text_in_part(line)?;
            // Behind ten digits each of the epoch and of the number of the line.
            let (place, json) = line.split_at_checked(20).unwrap_or(("", &line));
            let read = record::from_json(json);
            lines.push(read.unwrap_or_else(|_| line_in_part(place, json, lines.last())));
        }
        if is_end {
            break;
        }
    }
    Ok(lines)
}

/// Of a line that this program cannot read, what can be read: whoever reads a log in parts counts its lines.
fn line_in_part(place: &str, json: &str, before: Option<&LogLine>) -> LogLine {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Known {
        attempt: Option<u32>,
        at: Option<Timestamp>,
        message: Option<String>,
    }
    let known: Known = record::from_json(json).unwrap_or_default();
    let seq = place.get(10..).and_then(|digits| digits.parse().ok());
    let (attempt, at) = before.map(|line| (line.attempt, line.at)).unzip();
    LogLine {
        seq: seq.unwrap_or_default(),
        attempt: known.attempt.or(attempt).unwrap_or_default(),
        at: known.at.or(at).unwrap_or_default(),
        level: LogLevel::Info,
        message: known.message.unwrap_or_else(|| json.to_owned()),
    }
}

pub(crate) async fn counts(link: &Link, damage: &Damage) -> Result<Vec<Count>, BackendError> {
    let fields = sums("c", link.send(&link.call(&COUNTS)).await?, damage)?;
    let mut counts = Vec::new();
    for (field, n) in fields {
        let Some((status, name)) = status_and_name(&field) else {
            continue;
        };
        // A field that is below zero is not ours to explain; it is not shown.
        if let Ok(n @ 1..) = u64::try_from(n) {
            counts.push(Count {
                name: name.into(),
                status,
                n,
            });
        }
    }
    Ok(counts)
}

/// Nothing if the status is one of a newer program: the other sums are told all the same.
fn status_and_name(field: &str) -> Option<(TaskStatus, &str)> {
    let (status, name) = field.split_once(' ')?;
    Some((status.parse().ok()?, name))
}

/// A hash as the script gives it, without what is damaged.
fn sums(hash: &str, value: Value, damage: &Damage) -> Result<Vec<(String, i64)>, BackendError> {
    let mut sums = Vec::new();
    for [field, n] in answer::groups::<2>(answer::list(value)?) {
        let (field, is_text) = answer::text_in_part(field)?;
        match answer::number(n) {
            Ok(n) if is_text && field.contains(' ') => sums.push((field, n)),
            _ => damage.tell(hash, &field, "it is left out of sums"),
        }
    }
    Ok(sums)
}

pub(crate) async fn series(
    link: &Link,
    since: Timestamp,
    damage: &Damage,
) -> Result<Vec<Minute>, BackendError> {
    let mut series = Vec::new();
    let mut from = since.as_unix_ms().to_string().into_bytes();
    loop {
        let mut call = link.call(&SERIES);
        call.arg(&from).arg(MINUTES_MAX).arg(FIELDS_MAX);
        let (next, part) = part(link.send(&call).await?)?;
        for [minute, fields] in answer::groups::<2>(part) {
            let (minute, _) = answer::text_in_part(minute)?;
            let Ok(at) = record::number(&minute) else {
                damage.tell("ms", &minute, "it is left out of the series");
                continue;
            };
            let at = Timestamp::from_unix_ms(at);
            let mut ended: BTreeMap<(String, TaskStatus), (u64, u64)> = BTreeMap::new();
            for (field, n) in sums(&format!("m:{minute}"), fields, damage)? {
                let Some((kind, field)) = field.split_once(' ') else {
                    continue;
                };
                let Some((status, name)) = status_and_name(field) else {
                    continue;
                };
                let sum = ended.entry((name.to_owned(), status)).or_default();
                let n = u64::try_from(n).unwrap_or(0);
                match kind {
                    "n" => sum.0 = n,
                    _ => sum.1 = n,
                }
            }
            series.extend(ended.into_iter().map(|((name, status), (n, ms))| Minute {
                at,
                name: name.into(),
                status,
                n,
                run: Duration::from_millis(ms),
            }));
        }
        let Some(next) = next else {
            return Ok(series);
        };
        from = next;
    }
}

pub(crate) async fn audit(
    link: &Link,
    before: Option<TaskId>,
    limit: usize,
) -> Result<Vec<AuditEntry>, BackendError> {
    let newest = match before {
        Some(before) => format!("({before}"),
        None => "+".to_owned(),
    };
    let mut call = link.call(&AUDIT);
    call.arg(newest)
        .arg(i64::try_from(limit).unwrap_or(i64::MAX));
    let mut entries = Vec::new();
    for entry in answer::list(link.send(&call).await?)? {
        let (entry, _) = answer::text_in_part(entry)?;
        let Some((Ok(id), json)) = entry
            .split_at_checked(36)
            .map(|(id, json)| (id.parse(), json))
        else {
            continue; // damage: without an id it has no place among the others
        };
        let read = record::from_json(json);
        entries.push(read.unwrap_or_else(|_| entry_in_part(id, json)));
    }
    Ok(entries)
}

/// Of an entry that this program cannot read, what can be read, and all of it as its detail.
fn entry_in_part(id: TaskId, json: &str) -> AuditEntry {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Known {
        actor: String,
        action: String,
    }
    let known: Known = record::from_json(json).unwrap_or_default();
    AuditEntry {
        id,
        at: id.created_at(),
        actor: known.actor,
        action: known.action,
        task: None,
        detail: record::from_json(json).unwrap_or_else(|_| json.into()),
    }
}

pub(crate) async fn records(
    link: &Link,
    query: &RecordQuery,
    damage: &Damage,
) -> Result<Vec<Record>, BackendError> {
    let mut first = match &query.after {
        Some(after) if *after >= query.prefix => format!("({after}"),
        _ => format!("[{}", query.prefix),
    }
    .into_bytes();
    // No name holds the byte 255: it is no UTF-8.
    let last = [b"(", query.prefix.as_bytes(), b"\xff"].concat();
    let limit = query.limit.min(RECORDS_MAX);
    let mut records = Vec::new();
    while records.len() < limit {
        let mut call = link.call(&RECORDS);
        call.arg(&first).arg(&last).arg(limit - records.len());
        let (behind, part) = part(link.send(&call).await?)?;
        for [key, version, value] in answer::groups::<3>(part) {
            let (key, is_text) = answer::text_in_part(key)?;
            if !is_text {
                damage.tell("rn", &key, "nobody can ask for a record of that name");
                continue;
            }
            let value = answer::text_or_nothing(value).ok().flatten();
            if value.is_none() {
                damage.tell(
                    "r",
                    &key,
                    "what it says of a lock, a lead or a schedule stands until it is repaired or deleted",
                );
            }
            records.push(Record {
                key,
                version: answer::number(version)?.unsigned_abs(),
                value: value.as_deref().unwrap_or(UNREADABLE).into(),
            });
        }
        let Some(behind) = behind else {
            break;
        };
        first = [b"(", &*behind].concat();
    }
    Ok(records)
}
