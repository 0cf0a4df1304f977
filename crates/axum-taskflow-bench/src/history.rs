//! What has ended: how it is put into a store, and what it costs those that come after it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum_taskflow_core::{
    Backend, Batch, Change, IdSource, Instance, ListQuery, Outcome, Prune, RetryPolicy, Task,
    TaskDef, TaskManager, Timestamp,
};
use axum_taskflow_sqlite::Durability;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    report::Figure,
    service,
    shared::Elsewhere,
    workloads::{self, FirstLine, Result, Store},
};

/// W2 and W3 with `history` finished tasks, and with as many that were deleted: so both files have grown, and the ratio
/// is what counts. Who is second in a process has an advantage, so they take turns from round to round. And how long
/// the questions of the REST interface take with them.
pub(crate) async fn w2(
    store: Store,
    path: PathBuf,
    tasks: usize,
    history: usize,
    round: usize,
) -> Result<Vec<Figure>> {
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
    for (name, is_kept) in [("empty", false), ("full", true)] {
        let path = path.with_extension(name);
        let backend = workloads::open(store, &path, Durability::Process).await?;
        write(&backend, history).await?;
        if !is_kept {
            delete(&*backend).await?;
        }
        backend.close().await?;
    }
    // Once for nothing, so that both are measured in a process that has done it before.
    let warm = start("warm").await?;
    workloads::end_to_end(&warm, tasks, false).await?;
    warm.shutdown().await?;

    let mut order = ["empty", "full"];
    if round.is_multiple_of(2) {
        order.reverse();
    }
    let (mut with, mut without, mut asked) = (None, None, Vec::new());
    for name in order {
        let manager = start(name).await?;
        let elapsed = workloads::end_to_end(&manager, tasks, false).await?;
        let rate = workloads::added(tasks) as f64 / elapsed.as_secs_f64();
        let waits_ms = workloads::pickups_ms(&manager, &mut receiver).await?;
        let measured = Some((rate, waits_ms[249], waits_ms[494]));
        if name == "full" {
            let page = manager.list(ListQuery::default()).await?;
            let one = page.tasks.last().ok_or("the list is empty")?.id;
            asked = service::questions(&manager, one).await?;
            with = measured;
        } else {
            without = measured;
        }
        manager.shutdown().await?;
    }
    let (with, without) = (with.ok_or("not run")?, without.ok_or("not run")?);
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

async fn delete(backend: &dyn Backend) -> Result<()> {
    let after_all = Timestamp::from(SystemTime::now());
    let mut prune = Prune {
        finished_before: after_all,
        failed_before: after_all,
        series_before: after_all,
        from: None,
        limit: 1_000,
    };
    loop {
        prune.from = backend.prune(prune).await?.next;
        if prune.from.is_none() {
            break;
        }
    }
    match backend.list(ListQuery::default()).await?.tasks.is_empty() {
        true => Ok(()),
        false => Err("not all of the history was deleted".into()),
    }
}

/// Where a store is that another process opens as well.
pub(crate) fn place(store: Store, path: &Path) -> Result<String> {
    workloads::place(store, &path.with_extension("finished"))
}
