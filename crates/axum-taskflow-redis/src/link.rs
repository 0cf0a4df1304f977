//! The way to the server: one script a call, each with a deadline.

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc, LazyLock, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum_taskflow_core::BackendError;
use redis::{
    Client, Cmd, ErrorKind, RedisError, RedisFuture, ServerErrorKind, Value,
    aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig, MultiplexedConnection},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    sentinel::SentinelClient,
};
use tokio::{sync::Mutex, task::JoinHandle, time::Instant};
use uuid::Uuid;

/// A Lua script. It is made of parts that stand one behind the other, and shares most of them with others. What a part
/// defines is made anew at each call, so a script has no more of them than it needs.
pub(crate) struct Script {
    alone: Code,
    in_cluster: Code,
}

struct Code {
    script: LazyLock<redis::Script>,
    text: &'static str,
}

impl Script {
    fn code(&self, is_cluster: bool) -> &Code {
        match is_cluster {
            true => &self.in_cluster,
            false => &self.alone,
        }
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.alone.script.get_hash())
    }
}

macro_rules! code {
    ($($part:literal)+) => {{
        const TEXT: &str = concat!($(include_str!(concat!("lua/", $part, ".lua"))),+);
        Code {
            script: LazyLock::new(|| redis::Script::new(TEXT)),
            text: TEXT,
        }
    }};
}

macro_rules! script {
    ($name:ident: $($part:literal)+) => {
        pub(crate) static $name: Script = Script {
            alone: code!("common" $($part)+),
            in_cluster: code!("moving" "common" $($part)+),
        };
    };
}

script!(ADD: "news" "add");
script!(AHEAD: "reading" "ahead");
script!(AUDIT: "audit");
script!(BEAT: "living" "beat");
script!(CLAIM: "living" "sums" "tasks" "reading" "claim");
script!(COUNTS: "counts");
script!(GET: "get");
script!(HELD: "held");
script!(INSTANCES: "living" "instances");
script!(JOIN: "living" "finished" "join");
script!(LEAVE: "leave");
script!(LIST: "reading" "list");
script!(LOGS: "logs");
script!(MOVE: "sums" "move");
script!(ORPHANS: "reading" "orphans");
script!(PRUNE: "sums" "tasks" "reading" "finished" "prune");
script!(PRUNE_REST: "prune_rest");
script!(RECORDS: "record" "records");
script!(SERIES: "series");
script!(STEP: "sums" "tasks" "news" "record" "words" "step" "try" "changes" "blocks" "puts" "undo" "becomes" "finish");
script!(SUPERSEDE: "living" "supersede");
script!(WRITE: "sums" "tasks" "news" "words" "try" "blocks" "moves" "changes" "notes" "puts" "undo" "finish");

/// Stands before a script that is to be done on a full server, too. Such a server fails the first write of a script if that
/// may need memory, and none behind one that needs none.
const THOUGH_FULL: &str = "redis.call('DEL', KEYS[1] .. ':none')\n";
const WRITE_THOUGH_FULL: &str =
    "redis.call('DEL', KEYS[1]) redis.call('SET', KEYS[1], '', 'EX', '60')";

/// Where the generation stands in a call that must arrive in time.
const GENERATION_AT: usize = 5;

/// After about this time a node of a cluster is asked again that was not ready.
const AGAIN_IN: Duration = Duration::from_millis(100);

/// How a server is reached.
#[derive(Clone)]
pub(crate) enum Way {
    Single(Box<Client>),
    Cluster(Box<ClusterClient>),
    /// The client asks the sentinels for the master at each connection.
    Sentinel(Arc<Mutex<SentinelClient>>),
}

impl Way {
    async fn connect(&self, deadline: Duration) -> Result<Connection, RedisError> {
        Ok(match self {
            Self::Single(client) => {
                let config = ConnectionManagerConfig::new()
                    .set_connection_timeout(Some(deadline))
                    .set_response_timeout(None) // ours counts from the call on
                    .set_number_of_retries(3)
                    .set_min_delay(Duration::from_millis(50))
                    .set_max_delay(Duration::from_secs(1));
                let manager =
                    ConnectionManager::new_with_config((**client).clone(), config).await?;
                Connection::Single(Box::new(manager))
            }
            Self::Cluster(client) => Connection::Cluster(client.get_async_connection().await?),
            Self::Sentinel(client) => {
                let mut client = client.lock().await;
                let config = redis::AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(deadline))
                    .set_response_timeout(None);
                Connection::Sentinel(client.get_async_connection_with_config(&config).await?)
            }
        })
    }
}

/// An open connection; clones share it.
#[derive(Clone)]
enum Connection {
    Single(Box<ConnectionManager>),
    Cluster(ClusterConnection),
    Sentinel(MultiplexedConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
            Self::Sentinel(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a redis::Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Sentinel(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
            Self::Sentinel(connection) => connection.get_db(),
        }
    }
}

/// A connection, and which one it is.
type Numbered = (u64, Connection);

/// A connection that is being made.
type Opening = JoinHandle<Result<Connection, RedisError>>;

/// A connection that comes back by itself.
pub(crate) struct Link {
    way: Way,
    prefix: Arc<str>,
    deadline: Duration,
    /// Replicas that must have a write before it counts.
    min_replicas: usize,
    /// A std mutex: held for one look, so that who gives up need not wait for those who still wait for a connection.
    open: std::sync::Mutex<Option<Numbered>>,
    /// An async mutex: held while a connection is made, so that one is made for all who wait. It goes on when they give
    /// up: each of them would begin anew otherwise, and leave a socket behind.
    opening: Mutex<Option<Opening>>,
    /// Connections that were made. An atomic: only ever counted.
    n_connections: AtomicU64,
    /// Names this process to the server, which refuses calls that it gave up.
    session: String,
    /// Grows when a call is given up whose end is not known. An atomic: read for each call.
    generation: AtomicU64,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("prefix", &self.prefix)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// A call of a script.
pub(crate) struct Call {
    script: &'static Script,
    cmd: Cmd,
    generation: u64,
    /// Twice does what once does: if the connection breaks, it is made again on a new one.
    may_repeat: bool,
    /// It must not arrive after others that were made since.
    in_time: bool,
    /// From when on its deadline counts.
    made: Instant,
    /// What the server needs for it beside what it needs for any.
    more_time: Duration,
    /// It writes: it counts only when the replicas have it that were asked for.
    replicated: bool,
    /// It makes no new tasks, and so a full server is to do it all the same.
    though_full: bool,
}

impl Call {
    /// It counts only when enough replicas have what it has written.
    pub(crate) fn replicated(&mut self) -> &mut Self {
        self.replicated = true;
        self
    }

    /// It goes on with what another one has begun, and has the rest of that one's time.
    pub(crate) fn made_at(&mut self, made: Instant) -> &mut Self {
        self.made = made;
        self
    }

    /// It has the deadline of any call, and so much more.
    pub(crate) fn with_more_time(&mut self, time: Duration) -> &mut Self {
        self.more_time = time;
        self
    }

    /// It is done on a full server, too. There is no way out of being full but that tasks run, end and are deleted.
    pub(crate) fn though_full(&mut self) -> &mut Self {
        self.though_full = true;
        self
    }

    /// Its answer tells something that no other answer will.
    pub(crate) fn once(&mut self) -> &mut Self {
        self.may_repeat = false;
        self
    }

    pub(crate) fn arg(&mut self, arg: impl redis::ToRedisArgs) -> &mut Self {
        self.cmd.arg(arg);
        self
    }

    /// One that must arrive in time, as if it were made at another time.
    fn at(&self, generation: u64) -> Cmd {
        let mut cmd = Cmd::with_capacity(self.cmd.args_iter().len(), 0);
        for (n, arg) in self.cmd.args_iter().enumerate() {
            match arg {
                _ if n == GENERATION_AT => cmd.arg(generation),
                redis::Arg::Simple(arg) => cmd.arg(arg),
                _ => &mut cmd, // scripts have no other
            };
        }
        cmd
    }
}

impl Link {
    pub(crate) fn new(way: Way, prefix: Arc<str>, deadline: Duration, min_replicas: usize) -> Self {
        Self {
            way,
            prefix,
            deadline,
            min_replicas,
            open: std::sync::Mutex::default(),
            opening: Mutex::default(),
            n_connections: AtomicU64::new(0),
            session: Uuid::now_v7().to_string(),
            generation: AtomicU64::new(0),
        }
    }

    /// What all keys begin with.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What names this process in its calls.
    pub(crate) fn session(&self) -> &str {
        &self.session
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.way, Way::Cluster(_))
    }

    /// A write holds up what is called after it until enough replicas have it.
    pub(crate) fn waits_for_replicas(&self) -> bool {
        self.min_replicas > 0
    }

    /// A call of a script that only reads, or that may arrive late.
    pub(crate) fn call(&self, script: &'static Script) -> Call {
        let mut cmd = redis::cmd("EVALSHA");
        let code = script.code(self.is_cluster());
        cmd.arg(code.script.get_hash()).arg(1).arg(&*self.prefix);
        Call {
            script,
            cmd,
            generation: self.generation(),
            may_repeat: true,
            in_time: false,
            made: Instant::now(),
            more_time: Duration::ZERO,
            replicated: false,
            though_full: false,
        }
    }

    /// A call of a script that must not arrive late: one that was given up changes nothing once another was made.
    pub(crate) fn call_in_time(&self, script: &'static Script) -> Call {
        let mut call = self.call(script);
        let generation = call.generation;
        call.arg(&self.session).arg(generation);
        call.in_time = true;
        call
    }

    /// Calls, and waits for the answer until the deadline, which counts from when the call was made.
    pub(crate) async fn send(&self, call: &Call) -> Result<Value, BackendError> {
        let mut unheard = Unheard {
            link: self,
            generation: None,
        };
        let (mut used, mut not_ready) = (None, None);
        let calling = async {
            let (mut cmd, mut generation, mut n_sent) =
                (Cow::Borrowed(&call.cmd), call.generation, 0);
            loop {
                let (n, mut connection) = self.connection().await?;
                used = Some(n);
                n_sent += 1;
                unheard.generation = call.in_time.then_some(generation);
                let answer = self.try_send(&mut connection, call, &cmd).await;
                match &answer {
                    Err(failure) if is_lost(failure) && call.may_repeat && n_sent == 1 => {
                        self.let_go_of(used);
                        unheard.refuse();
                    }
                    // The client looks for the right node before it sends again.
                    Err(failure) if self.is_cluster() && is_not_ready(failure) => {
                        not_ready = Some(failure.clone());
                        unheard.refuse();
                        pause().await;
                    }
                    // Another call was given up meanwhile, and so the server has not done this one.
                    Err(failure) if is_late(failure) && generation < self.generation() => {}
                    _ => return answer,
                }
                if call.in_time {
                    generation = self.generation();
                    cmd = Cow::Owned(call.at(generation));
                }
            }
        };
        let deadline = self.deadline + call.more_time;
        let failure = match tokio::time::timeout_at(call.made + deadline, calling).await {
            Ok(Ok((value, n_replicas))) => {
                unheard.generation = None;
                return match n_replicas < self.min_replicas && call.replicated {
                    true => Err(self.too_few(n_replicas)),
                    false => Ok(value),
                };
            }
            Ok(Err(failure)) => {
                let is_demoted = matches!(word(&failure), Some("READONLY" | "MASTERDOWN"));
                if self.is_answer(&failure) && !is_demoted {
                    unheard.generation = None;
                    return Err(explain(failure));
                }
                // A cluster's client finds the new master by itself. Of the others a sentinel has to be asked, or the
                // name of the server may lead elsewhere by now.
                if !self.is_cluster() {
                    self.let_go_of(used);
                }
                explain(failure)
            }
            Err(_) => {
                // The other end may be gone without a word: a new connection finds out.
                self.let_go_of(used);
                not_ready.map_or_else(|| too_late(deadline), explain)
            }
        };
        Err(failure)
    }

    /// True if the server has said this of the call, which is over then. A cluster's client tells the calls that are under
    /// way also what a node has said when it was asked for the others.
    fn is_answer(&self, failure: &RedisError) -> bool {
        let is_said = matches!(failure.kind(), ErrorKind::Server(_) | ErrorKind::Extension);
        is_said && !self.is_cluster()
    }

    /// The time of calls that are made now.
    fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// The answer, and how many replicas have what was written.
    async fn try_send(
        &self,
        connection: &mut Connection,
        call: &Call,
        cmd: &Cmd,
    ) -> Result<(Value, usize), RedisError> {
        let text = call.script.code(self.is_cluster()).text;
        let answer = match self.ask_script(connection, call, cmd).await {
            // The server was restarted, or somebody has flushed its scripts.
            Err(error) if is_unknown_script(&error) => {
                let whole = whole(text, cmd);
                self.ask_script(connection, call, &whole).await
            }
            answer => answer,
        };
        match answer {
            Err(error) if is_full(&error) && call.though_full => {
                let whole = whole(&format!("{THOUGH_FULL}{text}"), cmd);
                self.ask_script(connection, call, &whole).await
            }
            answer => answer,
        }
    }

    /// `WAIT` counts what was written on its own connection, so it goes with the script. To Redis 7.2 and Valkey only
    /// commands count that wrote: a script that is repeated on a new connection finds its work done, and writes nothing.
    /// So something is written in any case.
    async fn ask_script(
        &self,
        connection: &mut Connection,
        call: &Call,
        cmd: &Cmd,
    ) -> Result<(Value, usize), RedisError> {
        if self.min_replicas == 0 || !call.replicated {
            return Ok((ask(connection, cmd).await?, 0));
        }
        let wait = (self.deadline + call.more_time) / 4; // three times, if the script is not known and the server full
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let mut both = redis::pipe();
        both.add_command(cmd.clone());
        let written = format!("{}:wait", self.prefix);
        match call.though_full {
            true => both.cmd("EVAL").arg(WRITE_THOUGH_FULL).arg(1).arg(written),
            false => both.cmd("SET").arg(written).arg("").arg("EX").arg(60),
        };
        both.cmd("WAIT").arg(self.min_replicas).arg(wait_ms);
        let mut answers = connection
            .req_packed_commands(&both, 0, 3)
            .await?
            .into_iter();
        let mut next = || answers.next().unwrap_or(Value::Nil).extract_error();
        let (answer, _, n) = (next()?, next()?, next()?);
        Ok((answer, redis::from_redis_value(n)?))
    }

    fn too_few(&self, n: usize) -> BackendError {
        BackendError::unavailable(format!(
            "{n} replicas of Redis have the last write, and {} were asked for",
            self.min_replicas
        ))
    }

    /// The next call makes a connection of its own, unless somebody did so meanwhile.
    fn let_go_of(&self, used: Option<u64>) {
        self.open().take_if(|(n, _)| Some(*n) == used);
    }

    fn open(&self) -> MutexGuard<'_, Option<Numbered>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks something that is not a script, at the start.
    pub(crate) async fn ask(&self, cmd: &Cmd) -> Result<Value, BackendError> {
        let asking = async {
            let (_, mut connection) = self.connection().await?;
            loop {
                match ask(&mut connection, cmd).await {
                    Err(failure) if self.is_cluster() && is_not_ready(&failure) => pause().await,
                    answer => return answer,
                }
            }
        };
        match tokio::time::timeout(self.deadline, asking).await {
            Ok(answer) => answer.map_err(explain),
            Err(_) => Err(too_late(self.deadline)),
        }
    }

    async fn connection(&self) -> Result<Numbered, RedisError> {
        if let Some(connection) = &*self.open() {
            return Ok(connection.clone());
        }
        let mut opening = self.opening.lock().await;
        if let Some(connection) = &*self.open() {
            return Ok(connection.clone()); // made for somebody who was here before
        }
        let connecting = opening.get_or_insert_with(|| {
            let (way, deadline) = (self.way.clone(), self.deadline);
            tokio::spawn(async move { way.connect(deadline).await })
        });
        let opened = connecting.await;
        *opening = None;
        let connection = opened.map_err(|stopped| {
            let why = std::io::Error::other(stopped);
            RedisError::from(why) // the runtime ends
        })??;
        let numbered = (
            self.n_connections.fetch_add(1, Ordering::Relaxed),
            connection,
        );
        *self.open() = Some(numbered.clone());
        Ok(numbered)
    }

    /// Lets go of the connection.
    pub(crate) async fn close(&self) {
        self.open().take();
        if let Some(opening) = self.opening.lock().await.take() {
            opening.abort();
        }
    }
}

/// Before a node is asked again that was not ready.
async fn pause() {
    tokio::time::sleep(AGAIN_IN.mul_f64(0.5 + fastrand::f64())).await;
}

fn too_late(deadline: Duration) -> BackendError {
    BackendError::unavailable(format!("Redis did not answer within {deadline:?}"))
}

/// A call whose end is not known: what was sent may arrive, or has arrived. Also if who waited for it has left.
struct Unheard<'a> {
    link: &'a Link,
    /// Of which time the last copy is that was sent, if it must arrive in time. One that only reads does no harm, and must
    /// not make writes that are under way look late.
    generation: Option<u64>,
}

impl Unheard<'_> {
    /// From now on the server refuses what is of its time: it must not arrive after what is sent next.
    fn refuse(&self) {
        if let Some(generation) = self.generation {
            let after = generation + 1;
            self.link.generation.fetch_max(after, Ordering::SeqCst);
        }
    }
}

impl Drop for Unheard<'_> {
    fn drop(&mut self) {
        self.refuse();
    }
}

/// The answer, or the error that the server gave as one.
async fn ask(connection: &mut Connection, cmd: &Cmd) -> Result<Value, RedisError> {
    connection.req_packed_command(cmd).await?.extract_error()
}

fn is_lost(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped()
}

/// True if a node of a cluster cannot do anything yet, or no more.
fn is_not_ready(error: &RedisError) -> bool {
    let moved = ErrorKind::Server(ServerErrorKind::Moved);
    error.kind() == moved
        || error.kind() == ErrorKind::ClusterConnectionNotFound
        || matches!(
            word(error),
            Some("CLUSTERDOWN" | "TRYAGAIN" | "MASTERDOWN" | "LOADING")
        )
}

fn is_late(error: &RedisError) -> bool {
    word(error) == Some("LATE")
}

fn is_full(error: &RedisError) -> bool {
    word(error) == Some("OOM")
}

/// The call of a script by its text.
fn whole(text: &str, cmd: &Cmd) -> Cmd {
    let mut whole = redis::cmd("EVAL");
    whole.arg(text);
    for arg in cmd.args_iter().skip(2) {
        if let redis::Arg::Simple(arg) = arg {
            whole.arg(arg);
        }
    }
    whole
}

fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// Words by which a server begins its errors. Redis 6.2 wraps those that a script meets in a sentence of its own.
const WORDS: [&str; 12] = [
    "OOM",
    "READONLY",
    "MISCONF",
    "LOADING",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "MASTERDOWN",
    "NOAUTH",
    "WRONGPASS",
    "NOPERM",
    "NOREPLICAS",
    "WRONGTYPE",
];

/// The word by which the server says what is wrong.
fn word(error: &RedisError) -> Option<&str> {
    let code = error.code()?;
    let of_script = || {
        let said = error.detail().filter(|_| code == "ERR")?;
        WORDS
            .into_iter()
            .find(|word| said.split([' ', '-', ':', '\'']).any(|part| part == *word))
    };
    of_script().or(Some(code))
}

/// True if a node has sent us to where the slot goes, or a script of ours met a key that another node has: it names none
/// but those of its own slot.
fn is_on_its_way(error: &RedisError) -> bool {
    if error.kind() == ErrorKind::Server(ServerErrorKind::Ask) {
        return true;
    }
    let said = error.detail().unwrap_or_default();
    said.contains("access a non local key")
}

const LACKS_PERMISSION: &str = "the Redis user lacks a permission";

/// True if the user may call scripts, and not a command that one of them calls.
fn is_forbidden_to_scripts(error: &RedisError) -> bool {
    let said = error.detail().unwrap_or_default();
    let so = [
        "user executing the script can't run",
        "ACL failure in script",
    ]; // Redis 7.0, and later ones
    so.iter().any(|so| said.contains(so))
}

/// What went wrong, in words for the one who is woken.
pub(crate) fn explain(error: RedisError) -> BackendError {
    let hint = match word(&error) {
        Some("OOM") => "Redis is full (maxmemory), and rightly evicts nothing",
        Some("READONLY") => {
            "this Redis is a replica: a failover is under way, or the address is wrong"
        }
        Some("MISCONF") => "Redis cannot save to its disk and refuses to write",
        Some("LOADING") => "Redis is loading its data",
        Some("CLUSTERDOWN" | "TRYAGAIN") => "the Redis cluster is not ready",
        Some("MASTERDOWN") => {
            "this Redis is a replica that has lost its master: a failover is under way, or the address is wrong"
        }
        Some("NOAUTH" | "WRONGPASS") => "Redis does not accept the user or the password",
        Some("NOPERM") => LACKS_PERMISSION,
        Some("NOREPLICAS") => {
            "Redis has fewer replicas than it needs to write (min-replicas-to-write)"
        }
        Some("WRONGTYPE") => {
            "a key of the tasks is of another type than they gave it: somebody has written to it, or restored it wrongly"
        }
        Some("BUSY") => "Redis is busy with a script, perhaps of another program",
        Some("LATE") => {
            "a call that was given up arrived late, and was refused; it may have been done before"
        }
        Some("EMPTY") => {
            "all tasks in Redis are gone: somebody has flushed it, or it was replaced by an empty one"
        }
        _ if is_forbidden_to_scripts(&error) => LACKS_PERMISSION,
        _ if is_on_its_way(&error) => {
            "the keys of the tasks move to another node of the Redis cluster, and nothing is done before all are there"
        }
        _ => "Redis failed",
    };
    let failed = match is_full(&error) {
        true => BackendError::full,
        false => BackendError::unavailable,
    };
    failed(format!("{hint}: {error}")).with_source(error)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "this is test code")]
    use std::collections::BTreeSet;

    use axum_taskflow_core::{Backend, IdSource, Instance, Standing, Timestamp};
    use servers::Sentinel;

    use super::*;
    use crate::RedisOptions;

    const SCRIPTS: [&Script; 22] = [
        &ADD,
        &AHEAD,
        &AUDIT,
        &BEAT,
        &CLAIM,
        &COUNTS,
        &GET,
        &HELD,
        &INSTANCES,
        &JOIN,
        &LEAVE,
        &LIST,
        &LOGS,
        &MOVE,
        &ORPHANS,
        &PRUNE,
        &PRUNE_REST,
        &RECORDS,
        &SERIES,
        &STEP,
        &SUPERSEDE,
        &WRITE,
    ];

    /// What a part defines and another one uses has to be there: Lua would only say so where it is used.
    #[test]
    fn each_script_has_all_that_its_parts_use() {
        let called = |text: &str| -> Vec<String> {
            let code = text.lines().map(|line| line.split("--").next().unwrap());
            let calls = code.flat_map(|code| {
                let n_calls = code.matches('(').count();
                code.split('(').take(n_calls)
            });
            let names = calls.map(|before| {
                let is_other = |c: char| !c.is_alphanumeric() && c != '_';
                before.rsplit(is_other).next().unwrap().to_owned()
            });
            names.collect()
        };
        let defined = |text: &str| -> Vec<String> {
            let lines = text
                .lines()
                .filter_map(|line| line.strip_prefix("local function "));
            let names = lines.map(|line| line.split('(').next().unwrap().to_owned());
            names.collect()
        };
        let all: BTreeSet<String> = SCRIPTS
            .iter()
            .flat_map(|it| defined(it.alone.text))
            .collect();
        assert!(
            all.contains("bury_later") && all.contains("first_ids"),
            "{all:?}"
        );

        for script in SCRIPTS {
            let has = defined(script.alone.text);
            for name in called(script.alone.text) {
                assert!(
                    !all.contains(&name) || has.contains(&name),
                    "{name} in {script:?}"
                );
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_beat_waits_for_no_other_link_that_asks_the_sentinels() {
        let sentinel = tokio::task::spawn_blocking(Sentinel::start).await.unwrap();
        let options = RedisOptions::new(&sentinel.sentinel_urls()[0]);
        let options = options.sentinel(sentinel.master_name());
        let backend = options.open().await.unwrap();
        let now = Timestamp::from_unix_ms(1_795_300_000_000);
        let me = IdSource::default().instance(now);
        backend.join(Instance::new(me, now)).await.unwrap();
        let Way::Sentinel(client) = &backend.tasks.way else {
            panic!("it does not ask sentinels");
        };

        let _asks = client.lock().await;
        backend.beats.close().await; // so that it has to ask, too

        assert_eq!(backend.beat(me, now).await.unwrap(), Standing::Alive);
    }
}
