//! What a server must be before tasks are given to it.

use std::{
    collections::HashMap,
    time::{SystemTime, UNIX_EPOCH},
};

use axum_taskflow_core::BackendError;
use redis::Value;
use tracing::warn;

use crate::{answer, link::Link};

/// The oldest Redis that has all commands and options that are used.
const OLDEST: (u64, u64) = (6, 2);
/// Clocks that differ by more make times on the page hard to read.
const CLOCKS_APART_MAX_MS: u128 = 5_000;

/// Refuses a server that would lose tasks by itself, and warns of one that may at its end.
pub(crate) async fn check(link: &Link, allow_eviction: bool) -> Result<(), BackendError> {
    let info = info(link).await?;
    let word = |name: &str| info.get(name).map_or("", String::as_str);
    let version = word("redis_version");
    let mut numbers = version.split('.').map(|n| n.parse::<u64>().unwrap_or(0));
    let major_minor = (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    );
    if major_minor < OLDEST {
        return Err(BackendError::refused(format!(
            "this is Redis {version}; {}.{} or later is needed, or Valkey",
            OLDEST.0, OLDEST.1
        )));
    }
    let policy = word("maxmemory_policy");
    if policy != "noeviction" && !policy.is_empty() {
        let what =
            format!("Redis may delete tasks when its memory is full: maxmemory-policy is {policy}");
        if !allow_eviction {
            return Err(BackendError::refused(format!(
                "{what}; set it to noeviction, or say `allow_eviction(true)` if losing tasks is all right"
            )));
        }
        warn!("{what}, and that was allowed");
    }
    if word("aof_enabled") == "0" {
        warn!(
            "Redis writes no append-only file (appendonly no): when it is restarted, tasks are as they were at the last \
             snapshot, or gone"
        );
    }
    warn_of_clocks(link).await
}

async fn info(link: &Link) -> Result<HashMap<String, String>, BackendError> {
    let text = match link.ask(&redis::cmd("INFO")).await? {
        // A cluster answers for each node; they are alike in what is asked here.
        Value::Map(mut nodes) => match nodes.pop() {
            Some((_, value)) => value,
            None => Value::Nil,
        },
        value => value,
    };
    let text = match text {
        Value::VerbatimString { text, .. } => text,
        value => answer::text(value)?,
    };
    let words = text.lines().filter_map(|line| line.split_once(':'));
    Ok(words
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect())
}

async fn warn_of_clocks(link: &Link) -> Result<(), BackendError> {
    let Ok(Value::Array(time)) = link.ask(&redis::cmd("TIME")).await else {
        return Ok(()); // the nodes of a cluster, or a user without the permission: it is only a warning
    };
    let Some([seconds, _]) = answer::groups::<2>(time).next() else {
        return Ok(());
    };
    let theirs_ms = u128::try_from(answer::number(seconds)?).unwrap_or(0) * 1_000;
    let ours = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let apart_ms = ours.as_millis().abs_diff(theirs_ms);
    if apart_ms > CLOCKS_APART_MAX_MS {
        warn!(
            apart_ms,
            "the clocks of this machine and of Redis differ: tasks run all the same, times on the page are confusing"
        );
    }
    Ok(())
}
