//! What a task costs a Redis server, in instructions: they are no noise, and the server is where a service on Redis is slow
//! first. The server runs under `valgrind --tool=callgrind`; Redis' own clock is in the figures, a percent or so.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum_taskflow_core::{
    Backend, Batch, Change, Claim, IdSource, IdempotencyKey, Instance, InstanceId, LogLevel,
    LogLine, Note, Outcome, Prune, RetryPolicy, Said, Task, TaskStatus, Timestamp,
};
use axum_taskflow_redis::RedisOptions;
use servers::RedisServer;

use crate::workloads::{Result, argument};

/// What names the program of a server.
const SERVER: &str = "TASKFLOW_TEST_SERVER";
const MINUTE: Duration = Duration::from_secs(60);
/// Calls of each kind that are counted, after some that are not.
const CALLS: usize = 20;

/// Counts in a process of its own: the program of servers is a matter of its environment.
pub(crate) fn count() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = std::env::var(SERVER).unwrap_or_else(|_| "redis-server".to_owned());
    let script = folder.path().join("server");
    let text = format!(
        "#!/bin/sh\ncase \"$1\" in --version) exec {server} \"$@\";; esac\n\
         exec valgrind --quiet --tool=callgrind --callgrind-out-file={out} {server} \"$@\"\n",
        out = folder.path().join("out").display(),
    );
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let status = Command::new(std::env::current_exe()?)
        .args([Path::new("count"), folder.path()])
        .env(SERVER, &script)
        .status()?;
    match status.success() {
        true => Ok(()),
        false => Err("not all could be counted".into()),
    }
}

/// `count FOLDER`: what [`count`] starts.
pub(crate) fn count_here(folder: &str) -> Result<()> {
    let server = RedisServer::start();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let url = server.url();
        let counter = Counter {
            pid: server.pid(),
            folder: folder.into(),
        };
        println!("| instructions of the server for a task | |");
        println!("|---|---:|");
        for n_held in [30, 60, 100] {
            let ours = Service::open(&url, &format!("direct{n_held}")).await?;
            ours.adds_and_ends(&counter, n_held).await?;
        }
        Service::open(&url, "alone").await?.alone(&counter).await?;
        Service::open(&url, "keyed").await?.keyed(&counter).await?;
        Service::open(&url, "noted").await?.notes(&counter).await?;
        let ours = Service::open(&url, "waits").await?;
        ours.waits(&counter).await?;
        ours.deletes(&counter).await?;
        Service::open(&url, "dead").await?.orphans(&counter).await
    })
}

struct Counter {
    pid: u32,
    folder: PathBuf,
}

impl Counter {
    fn control(&self, what: &str) -> Result<()> {
        let output = Command::new("callgrind_control")
            .args([what, &self.pid.to_string()])
            .output()?;
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned().into()),
        }
    }

    /// Instructions since the last [`Counter::zero`].
    fn read(&self) -> Result<u64> {
        self.control("--dump")?;
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let is_dump = path.extension().is_some_and(|name| name != "server");
            if is_dump {
                let text = fs::read_to_string(&path)?;
                fs::remove_file(&path)?;
                let line = text.lines().find_map(|line| line.strip_prefix("summary: "));
                return Ok(line.ok_or("a dump without a sum")?.trim().parse()?);
            }
        }
        Err("no dump was written".into())
    }

    /// Says what it cost since the last [`Counter::zero`], for each of so many tasks.
    fn say(&self, what: &str, tasks: usize) -> Result<()> {
        println!("| {what} | {} |", self.read()? / tasks as u64);
        Ok(())
    }

    fn zero(&self) -> Result<()> {
        self.control("--zero")
    }
}

struct Service {
    backend: Arc<dyn Backend>,
    ids: IdSource,
    me: InstanceId,
}

fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

impl Service {
    async fn open(url: &str, prefix: &str) -> Result<Self> {
        let options = RedisOptions::new(url).prefix(prefix);
        // Under callgrind all takes fifty times as long, and nobody beats here.
        let options = options.lease(10 * MINUTE).deadline(MINUTE);
        let backend = options.open().await?;
        let ids = IdSource::default();
        let me = ids.instance(now());
        backend.join(Instance::new(me, now())).await?;
        Ok(Self {
            backend: Arc::new(backend),
            ids,
            me,
        })
    }

    fn waiting(&self, n: usize) -> Vec<Task> {
        let args: Arc<str> = format!("[{:?}]", argument()).into();
        let now = now();
        let task = |_| Task::new(self.ids.task(now), "noop", args.clone());
        (0..n).map(task).collect()
    }

    /// As those that found a free slot.
    fn begun(&self, n: usize) -> Result<Vec<Task>> {
        let mut tasks = self.waiting(n);
        for task in &mut tasks {
            task.life = Change::started(task, self.me, now())?.life;
        }
        Ok(tasks)
    }

    fn ends(tasks: &[Task]) -> Result<Vec<Change>> {
        let policy = RetryPolicy::default();
        let end = |task: &Task| -> Result<Change> {
            let mut end = Change::finished(task, Outcome::Done(None), &policy, 0.0, now())?;
            end.is_silent = true; // as the engine knows
            Ok(end)
        };
        tasks.iter().map(end).collect()
    }

    async fn write(&self, tasks: &[Task], changes: Vec<Change>) -> Result<()> {
        let mut batch = Batch::at(now());
        batch.tasks = tasks.iter().cloned().map(Arc::new).collect();
        batch.changes = changes;
        self.backend.write(Arc::new(batch)).await?;
        Ok(())
    }

    async fn claim(&self, limit: usize) -> Result<Vec<Task>> {
        let claim = Claim {
            owner: self.me,
            names: Arc::new(["noop".into()]),
            except: Arc::default(),
            limit,
            now: now(),
            reserve: None,
        };
        Ok(self.backend.claim(claim).await?.tasks)
    }

    async fn adds_and_ends(&self, counter: &Counter, n_held: usize) -> Result<()> {
        const N: usize = 20;
        self.write(&self.begun(n_held)?, Vec::new()).await?;
        let mut before = self.begun(N)?;
        self.write(&before, Vec::new()).await?;
        for call in 0..2 * CALLS {
            if call == CALLS {
                counter.zero()?;
            }
            let tasks = self.begun(N)?;
            self.write(&tasks, Self::ends(&before)?).await?;
            before = tasks;
        }
        let what = format!("added and ended, {N} at a time, by who holds {n_held} others");
        counter.say(&what, N * CALLS)
    }

    async fn alone(&self, counter: &Counter) -> Result<()> {
        let warm = self.begun(2)?;
        for task in &warm {
            self.write(std::slice::from_ref(task), Vec::new()).await?;
        }
        let tasks = self.begun(CALLS)?;
        counter.zero()?;
        for task in &tasks {
            self.write(std::slice::from_ref(task), Vec::new()).await?;
        }
        counter.say("added alone", CALLS)?;
        self.write(&[], Self::ends(&warm[..1])?).await?;
        counter.zero()?;
        for task in &tasks {
            self.write(&[], Self::ends(std::slice::from_ref(task))?)
                .await?;
        }
        counter.say("ended alone", CALLS)
    }

    async fn keyed(&self, counter: &Counter) -> Result<()> {
        const N: usize = 20;
        let mut all = Vec::new();
        for call in 0..2 * CALLS {
            if call == CALLS {
                counter.zero()?;
            }
            let mut tasks = self.begun(N)?;
            for task in &mut tasks {
                task.idempotency_key = Some(IdempotencyKey {
                    key: task.id.to_string(),
                    ttl: 60 * MINUTE,
                });
            }
            self.write(&tasks, Vec::new()).await?;
            all.push(tasks);
        }
        counter.say(
            &format!("added with an idempotency key, {N} at a time"),
            N * CALLS,
        )?;
        for (call, tasks) in all.iter().enumerate() {
            if call == CALLS {
                counter.zero()?;
            }
            self.write(&[], Self::ends(tasks)?).await?;
        }
        counter.say(&format!("ended with one, {N} at a time"), N * CALLS)
    }

    async fn notes(&self, counter: &Counter) -> Result<()> {
        const N: usize = 20;
        let tasks = self.begun(N)?;
        self.write(&tasks, Vec::new()).await?;
        for call in 0..2 * CALLS {
            if call == CALLS {
                counter.zero()?;
            }
            let mut batch = Batch::at(now());
            for task in &tasks {
                for n in 0..3 {
                    let line = LogLine {
                        seq: (3 * call + n) as u32,
                        attempt: 1,
                        at: now(),
                        level: LogLevel::Info,
                        message: "sent to a@example.org".to_owned(),
                    };
                    batch.notes.push(Note {
                        id: task.id,
                        epoch: task.life.epoch,
                        what: Said::Log(line),
                    });
                }
            }
            self.backend.write(Arc::new(batch)).await?;
        }
        counter.say(
            &format!("each of three log lines, of {N} tasks at a time"),
            3 * N * CALLS,
        )
    }

    /// All that is done for tasks that have to wait in the store.
    async fn waits(&self, counter: &Counter) -> Result<()> {
        const N: usize = 64;
        for call in 0..3 * CALLS {
            if call == 2 * CALLS {
                counter.zero()?;
            }
            self.write(&self.waiting(20), Vec::new()).await?;
        }
        counter.say("added and has to wait, 20 at a time", 20 * CALLS)?;
        for call in 0..3 * CALLS {
            if call == 2 * CALLS {
                counter.zero()?;
            }
            self.write(&self.waiting(N), Vec::new()).await?;
        }
        counter.say(&format!("added and has to wait, {N} at a time"), N * CALLS)?;
        let mut claimed = Vec::new();
        for call in 0..2 * CALLS {
            if call == CALLS {
                counter.zero()?;
            }
            claimed.push(self.claim(N).await?);
        }
        counter.say(&format!("claimed, {N} at a time"), N * CALLS)?;
        for (call, tasks) in claimed.iter().enumerate() {
            if tasks.len() != N || tasks[0].life.status != TaskStatus::Running {
                return Err("a claim brought something else".into());
            }
            if call == CALLS {
                counter.zero()?;
            }
            self.write(&[], Self::ends(tasks)?).await?;
        }
        counter.say(&format!("ended, {N} at a time"), N * CALLS)
    }

    /// The tasks that have ended by now.
    async fn deletes(&self, counter: &Counter) -> Result<()> {
        const N: usize = 100;
        let mut prune = Prune {
            finished_before: Timestamp::MAX,
            failed_before: Timestamp::MAX,
            series_before: Timestamp::default(),
            from: None,
            limit: N,
        };
        prune.from = self.backend.prune(prune).await?.next;
        counter.zero()?;
        let mut deleted = 0;
        for _ in 0..10 {
            let part = self.backend.prune(prune).await?;
            deleted += part.deleted;
            prune.from = part.next;
        }
        counter.say(&format!("deleted, {N} at a time"), deleted)
    }

    /// What belongs to somebody who is gone.
    async fn orphans(&self, counter: &Counter) -> Result<()> {
        const N: usize = 1_000;
        let dead = self.ids.instance(now());
        self.backend.join(Instance::new(dead, now())).await?;
        for _ in 0..3 * N / 500 {
            let mut tasks = self.waiting(500);
            for task in &mut tasks {
                task.life.owner = Some(dead);
            }
            self.write(&tasks, Vec::new()).await?;
        }
        self.backend.leave(dead).await?;
        for call in 0..3 {
            if call > 0 {
                counter.zero()?;
            }
            let orphans = self.backend.orphans(N).await?;
            if call > 0 {
                counter.say(
                    &format!("found with who is gone, {N} at a time"),
                    orphans.len(),
                )?;
                counter.zero()?;
            }
            let released = orphans.iter().map(Change::released);
            let released = released.collect::<std::result::Result<_, _>>()?;
            self.write(&[], released).await?;
            if call > 0 {
                counter.say(
                    &format!("taken from who is gone, {N} at a time"),
                    orphans.len(),
                )?;
            }
        }
        Ok(())
    }
}
