//! Tasks of axum-taskflow in Redis or Valkey: the same promises, for services on several hosts.
//!
//! Every verb is one Lua script, so every step is atomic, whatever else happens. All keys lie under one prefix and in
//! one slot of a cluster. Whether an instance lives is a key with a lifetime, which the server lets expire by its own
//! clock. Other instances hear by publish and subscribe that something waits; a lost hint costs time, never a task.
//!
//! ```no_run
//! use axum_taskflow_redis::RedisOptions;
//!
//! # async fn open() -> Result<(), axum_taskflow_core::BackendError> {
//! let backend = RedisOptions::new("redis://127.0.0.1/")
//!     .prefix("shop")
//!     .open()
//!     .await?;
//! # Ok(())
//! # }
//! ```

mod answer;
mod claim;
mod damage;
mod link;
mod news;
mod options;
mod orphans;
mod read;
mod record;
mod server;
mod trim;
mod words;
mod write;

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum_taskflow_core::{
    AheadPage, AheadQuery, AuditEntry, Backend, BackendError, BackendFuture, Batch, Claim, Claimed,
    Count, Instance, InstanceId, ListQuery, LogLine, Minute, Page, Peer, Prune, Pruned, Record,
    RecordQuery, Standing, Step, Stepped, Task, TaskId, Timestamp, Written,
};
use uuid::Uuid;

pub use self::options::RedisOptions;
use crate::{
    claim::Claims,
    damage::Damage,
    link::{BEAT, INSTANCES, JOIN, LEAVE, Link, PRUNE_REST, SUPERSEDE},
    news::News,
    orphans::Orphans,
    trim::{Old, Trimmer},
};

/// How many tasks one claim or one look for orphans brings at most: the server does nothing else meanwhile.
const TASKS_MAX: usize = 1_000;
/// How many minutes and audit entries are deleted by one call.
const REST_MAX: usize = 1_000;

/// Tasks in Redis.
pub struct Redis {
    place: String,
    tasks: Link,
    /// Of its own, and used by the thread that beats: what is slow or blocked elsewhere does not make this instance look
    /// dead.
    beats: Link,
    news: News,
    lease: Duration,
    /// Deletes finished tasks that are too many.
    trimmer: Trimmer,
    /// The instances of this process. A std mutex: held for one look.
    joined: Mutex<BTreeSet<InstanceId>>,
    claims: Claims,
    orphans: Orphans,
    damage: Damage,
    /// Nobody is told of a server that deletes keys when it is full.
    allow_eviction: bool,
    /// Who answered the last beat. A std mutex: held for one look.
    server: Mutex<Server>,
    /// An atomic: set once, read by each call.
    closed: AtomicBool,
}

/// Who answers.
#[derive(Default)]
struct Server {
    /// What the server calls its run: another one after a restart, and that of a replica which took its place.
    run: String,
    /// How often it was another one than before. It may have lost what was written last.
    changes: u64,
    /// What it does when it is full.
    policy: String,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Redis").field(&self.place).finish()
    }
}

impl Redis {
    fn is_open(&self) -> Result<(), BackendError> {
        match self.closed.load(Ordering::SeqCst) {
            false => Ok(()),
            true => Err(BackendError::unavailable("the task store is closed")),
        }
    }

    fn lease_ms(&self) -> u64 {
        u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX)
    }

    async fn join_as(&self, instance: &Instance) -> Result<(), BackendError> {
        self.is_open()?;
        let mut call = self.tasks.call(&JOIN);
        call.though_full()
            .arg(instance.id.to_string())
            .arg(record::to_json(instance)?)
            .arg(instance.started_at.as_unix_ms())
            .arg(self.lease_ms())
            .arg(format!("1 {}", Uuid::now_v7()));
        let answers = answer::list(self.tasks.send(&call).await?)?;
        let Some([meta, n_finished, run, policy]) = answer::groups::<4>(answers).next() else {
            return Err(answer::strange());
        };
        self.is_answered_by(answer::text(run)?, answer::text(policy)?);
        let meta = answer::text(meta)?;
        if !meta.starts_with("1 ") {
            return Err(BackendError::refused(format!(
                "the tasks in {} have the format {meta:?}, and this program knows 1; they are left as they are",
                self.place
            )));
        }
        self.joined
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(instance.id);
        self.trimmer
            .look_at(answer::number(n_finished)?.unsigned_abs()); // fewer may be kept than before
        Ok(())
    }

    async fn leave_as(&self, id: InstanceId) -> Result<(), BackendError> {
        let was_joined = self
            .joined
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&id);
        let mut call = self.tasks.call(&LEAVE);
        call.though_full()
            .arg(id.to_string())
            .arg(u8::from(was_joined));
        self.tasks.send(&call).await?;
        self.joined
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
        Ok(())
    }

    async fn beat_as(&self, id: InstanceId, now: Timestamp) -> Result<Standing, BackendError> {
        self.is_open()?;
        let mut call = self.beats.call(&BEAT);
        call.arg(id.to_string())
            .arg(now.as_unix_ms())
            .arg(self.lease_ms());
        let answers = answer::list(self.beats.send(&call).await?)?;
        let Some([standing, run, policy]) = answer::groups::<3>(answers).next() else {
            return Err(answer::strange());
        };
        self.is_answered_by(answer::text(run)?, answer::text(policy)?);
        match answer::number(standing)? {
            1 => Ok(Standing::Alive),
            -1 => {
                tracing::error!(
                    "all tasks in Redis are gone: somebody has flushed it, or it was replaced by an empty one"
                );
                Ok(Standing::Superseded)
            }
            _ => Ok(Standing::Superseded),
        }
    }

    fn is_answered_by(&self, run: String, policy: String) {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if server.run != run {
            server.changes += u64::from(!server.run.is_empty());
            server.run = run;
        }
        let is_news = server.policy != policy;
        let may_evict = server::evicts(&policy);
        server.policy.clone_from(&policy);
        drop(server); // who is told may take his time
        if is_news && may_evict && !self.allow_eviction {
            tracing::error!(
                policy,
                "Redis may delete tasks from now on when its memory is full: set its maxmemory-policy to noeviction"
            );
        }
    }

    async fn all_instances(&self) -> Result<Vec<Peer>, BackendError> {
        self.is_open()?;
        let answers = self.tasks.send(&self.tasks.call(&INSTANCES)).await?;
        let mut peers = Vec::new();
        for [id, instance, beat_at, alive] in answer::groups::<4>(answer::list(answers)?) {
            let (id, _) = answer::text_in_part(id)?;
            let Ok(id) = record::read_instance(&id) else {
                // Nothing is held under a name that no instance has.
                let so = "it is no instance, and goes when the dead are looked for";
                self.damage.tell("i", &id, so);
                continue;
            };
            let beat_at = Timestamp::from_unix_ms(answer::number(beat_at)?);
            let (instance, _) = answer::text_in_part(instance)?;
            let instance = record::instance(id, beat_at, &instance);
            peers.push(Peer::new(instance, beat_at, answer::number(alive)? == 1));
        }
        peers.sort_by_key(|peer| peer.instance.id);
        Ok(peers)
    }

    async fn prune_part(&self, prune: &Prune) -> Result<Pruned, BackendError> {
        self.is_open()?;
        if prune.from.is_none() {
            loop {
                let mut call = self.tasks.call(&PRUNE_REST);
                call.arg(prune.series_before.as_unix_ms())
                    .arg(format!("({}", TaskId::floor(prune.series_before)))
                    .arg(REST_MAX);
                if answer::number(self.tasks.send(&call).await?)? == 0 {
                    break;
                }
            }
        }
        let begin = match prune.from {
            Some(from) => format!("({from}").into_bytes(),
            None => {
                self.trimmer.look();
                b"-".to_vec()
            }
        };
        let mut old = Old {
            finished_before: prune.finished_before,
            failed_before: prune.failed_before,
            from: begin,
            // A task is not older than its id: what was created later cannot have finished before.
            to: format!(
                "({}",
                TaskId::floor(prune.finished_before.max(prune.failed_before))
            ),
            limit: prune.limit.min(TASKS_MAX),
            history_max: None,
        };
        let mut pruned = Pruned {
            deleted: 0,
            next: None,
        };
        loop {
            let part = trim::delete(&self.tasks, &old).await?;
            pruned.deleted += part.deleted;
            let Some(last) = part.last else {
                return Ok(pruned); // this was the end
            };
            pruned.next = str::from_utf8(&last).ok().and_then(|id| id.parse().ok());
            if pruned.next.is_some() {
                return Ok(pruned);
            }
            old.from = [b"(", &*last].concat(); // damage: it is no id, and the next part begins behind it
        }
    }
}

impl Backend for Redis {
    fn describe(&self) -> String {
        self.place.clone()
    }

    fn join(&self, instance: Instance) -> BackendFuture<'_, ()> {
        Box::pin(async move { self.join_as(&instance).await })
    }

    fn beat(&self, id: InstanceId, now: Timestamp) -> BackendFuture<'_, Standing> {
        Box::pin(self.beat_as(id, now))
    }

    fn lease(&self) -> Option<Duration> {
        Some(self.lease)
    }

    fn instances(&self) -> BackendFuture<'_, Vec<Peer>> {
        Box::pin(self.all_instances())
    }

    fn supersede(&self, id: InstanceId, seen_beat_at: Timestamp) -> BackendFuture<'_, ()> {
        Box::pin(async move {
            self.is_open()?;
            let mut call = self.tasks.call(&SUPERSEDE);
            call.though_full().arg(id.to_string());
            call.arg(seen_beat_at.as_unix_ms());
            self.tasks.send(&call).await.map(drop)
        })
    }

    fn leave(&self, id: InstanceId) -> BackendFuture<'_, ()> {
        Box::pin(async move {
            self.is_open()?;
            self.leave_as(id).await
        })
    }

    fn write(&self, batch: Arc<Batch>) -> BackendFuture<'_, Written> {
        Box::pin(async move {
            self.is_open()?;
            let written = write::write(&self.tasks, &batch, &self.damage).await?;
            if batch.changes.iter().any(|it| it.life.status.is_terminal()) {
                self.trimmer.look();
            }
            Ok(written)
        })
    }

    fn step(&self, step: Arc<Step>) -> BackendFuture<'_, Stepped> {
        Box::pin(async move {
            self.is_open()?;
            write::step(&self.tasks, &step, &self.damage).await
        })
    }

    fn records(&self, query: RecordQuery) -> BackendFuture<'_, Vec<Record>> {
        Box::pin(async move {
            self.is_open()?;
            read::records(&self.tasks, &query, &self.damage).await
        })
    }

    fn ahead(&self, query: AheadQuery) -> BackendFuture<'_, AheadPage> {
        Box::pin(async move {
            self.is_open()?;
            read::ahead(&self.tasks, &query).await
        })
    }

    fn claim(&self, claim: Claim) -> BackendFuture<'_, Claimed> {
        Box::pin(async move {
            self.is_open()?;
            self.claims.claim(&self.tasks, &claim, &self.damage).await
        })
    }

    fn orphans(&self, limit: usize) -> BackendFuture<'_, Vec<Task>> {
        Box::pin(async move {
            self.is_open()?;
            self.orphans.find(&self.tasks, limit).await
        })
    }

    fn writes_at_once(&self) -> usize {
        match self.tasks.waits_for_replicas() {
            false => 2, // one that the server works at, and one that it need not wait for
            true => 1,  // a second one would wait for the replicas of the first, too
        }
    }

    fn went_back(&self) -> u64 {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        server.changes
    }

    fn held(&self, owner: InstanceId) -> BackendFuture<'_, Vec<TaskId>> {
        Box::pin(async move {
            self.is_open()?;
            self.claims.held(&self.tasks, owner, &self.damage).await
        })
    }

    fn get(&self, id: TaskId) -> BackendFuture<'_, Option<Task>> {
        Box::pin(async move {
            self.is_open()?;
            read::get(&self.tasks, id).await
        })
    }

    fn list(&self, query: ListQuery) -> BackendFuture<'_, Page> {
        Box::pin(async move {
            self.is_open()?;
            read::list(&self.tasks, &query).await
        })
    }

    fn logs(&self, id: TaskId, skip: usize, limit: usize) -> BackendFuture<'_, Vec<LogLine>> {
        Box::pin(async move {
            self.is_open()?;
            read::logs(&self.tasks, id, skip, limit).await
        })
    }

    fn counts(&self) -> BackendFuture<'_, Vec<Count>> {
        Box::pin(async move {
            self.is_open()?;
            read::counts(&self.tasks, &self.damage).await
        })
    }

    fn series(&self, since: Timestamp) -> BackendFuture<'_, Vec<Minute>> {
        Box::pin(async move {
            self.is_open()?;
            read::series(&self.tasks, since, &self.damage).await
        })
    }

    fn audit(&self, before: Option<TaskId>, limit: usize) -> BackendFuture<'_, Vec<AuditEntry>> {
        Box::pin(async move {
            self.is_open()?;
            read::audit(&self.tasks, before, limit).await
        })
    }

    fn prune(&self, prune: Prune) -> BackendFuture<'_, Pruned> {
        Box::pin(async move { self.prune_part(&prune).await })
    }

    fn changed(&self, seen: u64) -> BackendFuture<'_, u64> {
        Box::pin(async move { Ok(self.news.since(seen).await) })
    }

    fn close(&self) -> BackendFuture<'_, ()> {
        Box::pin(async move {
            self.is_open()?;
            self.closed.store(true, Ordering::SeqCst);
            self.news.close();
            self.trimmer.stop();
            let joined =
                std::mem::take(&mut *self.joined.lock().unwrap_or_else(PoisonError::into_inner));
            let mut outcome = Ok(());
            for id in joined {
                let mut call = self.tasks.call(&LEAVE);
                call.though_full().arg(id.to_string()).arg(1);
                outcome = outcome.and(self.tasks.send(&call).await.map(drop));
            }
            self.trimmer.close().await;
            self.tasks.close().await;
            self.beats.close().await;
            outcome
        })
    }
}
