//! What is to be reached on two cores.

use crate::workloads::{Store, Workload};

/// What a figure is judged by.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// So much of what the store itself can do: the figure of that name on the same store.
    OfLimit(f64, Workload, &'static str),
    /// Of a figure of others: ours is so many times as high.
    Times(f64),
}

use Target::{AtLeast, AtMost, OfLimit, Times};

/// What a figure of ours is to reach.
pub(crate) fn ours(workload: Workload, figure: &str, store: Store) -> Vec<Target> {
    use Store::{Memory, Redis, RedisAof, Sqlite};
    use Workload::{
        L1, L2, Orphans, W1, W2, W2Full, W2History, W2Requeue, W2Shared, W3, W3Apart, W4, W4Due,
        W4Scheduled, W6,
    };
    let begins = |text| figure.starts_with(text);
    match (workload, figure, store) {
        (W1, "one producer", Memory) => vec![AtLeast(200_000.0)],
        // 15,000 of the 16,700 that the bare loop does.
        (W1, "one producer", Sqlite) => vec![
            AtLeast(15_000.0),
            OfLimit(0.9, L1, "bare group commit, producers: 1"),
        ],
        (W1, "one producer", Redis) => {
            vec![OfLimit(0.5, L2, "EVALSHA of HSET and ZADD, one connection")]
        }
        (W1, "64 producers", Memory) => vec![AtLeast(300_000.0)],
        (W1, "64 producers", Sqlite) => {
            vec![AtLeast(100_000.0), OfLimit(0.4, L1, "insert in 64s")]
        }
        (W1, "64 producers", Redis) => vec![AtLeast(60_000.0)],
        (W1, "bulk of 1,000", Memory) => vec![AtLeast(500_000.0)],
        (W1, "bulk of 1,000", Sqlite) => {
            vec![AtLeast(180_000.0), OfLimit(0.5, L1, "insert in 512s")]
        }
        (W1, "bulk of 1,000", Redis) => vec![AtLeast(100_000.0)],
        (W2, "end to end", Memory) => vec![AtLeast(150_000.0)],
        (W2, "end to end", Sqlite) => vec![
            AtLeast(50_000.0),
            OfLimit(0.33, L1, "insert in 512s, update in later 512s"),
        ],
        (W2, "end to end", Redis) => vec![AtLeast(40_000.0)],
        (W2, "end to end", RedisAof) => vec![AtLeast(30_000.0)],
        (W2Requeue, "end to end", Sqlite) => vec![AtLeast(60_000.0)],
        (W2Requeue, "end to end", Redis) => vec![AtLeast(45_000.0)],
        (W2Full, "end to end", Sqlite) => vec![AtLeast(38_000.0)],
        (W2Shared, "ratio", Sqlite) => vec![AtLeast(0.7)],
        (W2Shared, "ratio", Redis) => vec![AtLeast(1.1)],
        (W2Shared, "longest wait of a writer", Sqlite) => vec![AtMost(50.0)],
        (W3, "pickup p50", Memory) => vec![AtMost(0.02)],
        (W3, "pickup p99", Memory) => vec![AtMost(0.2)],
        (W3, "pickup p50", Sqlite) => vec![AtMost(0.35)],
        (W3, "pickup p99", Sqlite) => vec![AtMost(2.0)],
        (W3, "pickup p50", Redis) => vec![AtMost(0.5)],
        (W3, "pickup p99", Redis) => vec![AtMost(3.0)],
        (W3Apart, "pickup p50", Sqlite) => vec![AtMost(5.0)],
        (W3Apart, "pickup p99", Sqlite) => vec![AtMost(20.0)],
        (W3Apart, "pickup p50", Redis) => vec![AtMost(1.0)],
        (W3Apart, "pickup p99", Redis) => vec![AtMost(5.0)],
        (W4, _, Memory) => vec![AtMost(60.0)],
        (W4, _, Sqlite | Redis) => vec![AtMost(10.0)],
        (W4Scheduled | W4Due, _, _) if figure.ends_with("above the empty process") => {
            vec![AtMost(60.0)]
        }
        (W4Due, "claim of 64, p99", _) => vec![AtMost(2.0)],
        (W4Due, "start with them", _) => vec![AtMost(1_000.0)],
        (W2History, "rate, with / without", _) => vec![AtLeast(0.9)],
        (W2History, "pickup p50, with / without", _) => vec![AtMost(1.1)],
        (W2History, _, _) if begins("list over HTTP") => vec![AtMost(20.0)],
        (W2History, _, _) if begins("one task over HTTP") => vec![AtMost(15.0)],
        (W2History, _, _) if begins("counts over HTTP") => vec![AtMost(1.0)],
        (W6, _, _) if begins("p99 above alone, 2,000") || begins("p99 above alone, all") => {
            vec![AtMost(1.0)]
        }
        (Orphans, _, _) if begins("all, after") => vec![AtMost(5.0)],
        _ => Vec::new(),
    }
}

/// How far we are to be ahead of others.
pub(crate) fn theirs(workload: Workload, figure: &str, who: &str) -> Vec<Target> {
    if (workload, figure) != (Workload::W2, "end to end") {
        return Vec::new();
    }
    match who {
        "effectum" => vec![Times(2.5)],
        "effectum as shipped" => vec![Times(6.0)],
        "apalis-sqlite" => vec![Times(80.0)],
        "apalis-sqlite without indexes" => vec![Times(12.0)],
        "fastapi-taskflow on SQLite" => vec![Times(30.0)],
        "apalis-redis" => vec![Times(2.5)],
        "BullMQ" => vec![Times(7.0)],
        "oxana" => vec![Times(11.0)],
        "fastapi-taskflow on Redis" => vec![Times(40.0)],
        _ => Vec::new(),
    }
}
