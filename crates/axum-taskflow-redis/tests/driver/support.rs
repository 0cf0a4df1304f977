//! What the tests of the driver share: an instance with tasks, and patience.

use std::{
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use axum_taskflow_core::{
    Applied, Backend, Batch, Change, IdSource, Instance, InstanceId, Task, TaskId, Timestamp,
};
use axum_taskflow_redis::{Redis, RedisOptions};
use rustix::{
    net::getpeername,
    process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open},
};
use servers::RedisServer;

pub(crate) const NOW: Timestamp = Timestamp::from_unix_ms(1_795_300_000_000);
/// How long a test waits for what must come.
const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < DEADLINE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// For a test that is not about time: a server that has to wait for a processor is waited for, and no instance is taken for
/// dead.
pub(crate) fn patient(url: impl Into<String>) -> RedisOptions {
    let lease = Duration::from_secs(600);
    RedisOptions::new(url).deadline(DEADLINE).lease(lease)
}

/// A store with an instance that joined it.
pub(crate) struct Store {
    pub(crate) backend: Redis,
    pub(crate) me: InstanceId,
    ids: IdSource,
}

impl Store {
    pub(crate) async fn open(options: RedisOptions) -> Self {
        let backend = options.open().await.unwrap();
        let ids = IdSource::default();
        let me = ids.instance(NOW);
        backend.join(Instance::new(me, NOW)).await.unwrap();
        Self { backend, me, ids }
    }

    /// A task that waits for anybody.
    pub(crate) fn task(&self) -> Task {
        Task::new(self.ids.task(NOW), "f", "[]")
    }

    /// A task that this instance holds.
    pub(crate) fn owned(&self) -> Task {
        let mut task = self.task();
        task.life.owner = Some(self.me);
        task
    }

    pub(crate) async fn try_add(
        &self,
        task: &Task,
    ) -> Result<(), axum_taskflow_core::BackendError> {
        let mut batch = Batch::at(NOW);
        batch.tasks.push(Arc::new(task.clone()));
        self.backend.write(Arc::new(batch)).await.map(drop)
    }

    pub(crate) async fn add(&self, task: &Task) {
        self.try_add(task).await.unwrap();
    }

    pub(crate) async fn try_add_all(
        &self,
        tasks: &[Task],
    ) -> Result<(), axum_taskflow_core::BackendError> {
        let mut batch = Batch::at(NOW);
        batch.tasks = tasks.iter().cloned().map(Arc::new).collect();
        self.backend.write(Arc::new(batch)).await.map(drop)
    }

    pub(crate) async fn add_all(&self, tasks: &[Task]) {
        self.try_add_all(tasks).await.unwrap();
    }

    /// Starts the task as this instance would; true if that was stored.
    pub(crate) async fn start(&self, task: &Task) -> bool {
        let mut batch = Batch::at(NOW);
        let start = Change::started(task, self.me, NOW).unwrap();
        batch.changes.push(start);
        let written = self.backend.write(Arc::new(batch)).await.unwrap();
        written.changes == [Applied::Applied]
    }

    pub(crate) async fn is_stored(&self, id: TaskId) -> bool {
        self.backend.get(id).await.unwrap().is_some()
    }

    /// Tries until tasks can be added again; answers how long that took.
    pub(crate) async fn works_again(&self) -> Duration {
        let begun = Instant::now();
        while let Err(error) = self.try_add(&self.task()).await {
            assert!(begun.elapsed() < DEADLINE, "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        begun.elapsed()
    }
}

/// How long a server has kept a processor busy: what others do there costs it nothing.
pub(crate) fn cpu_time(server: &RedisServer) -> Duration {
    let stats = server.command(&["INFO", "cpu"]);
    let seconds = |name| {
        let (_, rest) = stats.split_once(name).unwrap();
        rest.lines().next().unwrap().trim().parse().unwrap()
    };
    Duration::from_secs_f64(seconds("used_cpu_user:"))
        + Duration::from_secs_f64(seconds("used_cpu_sys:"))
}

/// Copies of this process's sockets that lead to a port.
pub(crate) fn sockets_to(port: u16) -> Vec<OwnedFd> {
    let me = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let leads_there = |socket: &OwnedFd| {
        let peer = getpeername(socket).ok().flatten();
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        peer.is_some_and(|peer| peer.port() == port)
    };
    std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|fd| fd.unwrap().file_name().to_str().unwrap().parse().unwrap())
        // An error: it was closed meanwhile.
        .filter_map(|fd| pidfd_getfd(&me, fd, PidfdGetfdFlags::empty()).ok())
        .filter(leads_there)
        .collect()
}

/// True if something was sent to this port, and waits to be read there.
pub(crate) fn is_unread(port: u16) -> bool {
    const ESTABLISHED: &str = "01";
    let port = format!(":{port:04X}");
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    sockets.lines().skip(1).any(|socket| {
        let words: Vec<&str> = socket.split_whitespace().collect();
        let (local, state, queues) = (words[1], words[3], words[4]);
        local.ends_with(&port) && state == ESTABLISHED && !queues.ends_with(":00000000")
    })
}
