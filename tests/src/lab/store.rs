//! Where the tasks of a laboratory are kept: a file, or a server that each process reaches by a link of its own.

use std::{path::Path, time::Duration};

use axum_taskflow::{Backend, ListQuery, RedisOptions, Sqlite, Task, TaskManager};
use servers::{Proxy, RedisServer};

use super::{LabError, pulse::Pulse};

/// Where tasks are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// A file that all processes open.
    File {
        /// How long a process may be silent that lives before others take its tasks; nothing: for ever.
        takeover_after: Option<Duration>,
    },
    /// A Redis server that stores each write before it answers. An instance counts as alive for `lease`.
    Redis {
        /// From one beat on.
        lease: Duration,
    },
}

impl Store {
    /// How long an instance counts as alive that says nothing. On one machine the kernel knows who is dead, so that
    /// this is only for those that were stopped.
    #[must_use]
    pub fn lease(self) -> Option<Duration> {
        match self {
            Self::File { takeover_after } => takeover_after,
            Self::Redis { lease } => Some(lease),
        }
    }
}

/// What a service has to be told, as variables of its environment.
pub(super) type Settings = Vec<(&'static str, String)>;

/// The store while the processes run.
pub(super) enum Opened {
    File {
        takeover_after: Option<Duration>,
    },
    Redis {
        server: RedisServer,
        /// One for each process.
        links: Vec<Proxy>,
        lease: Duration,
    },
}

impl Opened {
    pub(super) fn open(store: Store, processes: usize) -> Self {
        let lease = match store {
            Store::File { takeover_after } => return Self::File { takeover_after },
            Store::Redis { lease } => lease,
        };
        let server = RedisServer::builder().append_only("always").start();
        let links = (0..processes).map(|_| Proxy::to(&server.address()));
        Self::Redis {
            links: links.collect(),
            server,
            lease,
        }
    }

    /// What the process of this number is told.
    pub(super) fn settings(&self, n: usize) -> Settings {
        match self {
            Self::File { takeover_after } => {
                let ms = takeover_after.map(|it| ("TAKEOVER_AFTER_MS", it.as_millis().to_string()));
                ms.into_iter().collect()
            }
            Self::Redis {
                server,
                links,
                lease,
            } => vec![
                ("REDIS_URL", links[n].url(&server.url())),
                ("REDIS_LEASE_MS", lease.as_millis().to_string()),
            ],
        }
    }

    /// Notes from now on when the server does not answer for so long that an instance may give up what it runs.
    pub(super) fn pulse(&self) -> Option<Pulse> {
        match self {
            Self::File { .. } => None,
            Self::Redis { server, lease, .. } => Some(Pulse::of(server, *lease / 4)),
        }
    }

    /// A manager on the store, once no process runs any more.
    pub(super) async fn manager(&self, folder: &Path) -> Result<TaskManager, LabError> {
        let builder = TaskManager::builder().collect(false);
        let builder = match self {
            Self::File { .. } => builder.sqlite(folder.join("tasks.db")),
            Self::Redis { server, .. } => builder.redis(server.url()),
        };
        Ok(builder.build().await?)
    }

    /// Everything that is stored, read without any of the processes.
    pub(super) async fn tasks(&self, folder: &Path) -> Result<Vec<Task>, LabError> {
        let backend: Box<dyn Backend> = match self {
            Self::File { .. } => Box::new(Sqlite::open(folder.join("tasks.db"))?),
            Self::Redis { server, .. } => Box::new(RedisOptions::new(server.url()).open().await?),
        };
        let mut query = ListQuery::default();
        query.limit = 10_000;
        let mut tasks = Vec::new();
        loop {
            let page = backend.list(query.clone()).await?;
            tasks.extend(page.tasks);
            query.before = page.next;
            if query.before.is_none() {
                return Ok(tasks);
            }
        }
    }
}
