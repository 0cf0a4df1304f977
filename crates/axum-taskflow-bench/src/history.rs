//! What has ended: how it is put into a store, and what it costs those that come after it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum_taskflow_core::{
    Backend, Batch, Change, IdSource, Instance, ListQuery, Outcome, RetryPolicy, Task, TaskDef,
    TaskManager, Timestamp,
};
use axum_taskflow_sqlite::Durability;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    report::{Figure, median},
    service,
    shared::Elsewhere,
    workloads::{self, FirstLine, Result, Store},
};

/// W2 and W3 with `history` finished tasks, and on new stores: in turns, three of each, and medians. And how long the
/// questions of the REST interface take with them.
pub(crate) async fn w2(
    store: Store,
    path: PathBuf,
    tasks: usize,
    history: usize,
    round: usize,
) -> Result<Vec<Figure>> {
    const TURNS: usize = 3;
    const FULL: &str = "full";
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let start = async |name: &str| -> Result<TaskManager> {
        let path = path.with_extension(name);
        let backend = workloads::open(store, &path, Durability::Process).await?;
        let mut config = workloads::config(backend);
        config.state(FirstLine(sender.clone()));
        config.tasks.push(TaskDef::new(workloads::tells_when));
        workloads::quiet(store, &path).await?;
        Ok(TaskManager::start(config).await?)
    };
    let backend = workloads::open(store, &path.with_extension(FULL), Durability::Process).await?;
    write(&backend, history).await?;
    backend.close().await?;
    // Once for nothing, so that all are measured in a process that has done it before.
    let warm = start("warm").await?;
    workloads::end_to_end(&warm, tasks, false).await?;
    warm.shutdown().await?;

    let (mut with, mut without) = (Turns::default(), Turns::default());
    let mut asked = Vec::new();
    for turn in 0..TURNS {
        let new = format!("new{turn}");
        let mut order = [&*new, FULL];
        if (round + turn).is_multiple_of(2) {
            order.reverse();
        }
        for name in order {
            let manager = start(name).await?;
            let elapsed = workloads::end_to_end(&manager, tasks, false).await?;
            let rate = workloads::added(tasks) as f64 / elapsed.as_secs_f64();
            let waits_ms = workloads::pickups_ms(&manager, &mut receiver).await?;
            match name {
                FULL => with.add(rate, &waits_ms),
                _ => without.add(rate, &waits_ms),
            }
            if name == FULL && turn + 1 == TURNS {
                let page = manager.list(ListQuery::default()).await?;
                let one = page.tasks.last().ok_or("the list is empty")?.id;
                asked = service::questions(&manager, one).await?;
            }
            manager.shutdown().await?;
        }
    }
    let (with, without) = (with.medians(), without.medians());
    let mut figures = vec![
        Figure::new("without history", "tasks/s", without.0),
        Figure::new(format!("with {history} finished"), "tasks/s", with.0),
        Figure::new("rate, with / without", "", with.0 / without.0),
        Figure::new("pickup p50 without history", "ms", without.1),
        Figure::new(format!("pickup p50 with {history} finished"), "ms", with.1),
        Figure::new("pickup p50, with / without", "", with.1 / without.1),
        Figure::new("pickup p99 without history", "ms", without.2),
        Figure::new(format!("pickup p99 with {history} finished"), "ms", with.2),
    ];
    figures.extend(asked.into_iter().map(|asked| Figure {
        name: format!("{}, {history} finished", asked.name),
        ..asked
    }));
    Ok(figures)
}

/// Rates, and times of pickup at p50 and p99 in milliseconds, turn by turn.
#[derive(Default)]
struct Turns([Vec<f64>; 3]);

impl Turns {
    fn add(&mut self, rate: f64, waits_ms: &[f64]) {
        let values = [rate, waits_ms[249], waits_ms[494]];
        for (all, value) in self.0.iter_mut().zip(values) {
            all.push(value);
        }
    }

    fn medians(&self) -> (f64, f64, f64) {
        let [rate, p50, p99] = self.0.each_ref().map(|values| median(values));
        (rate, p50, p99)
    }
}

/// W4 of what has ended: memory of a process on a store with `history` finished tasks, above one on an empty store.
pub(crate) async fn w4(
    empty: Arc<dyn Backend>,
    full: String,
    history: usize,
) -> Result<Vec<Figure>> {
    // Elsewhere: what it takes to write them is not what they take.
    let mut writes = Elsewhere::start(&["finish", &full, &history.to_string()])?;
    let mut said = writes.lines()?;
    let done = tokio::task::spawn_blocking(move || said.next());
    done.await?.ok_or("who writes the history said nothing")??;
    drop(writes);
    let resident_mb = async |backend| -> Result<f64> {
        let manager = TaskManager::start(workloads::config(backend)).await?;
        // One of everything.
        workloads::one(&manager).await?;
        manager.list(ListQuery::default()).await?;
        manager.counts().await?;
        let resident_mb = workloads::resident_mb()?;
        manager.shutdown().await?;
        Ok(resident_mb)
    };
    let empty_mb = resident_mb(empty).await?;
    let full_mb = resident_mb(workloads::open_at(&full).await?).await?;
    Ok(vec![Figure::new(
        format!("{history} finished above the empty process"),
        "MB",
        full_mb - empty_mb,
    )])
}

/// `finish PLACE TASKS`: the process that writes them.
pub(crate) fn finish(place: &str, n: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let backend = workloads::open_at(place).await?;
        write(&backend, n).await?;
        backend.close().await?;
        println!("done");
        Ok(())
    })
}

/// Finished tasks, as the engine would have left them: begun when they were added, and ended in the same write.
async fn write(backend: &Arc<dyn Backend>, n: usize) -> Result<()> {
    const STEP: usize = 500;
    let ids = IdSource::default();
    let hour = Duration::from_secs(3_600);
    let mut now = Timestamp::from(SystemTime::now()).saturating_sub(hour);
    let instance = ids.instance(now);
    backend.join(Instance::new(instance, now)).await?;
    let args: Arc<str> = format!("[{:?}]", workloads::argument()).into();
    // One is written while the next is made.
    let mut writing: Option<JoinHandle<Result<()>>> = None;
    for step in 0..n.div_ceil(STEP) {
        now = now.saturating_add(Duration::from_millis(1));
        let mut batch = Batch::at(now);
        for _ in 0..STEP.min(n - step * STEP) {
            let mut task = Task::new(ids.task(now), workloads::NOOP, args.clone());
            task.life.owner = Some(instance);
            task.life = Change::started(&task, instance, now)?.life;
            let done = Outcome::Done(None);
            let end = Change::finished(&task, done, &RetryPolicy::default(), 0.0, now)?;
            batch.tasks.push(Arc::new(task));
            batch.changes.push(end);
        }
        if let Some(before) = writing.take() {
            before.await??;
        }
        let backend = backend.clone();
        writing = Some(tokio::spawn(async move {
            backend.write(Arc::new(batch)).await?;
            Ok(())
        }));
    }
    if let Some(last) = writing {
        last.await??;
    }
    backend.leave(instance).await?;
    Ok(())
}

/// Where a store is that another process opens as well.
pub(crate) fn place(store: Store, path: &Path) -> Result<String> {
    workloads::place(store, &path.with_extension("finished"))
}
