//! What the store itself can do with the same rows: the limit of every other figure.

use std::{path::Path, process::Command, time::Instant};

use rusqlite::{Connection, params};
use servers::RedisServer;
use tokio::sync::mpsc;

use crate::{report::Figure, workloads::Result};

/// L1: one connection, WAL, `synchronous=NORMAL`, 16-byte ordered ids, a 40-byte payload, one partial index, in
/// transactions of 1, 64 and 512 rows.
pub(crate) fn sqlite(path: &Path, tasks: usize) -> Result<Vec<Figure>> {
    let mut connection = Connection::open(path)?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = NORMAL;
         CREATE TABLE task (id BLOB PRIMARY KEY, status INTEGER NOT NULL, owner INTEGER, args TEXT NOT NULL) WITHOUT ROWID;
         CREATE INDEX owned ON task (owner) WHERE owner IS NOT NULL;",
    )?;
    let payload = "a".repeat(40);
    let mut next: u128 = 0;
    let mut figures = Vec::new();
    for (rows, n) in [(1, tasks / 10), (64, tasks), (512, tasks)] {
        let begun = Instant::now();
        for _ in 0..n / rows {
            let transaction = connection.transaction()?;
            {
                let mut insert = transaction.prepare_cached(
                    "INSERT INTO task (id, status, owner, args) VALUES (?, 0, 1, ?)",
                )?;
                for _ in 0..rows {
                    next += 1;
                    insert.execute(params![next.to_be_bytes(), payload])?;
                }
            }
            transaction.commit()?;
        }
        let rate = n as f64 / begun.elapsed().as_secs_f64();
        figures.push(Figure::new(format!("insert in {rows}s"), "rows/s", rate));
    }
    let (rows, mut done) = (512, 0_u128);
    let begun = Instant::now();
    for _ in 0..tasks / rows {
        let transaction = connection.transaction()?;
        {
            let mut insert = transaction
                .prepare_cached("INSERT INTO task (id, status, owner, args) VALUES (?, 0, 1, ?)")?;
            let mut update = transaction
                .prepare_cached("UPDATE task SET status = 2, owner = NULL WHERE id = ?")?;
            for _ in 0..rows {
                next += 1;
                insert.execute(params![next.to_be_bytes(), payload])?;
                update.execute(params![next.to_be_bytes()])?;
                done += 1;
            }
        }
        transaction.commit()?;
    }
    let rate = done as f64 / begun.elapsed().as_secs_f64();
    figures.push(Figure::new("insert + update in 512s", "rows/s", rate));
    Ok(figures)
}

/// L2: what `redis-benchmark` measures: one connection, and many, with one command at a time and with 64 at once.
pub(crate) fn redis(server: &RedisServer, tasks: usize) -> Result<Vec<Figure>> {
    const SCRIPT: &str =
        "redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]); redis.call('ZADD', KEYS[2], 1, ARGV[1])";
    const CONNECTIONS: usize = 50;
    let payload = "a".repeat(40);
    let sha = server.command(&["SCRIPT", "LOAD", SCRIPT]);
    let sha = sha.trim().trim_matches('"');
    let commands: [(&str, &[&str]); 3] = [
        ("SET", &["SET", "key:__rand_int__", &payload]),
        ("HSET", &["HSET", "hash", "field:__rand_int__", &payload]),
        (
            "EVALSHA of HSET and ZADD",
            &[
                "EVALSHA",
                sha,
                "2",
                "task",
                "due",
                "id:__rand_int__",
                &payload,
            ],
        ),
    ];
    let mut figures = Vec::new();
    for (name, command) in commands {
        // One connection is what one who awaits each answer can be compared with.
        for (connections, at_once, n) in [
            (1, 1, tasks / 5),
            (CONNECTIONS, 1, tasks / 2),
            (CONNECTIONS, 64, tasks * 4),
        ] {
            let output = Command::new("redis-benchmark")
                .args(["-p", &server.port().to_string(), "-n", &n.to_string()])
                .args(["-c", &connections.to_string()])
                .args(["-P", &at_once.to_string(), "-r", "1000000", "--csv"])
                .args(command)
                .output()
                .map_err(|error| format!("redis-benchmark (Debian: redis-tools): {error}"))?;
            // "name","requests per second","average latency",…
            let text = String::from_utf8(output.stdout)?;
            let last = text.lines().last().unwrap_or_default();
            let rate = last
                .rsplit("\",\"")
                .nth(6)
                .and_then(|rate| rate.parse().ok());
            let rate = rate.ok_or_else(|| format!("no rate in {text:?}"))?;
            figures.push(Figure::new(
                match connections {
                    1 => format!("{name}, one connection"),
                    _ => format!("{name}, {at_once} at once"),
                },
                "/s",
                rate,
            ));
        }
    }
    Ok(figures)
}

/// L3: tasks of the runtime, and messages over a bounded channel.
pub(crate) async fn tokio(tasks: usize) -> Result<Vec<Figure>> {
    let begun = Instant::now();
    let spawned = tokio::spawn(async move {
        let mut all = Vec::with_capacity(1_000);
        for _ in 0..tasks / 1_000 {
            all.extend((0..1_000).map(|_| tokio::spawn(async {})));
            for one in all.drain(..) {
                one.await?;
            }
        }
        Ok::<_, tokio::task::JoinError>(())
    });
    spawned.await??;
    let spawn = tasks as f64 / begun.elapsed().as_secs_f64();
    let (sender, mut receiver) = mpsc::channel(1_024);
    let n = tasks * 10;
    let begun = Instant::now();
    let sending = tokio::spawn(async move {
        for i in 0..n {
            // The receiver counts to the end.
            let _ = sender.send(i).await;
        }
    });
    let receiving = tokio::spawn(async move { while receiver.recv().await.is_some() {} });
    sending.await?;
    receiving.await?;
    let mpsc = n as f64 / begun.elapsed().as_secs_f64();
    Ok(vec![
        Figure::new("spawn and join", "/s", spawn),
        Figure::new("messages over mpsc", "/s", mpsc),
    ])
}
