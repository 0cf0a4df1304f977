//! What the store itself can do with the same rows: the limit of every other figure.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use rusqlite::{Connection, params};
use servers::RedisServer;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::{
    report::Figure,
    workloads::{PRODUCERS, Result},
};

/// L1: one connection, a write-ahead log, 16-byte ids, a 40-byte payload, one partial index; in transactions of 1, 64
/// and 512 rows, and by a thread that writes together what is there. Each figure has a file of its own.
pub(crate) async fn sqlite(folder: PathBuf, tasks: usize) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut n_files = 0;
    let mut table = |synchronous| {
        n_files += 1;
        Table::create(&folder.join(format!("{n_files}.db")), synchronous)
    };
    for (synchronous, suffix) in [("NORMAL", ""), ("FULL", ", FULL")] {
        for (rows, n) in [(1, tasks / 10), (64, tasks), (512, tasks)] {
            let mut table = table(synchronous)?;
            let begun = Instant::now();
            for _ in 0..n / rows {
                table.insert(rows, id_ordered)?;
            }
            let name = format!("insert in {rows}s{suffix}");
            figures.push(rate(name, n / rows * rows, begun));
        }
        for (producers, n) in [(1, tasks / 5), (PRODUCERS, tasks)] {
            let table = table(synchronous)?;
            let begun = Instant::now();
            let n = group_commit(table, producers, n).await?;
            let name = format!("bare group commit, producers: {producers}{suffix}");
            figures.push(rate(name, n, begun));
        }
    }
    for (id, suffix) in [(id_ordered as Id, ""), (id_random, ", random ids")] {
        const ROWS: usize = 512;
        let mut table = table("NORMAL")?;
        let begun = Instant::now();
        for _ in 0..tasks / ROWS {
            let first = table.n;
            table.insert(ROWS, id)?;
            table.update(first, ROWS, id)?;
        }
        let name = format!("insert in 512s, update in later 512s{suffix}");
        figures.push(rate(name, tasks / ROWS * ROWS, begun));
    }
    let (n, file) = (tasks / 50, File::create(folder.join("block"))?);
    let begun = Instant::now();
    for _ in 0..n {
        file.write_all_at(&[1; 4_096], 0)?;
        file.sync_data()?;
    }
    figures.push(Figure {
        unit: "/s".to_owned(),
        ..rate("fdatasync of a block".to_owned(), n, begun)
    });
    Ok(figures)
}

fn rate(name: String, rows: usize, begun: Instant) -> Figure {
    Figure::new(name, "rows/s", rows as f64 / begun.elapsed().as_secs_f64())
}

/// The id of the `n`th row.
type Id = fn(u128) -> [u8; 16];

fn id_ordered(n: u128) -> [u8; 16] {
    n.to_be_bytes()
}

/// Multiples of the golden ratio: spread over all ids, and no two alike.
fn id_random(n: u128) -> [u8; 16] {
    n.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)
        .to_be_bytes()
}

/// Bare rows.
struct Table {
    connection: Connection,
    payload: String,
    /// Rows so far.
    n: u128,
}

impl Table {
    fn create(path: &Path, synchronous: &str) -> Result<Self> {
        let connection = Connection::open(path)?;
        connection.execute_batch(&format!(
            "PRAGMA journal_mode = WAL;
             PRAGMA synchronous = {synchronous};
             CREATE TABLE task (
                 id BLOB PRIMARY KEY, status INTEGER NOT NULL, owner INTEGER, args TEXT NOT NULL
             ) WITHOUT ROWID;
             CREATE INDEX owned ON task (owner) WHERE owner IS NOT NULL;",
        ))?;
        Ok(Self {
            connection,
            payload: "a".repeat(40),
            n: 0,
        })
    }

    /// In one transaction.
    fn insert(&mut self, rows: usize, id: Id) -> Result<()> {
        let transaction = self.connection.transaction()?;
        {
            let mut insert = transaction
                .prepare_cached("INSERT INTO task (id, status, owner, args) VALUES (?, 0, 1, ?)")?;
            for _ in 0..rows {
                insert.execute(params![id(self.n), self.payload])?;
                self.n += 1;
            }
        }
        Ok(transaction.commit()?)
    }

    /// In one transaction: they have ended.
    fn update(&mut self, first: u128, rows: usize, id: Id) -> Result<()> {
        let transaction = self.connection.transaction()?;
        {
            let mut update = transaction
                .prepare_cached("UPDATE task SET status = 2, owner = NULL WHERE id = ?")?;
            for n in first..first + rows as u128 {
                update.execute(params![id(n)])?;
            }
        }
        Ok(transaction.commit()?)
    }
}

/// The yardstick of an add: producers await each row; a thread writes what is there, and answers after the commit.
/// Answers how many rows there are.
async fn group_commit(mut table: Table, producers: usize, n: usize) -> Result<usize> {
    const ROWS_MAX: usize = 512;
    let (sender, mut rows) = mpsc::channel::<oneshot::Sender<()>>(1_024);
    let writer = std::thread::spawn(move || {
        let mut waiting = Vec::new();
        while let Some(first) = rows.blocking_recv() {
            waiting.push(first);
            while waiting.len() < ROWS_MAX
                && let Ok(next) = rows.try_recv()
            {
                waiting.push(next);
            }
            table.insert(waiting.len(), id_ordered)?;
            for answer in waiting.drain(..) {
                // Who added waits for it.
                let _ = answer.send(());
            }
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(table.n as usize)
    });
    let mut adding = JoinSet::new();
    for _ in 0..producers {
        let sender = sender.clone();
        adding.spawn(async move {
            for _ in 0..n / producers {
                let (answer, answered) = oneshot::channel();
                sender.send(answer).await?;
                answered.await?;
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        });
    }
    drop(sender);
    while let Some(done) = adding.join_next().await {
        done??;
    }
    writer.join().map_err(|_| "the writer panicked")?
}

/// What a server says of itself under a name.
pub(crate) fn info(url: &str, name: &str) -> Result<String> {
    let output = Command::new("redis-cli")
        .args(["-u", url, "INFO", "everything"])
        .output()
        .map_err(|error| format!("redis-cli (Debian: redis-tools): {error}"))?;
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let word = line.and_then(|rest| rest.strip_prefix(':'));
    Ok(word.ok_or(format!("INFO has no {name}"))?.trim().to_owned())
}

/// Processor time that a server has taken, with its threads and children.
pub(crate) fn cpu_ms(url: &str) -> Result<f64> {
    let mut sum_s = 0.0;
    for name in [
        "used_cpu_sys",
        "used_cpu_user",
        "used_cpu_sys_children",
        "used_cpu_user_children",
    ] {
        sum_s += info(url, name)?.parse::<f64>()?;
    }
    Ok(sum_s * 1_000.0)
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
