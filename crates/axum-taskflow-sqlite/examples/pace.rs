//! What a task costs the writer's thread: batches of new tasks, their starts and their ends, one at a time.
//!
//! `cargo run --release -p axum-taskflow-sqlite --example pace [tasks [batch]]`

use std::{error::Error, sync::Arc, time::Instant};

use axum_taskflow_core::{
    Backend, Batch, Change, Claim, Clock, IdSource, Instance, InstanceId, ListQuery, Outcome,
    Prune, RetryPolicy, Task, TaskStatus, Timestamp,
};
use axum_taskflow_sqlite::{Durability, Sqlite, SqliteOptions};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let n_tasks: usize = args.next().as_deref().unwrap_or("100000").parse()?;
    let n_batch: usize = args.next().as_deref().unwrap_or("64").parse()?;
    let folder = tempfile::tempdir_in(".")?;
    println!("{n_tasks} tasks in batches of {n_batch}");
    for durability in [Durability::Process, Durability::PowerLoss] {
        let path = folder.path().join(format!("{durability:?}.db"));
        let backend = SqliteOptions::new(&path).durability(durability).open()?;
        let bench = Bench::join(backend).await?;
        println!("{durability:?}");
        bench.owned(n_tasks, n_batch).await?;
        bench.mixed(n_tasks, n_batch).await?;
        bench.one_by_one(n_tasks / 10).await?;
        bench.unowned(n_tasks, n_batch).await?;
        println!(
            "  {:.0} bytes a task",
            std::fs::metadata(&path)?.len() as f64 / (3.1 * n_tasks as f64)
        );
        bench.pages().await?;
        bench.prune().await?;
        bench.backend.close().await?;
    }
    Ok(())
}

struct Bench {
    backend: Sqlite,
    ids: IdSource,
    me: InstanceId,
    clock: Clock,
}

/// What the writer's thread has spent so far: the clock on the wall says little on a busy machine.
fn writer_cpu_s() -> f64 {
    let spent = || -> Option<f64> {
        for thread in std::fs::read_dir("/proc/self/task").ok()? {
            let folder = thread.ok()?.path();
            if std::fs::read_to_string(folder.join("comm")).ok()?.trim() == "sqlite-writer" {
                let text = std::fs::read_to_string(folder.join("schedstat")).ok()?;
                return Some(text.split(' ').next()?.parse::<f64>().ok()? / 1e9);
            }
        }
        None
    };
    spent().unwrap_or(f64::NAN) // not on Linux
}

type Done = Result<(), Box<dyn Error>>;

impl Bench {
    async fn join(backend: Sqlite) -> Result<Self, Box<dyn Error>> {
        let ids = IdSource::default();
        let clock = Clock::system();
        let me = ids.instance(clock.now());
        let instance = Instance::new(me, clock.now());
        // A number of two digits, as after some restarts.
        for _ in 0..20 {
            let id = ids.instance(clock.now());
            backend.join(Instance::new(id, clock.now())).await?;
        }
        backend.join(instance).await?;
        Ok(Self {
            backend,
            ids,
            me,
            clock,
        })
    }

    fn task(&self, owner: Option<InstanceId>) -> Arc<Task> {
        let id = self.ids.task(self.clock.now());
        let mut task = Task::new(
            id,
            "send_email",
            r#"["somebody.somewhere@example.com, no.1"]"#,
        );
        task.life.owner = owner;
        Arc::new(task)
    }

    fn start(&self, task: &mut Arc<Task>) -> Change {
        let change = Change::started(task, self.me, self.clock.now()).expect("it is pending");
        Arc::make_mut(task).life = change.life.clone();
        change
    }

    fn finish(&self, task: &mut Arc<Task>) -> Change {
        let policy = RetryPolicy::default();
        let change = Change::finished(task, Outcome::Done(None), &policy, 0.0, self.clock.now())
            .expect("it is running");
        Arc::make_mut(task).life = change.life.clone();
        change
    }

    async fn write(&self, tasks: Vec<Arc<Task>>, changes: Vec<Change>) -> Done {
        let mut batch = Batch::at(self.clock.now());
        batch.tasks = tasks;
        batch.changes = changes;
        let n = batch.changes.len();
        let written = self.backend.write(Arc::new(batch)).await?;
        assert_eq!(
            written.changes,
            vec![axum_taskflow_core::Applied::Applied; n]
        );
        Ok(())
    }

    /// Each kind of write in batches of its own.
    async fn owned(&self, n_tasks: usize, n_batch: usize) -> Done {
        let mut spent = [0.0; 3];
        for _ in 0..n_tasks / n_batch {
            let mut tasks: Vec<_> = (0..n_batch).map(|_| self.task(Some(self.me))).collect();
            let begun = writer_cpu_s();
            self.write(tasks.clone(), vec![]).await?;
            spent[0] += writer_cpu_s() - begun;
            let changes = tasks.iter_mut().map(|task| self.start(task)).collect();
            let begun = writer_cpu_s();
            self.write(vec![], changes).await?;
            spent[1] += writer_cpu_s() - begun;
            let changes = tasks.iter_mut().map(|task| self.finish(task)).collect();
            let begun = writer_cpu_s();
            self.write(vec![], changes).await?;
            spent[2] += writer_cpu_s() - begun;
        }
        let us = spent.map(|s| s / n_tasks as f64 * 1e6);
        println!(
            "  owned: insert {:.2} + start {:.2} + finish {:.2} = {:.2} us a task",
            us[0],
            us[1],
            us[2],
            us.iter().sum::<f64>()
        );
        Ok(())
    }

    /// As in a busy engine: a batch holds inserts, starts and ends of different tasks.
    async fn mixed(&self, n_tasks: usize, n_batch: usize) -> Done {
        let n = n_batch / 3 + 1;
        let (mut waiting, mut running): (Vec<Arc<Task>>, Vec<Arc<Task>>) = (vec![], vec![]);
        let (mut spent, mut cpu, mut n_done) = (0.0, 0.0, 0);
        while n_done < n_tasks {
            let tasks: Vec<_> = (0..n).map(|_| self.task(Some(self.me))).collect();
            n_done += running.len();
            let mut changes: Vec<_> = waiting.iter_mut().map(|task| self.start(task)).collect();
            changes.extend(running.iter_mut().map(|task| self.finish(task)));
            running = std::mem::replace(&mut waiting, tasks.clone());
            let (begun, begun_cpu) = (Instant::now(), writer_cpu_s());
            self.write(tasks, changes).await?;
            spent += begun.elapsed().as_secs_f64();
            cpu += writer_cpu_s() - begun_cpu;
        }
        let us = [cpu, spent].map(|s| s / n_tasks as f64 * 1e6);
        println!(
            "  owned, mixed: {:.2} us a task, {:.2} on the wall",
            us[0], us[1]
        );
        Ok(())
    }

    async fn one_by_one(&self, n_tasks: usize) -> Done {
        let mut spent: Vec<f64> = Vec::new();
        for _ in 0..n_tasks {
            let task = self.task(Some(self.me));
            let begun = Instant::now();
            self.write(vec![task.clone()], vec![]).await?;
            spent.push(begun.elapsed().as_secs_f64() * 1e6);
            let change = Change::cancelled(&task, self.clock.now())?;
            self.write(vec![], vec![change]).await?;
        }
        spent.sort_by(f64::total_cmp);
        let at = |part: f64| spent[(spent.len() as f64 * part) as usize];
        println!(
            "  one by one: insert p50 {:.0} us, p99 {:.0} us",
            at(0.5),
            at(0.99)
        );
        Ok(())
    }

    /// All wait on disk before the first is claimed.
    async fn unowned(&self, n_tasks: usize, n_batch: usize) -> Done {
        let begun = writer_cpu_s();
        for _ in 0..n_tasks / n_batch {
            let tasks = (0..n_batch).map(|_| self.task(None)).collect();
            self.write(tasks, vec![]).await?;
        }
        let insert = writer_cpu_s() - begun;
        let (mut claim, mut rest, mut n_claimed) = (0.0, 0.0, 0);
        loop {
            let asked = Claim {
                owner: self.me,
                names: Arc::from([Arc::from("send_email")]),
                except: Arc::default(),
                limit: n_batch,
                now: self.clock.now(),
                reserve: None,
            };
            let begun = writer_cpu_s();
            let claimed = self.backend.claim(asked).await?;
            claim += writer_cpu_s() - begun;
            if claimed.tasks.is_empty() {
                break;
            }
            n_claimed += claimed.tasks.len();
            let mut tasks: Vec<_> = claimed.tasks.into_iter().map(Arc::new).collect();
            let begun = writer_cpu_s();
            let changes = tasks.iter_mut().map(|task| self.start(task)).collect();
            self.write(vec![], changes).await?;
            let changes = tasks.iter_mut().map(|task| self.finish(task)).collect();
            self.write(vec![], changes).await?;
            rest += writer_cpu_s() - begun;
        }
        let us = [insert, claim, rest].map(|s| s / n_claimed as f64 * 1e6);
        println!(
            "  unowned: insert {:.2} + claim {:.2} + start, finish {:.2} us a task ({n_claimed})",
            us[0], us[1], us[2]
        );
        Ok(())
    }

    /// Pages of a history in which there is little to find.
    async fn pages(&self) -> Done {
        let query = |status, name: Option<&str>| {
            let mut query = ListQuery::default();
            query.status = status;
            query.name = name.map(str::to_owned);
            query
        };
        for (what, query) in [
            ("all", query(None, None)),
            ("success", query(Some(TaskStatus::Success), None)),
            ("failed", query(Some(TaskStatus::Failed), None)),
            ("running", query(Some(TaskStatus::Running), None)),
            ("name", query(None, Some("send_email"))),
            (
                "name, success",
                query(Some(TaskStatus::Success), Some("send_email")),
            ),
        ] {
            let begun = Instant::now();
            let page = self.backend.list(query).await?;
            let ms = begun.elapsed().as_secs_f64() * 1e3;
            println!("  page of {what}: {} tasks in {ms:.2} ms", page.tasks.len());
        }
        Ok(())
    }

    async fn prune(&self) -> Done {
        let now = Timestamp::MAX;
        let mut prune = Prune {
            finished_before: now,
            failed_before: now,
            series_before: now,
            from: None,
            limit: 500,
        };
        let begun = writer_cpu_s();
        let mut n_deleted = 0;
        loop {
            let pruned = self.backend.prune(prune).await?;
            n_deleted += pruned.deleted;
            prune.from = pruned.next;
            if pruned.next.is_none() {
                break;
            }
        }
        let us = (writer_cpu_s() - begun) / n_deleted as f64 * 1e6;
        println!("  prune: {us:.2} us a task ({n_deleted})");
        Ok(())
    }
}
