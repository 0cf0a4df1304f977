//! What a server must be before tasks are given to it.

use std::{
    collections::HashMap,
    time::{SystemTime, UNIX_EPOCH},
};

use axum_taskflow_core::BackendError;
use redis::Value;
use tracing::{info, warn};

use crate::{answer, link::Link};

/// The oldest Redis that has all commands and options that are used.
const OLDEST: (u64, u64) = (6, 2);
/// Clocks that differ by more make times on the page hard to read.
const CLOCKS_APART_MAX_MS: u128 = 5_000;
/// Lua compares text as the server's locale does, and our scripts compare ids: they have to come in the order of their
/// bytes, as in sorted sets. In Danish "aa" comes after "z", in Welsh "dd" after "df".
const COMPARES_BYTES: &str = "
    local last = ''
    for n = 0, 255 do
        local pair = string.format('%02x', n)
        if pair <= last then return 0 end
        last = pair
    end
    return 1";

/// Refuses a server that would lose tasks by itself, and warns of one that may at its end.
pub(crate) async fn check(
    link: &Link,
    as_cluster: bool,
    allow_eviction: bool,
) -> Result<(), BackendError> {
    let mut info = info(link).await?;
    // A user may not be allowed to ask, and then nothing is said of it.
    let asked = link
        .ask(redis::cmd("CONFIG").arg("GET").arg("appendfsync"))
        .await;
    if let Ok(Value::Array(words)) = asked
        && let Some([_, value]) = answer::groups::<2>(words).next()
    {
        info.insert("appendfsync".to_owned(), answer::text(value)?);
    }
    for remark in judge(&info, as_cluster, allow_eviction).map_err(BackendError::refused)? {
        match remark {
            Remark::Warning(text) => warn!("{text}"),
            Remark::Note(text) => info!("{text}"),
        }
    }
    let mut compares_bytes = redis::cmd("EVAL");
    compares_bytes.arg(COMPARES_BYTES).arg(1).arg(link.prefix());
    if answer::number(link.ask(&compares_bytes).await?)? != 1 {
        return Err(BackendError::refused(
            "Redis compares text by the rules of a language, and lists would come out of order: start it with LC_ALL=C",
        ));
    }
    warn_of_clocks(link).await
}

/// What is said of a server that can be used.
#[derive(Debug, PartialEq, Eq)]
enum Remark {
    Warning(String),
    /// It is as recommended, and all the same to be known.
    Note(String),
}

/// What there is to say of a server, or why it cannot be used.
fn judge(
    info: &HashMap<String, String>,
    as_cluster: bool,
    allow_eviction: bool,
) -> Result<Vec<Remark>, String> {
    let word = |name: &str| info.get(name).map_or("", String::as_str);
    let mut remarks = Vec::new();
    let version = word("redis_version");
    let mut numbers = version.split('.').map(|n| n.parse::<u64>().unwrap_or(0));
    let major_minor = (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    );
    if major_minor < OLDEST {
        return Err(format!(
            "this is Redis {version}; {}.{} or later is needed, or Valkey",
            OLDEST.0, OLDEST.1
        ));
    }
    match (word("cluster_enabled"), as_cluster) {
        ("1", false) => {
            return Err("this is a node of a Redis cluster: say `cluster()`".to_owned());
        }
        ("0", true) => return Err("this is no Redis cluster: leave out `cluster()`".to_owned()),
        _ => {}
    }
    let policy = word("maxmemory_policy");
    if evicts(policy) {
        let what =
            format!("Redis may delete tasks when its memory is full: maxmemory-policy is {policy}");
        if !allow_eviction {
            return Err(format!(
                "{what}; set it to noeviction, or say `allow_eviction(true)` if losing tasks is all right"
            ));
        }
        remarks.push(Remark::Warning(format!("{what}, and that was allowed")));
    }
    match (word("aof_enabled"), word("appendfsync")) {
        ("0", _) => remarks.push(Remark::Warning(
            "Redis writes no append-only file (appendonly no): when it is restarted, tasks are as they were at the last \
             snapshot, or gone"
                .to_owned(),
        )),
        ("1", "everysec") => remarks.push(Remark::Note(
            "Redis flushes its append-only file every second (appendfsync everysec): what was accepted in the last second or \
             two before its host fails may be gone"
                .to_owned(),
        )),
        ("1", "no") => remarks.push(Remark::Warning(
            "Redis leaves it to the system when its append-only file is written (appendfsync no): what was accepted in the \
             last half minute before its host fails may be gone"
                .to_owned(),
        )),
        _ => {}
    }
    Ok(remarks)
}

/// True if a server with this `maxmemory-policy` deletes keys when it is full. Nothing is known of one that does not say it.
pub(crate) fn evicts(policy: &str) -> bool {
    policy != "noeviction" && !policy.is_empty()
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
    if let Some(apart_ms) = far_apart(ours.as_millis(), theirs_ms) {
        warn!(
            apart_ms,
            "the clocks of this machine and of Redis differ: tasks run all the same, times on the page are confusing"
        );
    }
    Ok(())
}

/// By how much clocks differ, if that is much.
fn far_apart(ours_ms: u128, theirs_ms: u128) -> Option<u128> {
    let apart_ms = ours_ms.abs_diff(theirs_ms);
    (apart_ms > CLOCKS_APART_MAX_MS).then_some(apart_ms)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "this is test code")]
    use super::*;

    fn info(changed: &[(&str, &str)]) -> HashMap<String, String> {
        let good = [
            ("redis_version", "7.0.15"),
            ("cluster_enabled", "0"),
            ("maxmemory_policy", "noeviction"),
            ("aof_enabled", "1"),
            ("appendfsync", "always"),
        ];
        let all = good.iter().chain(changed);
        all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn refused(changed: &[(&str, &str)], as_cluster: bool) -> String {
        judge(&info(changed), as_cluster, false).unwrap_err()
    }

    #[test]
    fn a_server_that_keeps_everything_is_taken_without_a_word() {
        for version in ["6.2.0", "7.0.15", "7.2.4", "10.0.1"] {
            let info = info(&[("redis_version", version)]);
            assert_eq!(judge(&info, false, false), Ok(vec![]), "{version}");
        }
        let cluster = info(&[("cluster_enabled", "1")]);
        assert_eq!(judge(&cluster, true, false), Ok(vec![]));
    }

    #[test]
    fn one_that_is_too_old_is_refused() {
        for version in ["6.0.16", "5.0.7", "2.8"] {
            let why = refused(&[("redis_version", version)], false);
            assert_eq!(
                why,
                format!("this is Redis {version}; 6.2 or later is needed, or Valkey")
            );
        }
    }

    #[test]
    fn a_node_of_a_cluster_is_no_single_server_and_the_other_way_round() {
        let node = refused(&[("cluster_enabled", "1")], false);
        assert!(node.contains("say `cluster()`"), "{node}");
        let single = refused(&[], true);
        assert!(single.contains("no Redis cluster"), "{single}");
    }

    #[test]
    fn of_what_a_server_may_lose_it_is_warned_unless_it_is_as_recommended() {
        for (changed, said) in [
            ([("aof_enabled", "0")], "appendonly no"),
            ([("appendfsync", "no")], "the last half minute"),
            ([("maxmemory_policy", "allkeys-lru")], "that was allowed"),
        ] {
            let remarks = judge(&info(&changed), false, true).unwrap();
            let [Remark::Warning(warning)] = &remarks[..] else {
                panic!("{changed:?}: {remarks:?}");
            };
            assert!(warning.contains(said), "{warning}");
        }
        let recommended = [("appendfsync", "everysec")];
        let remarks = judge(&info(&recommended), false, false).unwrap();
        let [Remark::Note(note)] = &remarks[..] else {
            panic!("{remarks:?}");
        };
        assert!(note.contains("the last second"), "{note}");
    }

    #[test]
    fn clocks_may_differ_by_seconds() {
        assert_eq!(far_apart(10_000, 15_000), None);
        assert_eq!(far_apart(10_000, 15_001), Some(5_001));
        assert_eq!(far_apart(70_000, 10_000), Some(60_000));
    }
}
