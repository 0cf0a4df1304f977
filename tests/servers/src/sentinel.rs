//! A master and its replica, watched by three sentinels.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    HOST, RedisServer, ServerBuilder, certificate,
    replica::{is_in_step, replication},
    server::version,
    wait::until,
};

/// How long the sentinels may take to agree, after the start or a failover.
const DEADLINE: Duration = Duration::from_secs(30);

/// The name of what the sentinels watch.
const NAME: &str = "taskflow";

const N_SENTINELS: usize = 3;

/// Sentinels look at servers every ten seconds and tell of themselves every two. In milliseconds, tests do not wait so
/// long. They forget it when they restart, and those of Redis 6.2 do not let themselves be told.
const HASTE: &[&str] = &[
    "SENTINEL",
    "DEBUG",
    "INFO-PERIOD",
    "500",
    "PUBLISH-PERIOD",
    "200",
];

/// A master, a replica and three sentinels, two of which must agree that the master is dead. All are killed when this
/// is dropped.
pub struct Sentinel {
    sentinels: Vec<RedisServer>,
    servers: Vec<RedisServer>,
}

impl Sentinel {
    /// Starts all five, and waits until the sentinels know each other, the master and the replica.
    ///
    /// # Panics
    ///
    /// If that takes more than thirty seconds.
    pub fn start() -> Self {
        Self::start_with(RedisServer::builder())
    }

    /// As [`start`](Self::start), with settings for the master and the replica. Passwords and TLS are not among them:
    /// the servers and the sentinels would also need them for each other.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    pub fn start_with(server: ServerBuilder) -> Self {
        let master = server.clone().start();
        let replica = server
            .setting("replicaof", &format!("{HOST} {}", master.port()))
            .start();
        // The sentinels ask the master for its replicas at once, and then only now and then.
        until(DEADLINE, || is_in_step(&replica, &master))
            .unwrap_or_else(|missing| panic!("there is no replica: {missing}"));

        let sentinel = RedisServer::builder()
            .sentinel()
            .setting(
                "sentinel monitor",
                &format!("{NAME} {HOST} {} 2", master.port()),
            )
            .setting("sentinel down-after-milliseconds", &format!("{NAME} 1000"))
            // A sentinel that was outvoted tries again after twice this time.
            .setting("sentinel failover-timeout", &format!("{NAME} 3000"));
        let sentinel = Self {
            sentinels: (0..N_SENTINELS).map(|_| sentinel.clone().start()).collect(),
            servers: vec![master, replica],
        };
        if version() >= (7, 0) {
            for one in &sentinel.sentinels {
                one.command(HASTE);
            }
        }
        sentinel.wait_ok();
        sentinel
    }

    /// A master without a replica and one sentinel. Both speak TLS and nothing else, and each has a password of its own.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    pub fn start_guarded(password: &str, password_of_sentinel: &str) -> Self {
        let master = RedisServer::builder().tls().password(password).start();
        let certificate = master.folder().join(certificate::CERTIFICATE);
        let sentinel = RedisServer::builder()
            .sentinel()
            .tls()
            .password(password_of_sentinel)
            .setting("tls-replication", "yes") // how it speaks to the master
            .setting("tls-ca-cert-file", &certificate.to_string_lossy())
            .setting(
                "sentinel monitor",
                &format!("{NAME} {HOST} {} 1", master.port()),
            )
            .setting("sentinel auth-pass", &format!("{NAME} {password}"))
            .start();
        let sentinel = Self {
            sentinels: vec![sentinel],
            servers: vec![master],
        };
        sentinel.wait_ok();
        sentinel
    }

    /// The URLs of the sentinels, also of those that are dead.
    pub fn sentinel_urls(&self) -> Vec<String> {
        self.sentinels.iter().map(RedisServer::url).collect()
    }

    /// The name under which clients ask the sentinels for the master.
    pub fn master_name(&self) -> &'static str {
        NAME
    }

    /// The sentinels.
    pub fn sentinels(&self) -> &[RedisServer] {
        &self.sentinels
    }

    /// The two servers, whatever they are now.
    pub fn servers(&self) -> &[RedisServer] {
        &self.servers
    }

    /// The master that the sentinels name, dead or alive.
    ///
    /// # Panics
    ///
    /// If no sentinel answers.
    pub fn master(&self) -> &RedisServer {
        let mut named = self
            .running_sentinels()
            .map(|sentinel| self.named(sentinel));
        let first = named.find_map(Result::ok);
        first.expect("a sentinel answers")
    }

    /// Kills the master that the sentinels name, and returns it, so that it can be restarted.
    ///
    /// # Panics
    ///
    /// If no sentinel answers.
    pub fn kill_master(&self) -> &RedisServer {
        let master = self.master();
        master.kill();
        master
    }

    /// Waits until all running sentinels name the same running master, and until the other server, if it runs, is its
    /// replica and has all that it has. After a kill: until the failover is done.
    ///
    /// # Panics
    ///
    /// If it takes more than thirty seconds.
    pub fn wait_ok(&self) {
        until(DEADLINE, || self.check())
            .unwrap_or_else(|missing| panic!("the sentinels do not agree: {missing}"));
    }

    /// What is missing.
    fn check(&self) -> Result<(), String> {
        let n_others = self.running_sentinels().count().saturating_sub(1);
        let mut agreed = None;
        for sentinel in self.running_sentinels() {
            let port = sentinel.port();
            let master = self.named(sentinel)?;
            if *agreed.get_or_insert(master.port()) != master.port() {
                return Err(format!("sentinel {port} names another master"));
            }
            let seen = records(&sentinel.ask(&["SENTINEL", "MASTER", NAME])?);
            if seen.first().is_none_or(|seen| seen["flags"] != "master") {
                return Err(format!("the master is not well for sentinel {port}"));
            }
            let others = records(&sentinel.ask(&["SENTINEL", "SENTINELS", NAME])?);
            // What one of them said of the master before stays in the memory of Valkey's.
            let is_well = |flag| ["sentinel", "master_down"].contains(&flag);
            let n_well = others
                .iter()
                .filter(|seen| seen["flags"].split(',').all(is_well));
            if n_well.count() < n_others {
                let flags: Vec<_> = others.iter().map(|seen| &seen["flags"]).collect();
                return Err(format!("for sentinel {port} the others are {flags:?}"));
            }
            let replicas = records(&sentinel.ask(&["SENTINEL", "REPLICAS", NAME])?);
            for replica in self.replicas_of(master) {
                let own = replica.port().to_string();
                let is_well = |seen: &Record| seen["port"] == own && seen["flags"] == "slave";
                if !replicas.iter().any(is_well) {
                    return Err(format!("sentinel {port} does not know the replica"));
                }
            }
        }

        let master = self.master();
        if replication(master)?
            .get("role")
            .is_none_or(|role| role != "master")
        {
            return Err(format!("{} is not yet a master", master.port()));
        }
        self.replicas_of(master)
            .try_for_each(|replica| is_in_step(replica, master))
    }

    /// The running master that a sentinel names.
    fn named(&self, sentinel: &RedisServer) -> Result<&RedisServer, String> {
        let address = sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME])?;
        let (_, port) = address.split_once('\n').unwrap_or_default();
        let mut servers = self.servers.iter();
        servers
            .find(|server| server.port().to_string() == port)
            .ok_or_else(|| format!("sentinel {} names {address:?}", sentinel.port()))
    }

    fn running_sentinels(&self) -> impl Iterator<Item = &RedisServer> {
        self.sentinels
            .iter()
            .filter(|sentinel| sentinel.is_running())
    }

    fn replicas_of(&self, master: &RedisServer) -> impl Iterator<Item = &RedisServer> {
        let port = master.port();
        self.servers
            .iter()
            .filter(move |server| server.port() != port && server.is_running())
    }
}

type Record = BTreeMap<String, String>;

/// What sentinels say of others: a name and a value in turn, where each record begins with the name "name".
fn records(text: &str) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    let mut lines = text.split('\n');
    while let (Some(name), Some(value)) = (lines.next(), lines.next()) {
        if name == "name" {
            records.push(Record::new());
        }
        if let Some(record) = records.last_mut() {
            record.insert(name.to_owned(), value.to_owned());
        }
    }
    records
}
