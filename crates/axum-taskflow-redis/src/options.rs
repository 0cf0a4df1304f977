//! Where Redis is, and how tasks are kept there.

use std::{
    fmt,
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use axum_taskflow_core::BackendError;
use redis::{
    Client, ConnectionAddr, IntoConnectionInfo, TlsCertificates, TlsMode,
    cluster::ClusterClient,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
    sentinel::{self, SentinelClientBuilder},
};

use crate::{
    Redis,
    claim::Claims,
    damage::Damage,
    link::{Link, Way},
    news::{News, Source},
    orphans::Orphans,
    server,
    trim::Trimmer,
    words,
};

/// How tasks are kept in Redis.
#[derive(Clone)]
pub struct RedisOptions {
    urls: Vec<String>,
    sentinel: Option<String>,
    sentinel_user: Option<(String, String)>,
    sentinel_tls: Option<bool>,
    cluster: bool,
    prefix: String,
    lease: Duration,
    deadline: Duration,
    min_replicas: usize,
    allow_eviction: bool,
    history_max: u64,
    root_certificate: Option<String>,
}

impl fmt::Debug for RedisOptions {
    /// Without passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions")
            .field("place", &self.place())
            .field("lease", &self.lease)
            .field("deadline", &self.deadline)
            .field("min_replicas", &self.min_replicas)
            .finish_non_exhaustive()
    }
}

impl RedisOptions {
    /// The server at `url`: `redis://[user:password@]host[:port][/db]`, or `rediss://` with TLS.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            urls: vec![url.into()],
            sentinel: None,
            sentinel_user: None,
            sentinel_tls: None,
            cluster: false,
            prefix: "taskflow".to_owned(),
            lease: Duration::from_secs(10),
            deadline: Duration::from_secs(2),
            min_replicas: 0,
            allow_eviction: false,
            history_max: 1_000_000,
            root_certificate: None,
        }
    }

    /// One more node of the cluster, or one more sentinel, to begin with.
    #[must_use]
    pub fn node(mut self, url: impl Into<String>) -> Self {
        self.urls.push(url.into());
        self
    }

    /// The server is a Redis Cluster, and the urls are some of its nodes.
    #[must_use]
    pub fn cluster(mut self) -> Self {
        self.cluster = true;
        self
    }

    /// The urls are those of sentinels; they know the server by this name. User, password and database of the first url
    /// are those of the server.
    #[must_use]
    pub fn sentinel(mut self, master_name: impl Into<String>) -> Self {
        self.sentinel = Some(master_name.into());
        self
    }

    /// How the sentinels want to be asked, if not by anybody: a password without a user is that of the user `default`.
    #[must_use]
    pub fn sentinel_user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.sentinel_user = Some((name.into(), password.into()));
        self
    }

    /// Whether the sentinels speak TLS, if that is not as their urls say. The first url says whether the server does.
    #[must_use]
    pub fn sentinel_tls(mut self, speak: bool) -> Self {
        self.sentinel_tls = Some(speak);
        self
    }

    /// What all keys begin with, in braces; `taskflow` if nothing is said. Applications that share a server need one
    /// each.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long an instance counts as alive that says nothing; ten seconds if nothing is said, at least one.
    ///
    /// Tasks of a dead instance are taken over after that time. An instance that cannot reach the server stops its
    /// tasks shortly before.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How long the server may take for one answer; two seconds if nothing is said. A bulk may take 0.1 ms longer for
    /// each task beyond the first thousand, and ten seconds longer at most.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How many replicas must have a write before it counts; none if nothing is said. See `WAIT` in the manual of Redis
    /// for what that does not promise.
    #[must_use]
    pub fn min_replicas(mut self, n: usize) -> Self {
        self.min_replicas = n;
        self
    }

    /// Takes a server that deletes keys when its memory is full, and tasks with them.
    #[must_use]
    pub fn allow_eviction(mut self, allow: bool) -> Self {
        self.allow_eviction = allow;
        self
    }

    /// Trusts what this certificate has signed, in PEM, and nothing else; for `rediss://`. Unless it is said, the
    /// certificates of the system are trusted.
    #[must_use]
    pub fn root_certificate(mut self, pem: impl Into<String>) -> Self {
        self.root_certificate = Some(pem.into());
        self
    }

    /// How many finished tasks are kept at most, since the server holds them in memory; a million if nothing is said. The
    /// oldest go first, also those that are younger than the manager's retention.
    #[must_use]
    pub fn history_max(mut self, n: u64) -> Self {
        self.history_max = n;
        self
    }

    /// Connects, and looks whether the server can be trusted with tasks.
    ///
    /// # Errors
    /// If an option cannot be used, the server cannot be reached, is too old, or evicts keys.
    pub async fn open(self) -> Result<Redis, BackendError> {
        let complaints = self.complaints();
        if !complaints.is_empty() {
            return Err(BackendError::refused(complaints.join("; ")));
        }
        // Each link has a way of its own, as far as that is more than addresses: one asks sentinels at a time.
        let sources = self.sources(&self.way()?)?;
        let prefix: Arc<str> = format!("{{{}}}", self.prefix).into();
        let link = |way| Link::new(way, prefix.clone(), self.deadline, self.min_replicas);
        let tasks = link(self.way()?);
        // Boxed: the client's futures are deep, and a caller's compiler would have to lay them all out in its own.
        Box::pin(server::check(&tasks, self.cluster, self.allow_eviction))
            .await
            .map_err(|error| {
                let message = format!("cannot use {}: {error}", self.place());
                match error.is_refused() {
                    true => BackendError::refused(message),
                    false => BackendError::unavailable(message),
                }
                .with_source(error)
            })?;
        Ok(Redis {
            place: self.place(),
            beats: link(self.way()?),
            trimmer: Trimmer::start(link(self.way()?), self.history_max),
            news: News::listen(
                sources,
                format!("{prefix}:news"),
                tasks.session().to_owned(),
            ),
            tasks,
            lease: self.lease,
            joined: Mutex::default(),
            claims: Claims::default(),
            orphans: Orphans::default(),
            damage: Damage::default(),
            allow_eviction: self.allow_eviction,
            server: Mutex::default(),
            closed: AtomicBool::new(false),
        })
    }

    /// Everything that is wrong with what was said, which [`open`](RedisOptions::open) refuses; no server is asked. No
    /// password is in it.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.prefix.is_empty() || self.prefix.contains(['{', '}']) {
            complaints.push(format!(
                "{:?} is no prefix: it must have at least one character, and no braces",
                self.prefix
            ));
        }
        if self.lease < Duration::from_secs(1) {
            complaints.push(format!(
                "a lease of {:?} is too short: one second at least",
                self.lease
            ));
        }
        if self.deadline.is_zero() || self.deadline.saturating_mul(2) > self.lease {
            complaints.push(format!(
                "a deadline of {:?} does not fit a lease of {:?}: at most half of it",
                self.deadline, self.lease
            ));
        }
        if self.cluster && self.sentinel.is_some() {
            complaints.push("a cluster has no sentinels".to_owned());
        }
        if (self.sentinel_user.is_some() || self.sentinel_tls.is_some()) && self.sentinel.is_none()
        {
            let what = "how to speak to sentinels was said, and not `sentinel(name)`";
            complaints.push(what.to_owned());
        }
        if self.urls.len() > 1 && !self.cluster && self.sentinel.is_none() {
            complaints.push("several urls need `cluster()` or `sentinel(name)`".to_owned());
        }
        let wrong: Vec<String> = self
            .urls
            .iter()
            .filter_map(|url| wrong_address(url))
            .collect();
        let can_be_read = wrong.is_empty();
        complaints.extend(wrong);
        if can_be_read && self.root_certificate.is_some() && !self.speaks_tls() {
            let what = "root_certificate is for TLS: write rediss:// in front of the address";
            complaints.push(what.to_owned());
        }
        // What only the client knows, such as a certificate that is none.
        if complaints.is_empty()
            && let Err(error) = self.way()
        {
            complaints.push(error.to_string());
        }
        complaints
    }

    fn way(&self) -> Result<Way, BackendError> {
        if self.speaks_tls() && rustls::crypto::CryptoProvider::get_default().is_none() {
            // The client takes the process's choice, and panics if there is none. An error: somebody was faster.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        if self.cluster {
            let mut client = ClusterClient::builder(self.urls.clone())
                .connection_timeout(self.deadline)
                .response_timeout(self.deadline + words::BULK_TIME_MAX) // ours is shorter but for those
                .tcp_settings(self.tcp())
                .retries(0); // it would send a call twice without a word
            if let Some(certificates) = self.certificates() {
                client = client.certs(certificates);
            }
            let client = client.build().map_err(|e| self.unusable(e))?;
            return Ok(Way::Cluster(Box::new(client)));
        }
        if let Some(name) = &self.sentinel {
            let client = self.sentinel_client(name).map_err(|e| self.unusable(e))?;
            return Ok(Way::Sentinel(Arc::new(tokio::sync::Mutex::new(client))));
        }
        Ok(Way::Single(Box::new(self.client(&self.urls[0])?)))
    }

    fn speaks_tls(&self) -> bool {
        let is_so = |url: &String| {
            let info = url.as_str().into_connection_info();
            info.is_ok_and(|info| is_tls(info.addr()))
        };
        self.urls.iter().any(is_so) || self.sentinel_tls == Some(true)
    }

    fn client(&self, url: &str) -> Result<Client, BackendError> {
        let info = url.into_connection_info();
        let client = info
            .map(|info| info.set_tcp_settings(self.tcp()))
            .and_then(|info| match self.certificates() {
                Some(certificates) => Client::build_with_tls(info, certificates),
                None => Client::open(info),
            });
        client.map_err(|error| self.unusable(error))
    }

    fn certificates(&self) -> Option<TlsCertificates> {
        let pem = self.root_certificate.clone()?;
        Some(TlsCertificates {
            client_tls: None,
            root_cert: Some(pem.into_bytes()),
        })
    }

    fn sentinel_client(&self, name: &str) -> Result<sentinel::SentinelClient, redis::RedisError> {
        let (mut addresses, mut first) = (Vec::new(), None);
        for url in &self.urls {
            let info = url.as_str().into_connection_info()?;
            addresses.push(self.of_sentinel(info.addr()));
            first.get_or_insert(info);
        }
        let sentinels_speak_tls = addresses.iter().any(is_tls);
        let mut client =
            SentinelClientBuilder::new(addresses, name, sentinel::SentinelServerType::Master)?
                .set_client_to_redis_tcp_settings(self.tcp())
                .set_client_to_sentinel_tcp_settings(self.tcp());
        // User, password and database of the first url are the server's.
        if let Some(server) = first {
            let settings = server.redis_settings();
            client = client.set_client_to_redis_db(settings.db());
            if let Some(user) = settings.username() {
                client = client.set_client_to_redis_username(user);
            }
            if let Some(password) = settings.password() {
                client = client.set_client_to_redis_password(password);
            }
            if is_tls(server.addr()) {
                client = client.set_client_to_redis_tls_mode(TlsMode::Secure);
            }
        }
        if let Some((user, password)) = &self.sentinel_user {
            client = client
                .set_client_to_sentinel_username(user)
                .set_client_to_sentinel_password(password);
        }
        if let Some(certificates) = self.certificates() {
            client = client.set_client_to_redis_certificates(certificates.clone());
            if sentinels_speak_tls {
                client = client.set_client_to_sentinel_certificates(certificates);
            }
        }
        client.build()
    }

    /// As its url says, unless `sentinel_tls` says otherwise.
    fn of_sentinel(&self, addr: &ConnectionAddr) -> ConnectionAddr {
        match (addr.clone(), self.sentinel_tls) {
            (ConnectionAddr::TcpTls { host, port, .. }, Some(false)) => {
                ConnectionAddr::Tcp(host, port)
            }
            (ConnectionAddr::Tcp(host, port), Some(true)) => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            },
            (as_it_is, _) => as_it_is,
        }
    }

    fn sources(&self, way: &Way) -> Result<Vec<Source>, BackendError> {
        match way {
            Way::Single(client) => Ok(vec![Source::One(client.clone())]),
            Way::Sentinel(client) => Ok(vec![Source::Sentinel(client.clone())]),
            Way::Cluster(_) => {
                let clients = self.urls.iter().map(|url| self.client(url));
                let clients = clients.collect::<Result<Vec<Client>, _>>()?;
                let sources = clients
                    .into_iter()
                    .map(|client| Source::Node(Box::new(client)));
                Ok(sources.collect())
            }
        }
    }

    /// A call is sent at once, also if the one before it was not answered yet. The system looks after connections, too:
    /// one that carries nothing and leads nowhere, as after a firewall has forgotten it, is found out within a lease.
    fn tcp(&self) -> TcpSettings {
        let part = |n: u32| (self.lease / n).max(Duration::from_secs(1)); // the system counts whole seconds
        let keepalive = TcpKeepalive::new().with_time(part(2));
        #[cfg(any(target_os = "linux", target_os = "macos", target_os = "windows"))]
        let keepalive = keepalive.with_interval(part(8)).with_retries(3);
        let settings = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(keepalive);
        #[cfg(any(target_os = "android", target_os = "linux"))]
        let settings = settings.set_user_timeout(self.lease);
        settings
    }

    fn unusable(&self, error: redis::RedisError) -> BackendError {
        let message = format!("cannot use {}: {error}", self.place());
        BackendError::refused(message).with_source(error)
    }

    /// Where it is, without passwords.
    fn place(&self) -> String {
        let hosts: Vec<&str> = self.urls.iter().map(|url| shown(url)).collect();
        format!("redis {} {{{}}}", hosts.join(","), self.prefix)
    }
}

/// What is wrong with an address, if anything is.
fn wrong_address(url: &str) -> Option<String> {
    let error = url.into_connection_info().err()?.to_string();
    // Behind it stands the client's name for such errors.
    let why = error.split("- ").next().unwrap_or(&error);
    Some(format!(
        "{:?} is no address of Redis ({why}): write redis://10.0.0.5:6379, rediss://user:password@redis.example.org:6380/2 \
         or unix:///run/redis.sock?pass=password, and in a password %23 for #, %2F for /, %3F for ? and %40 for @",
        shown(url)
    ))
}

/// An address without user, password and what else is said of the connection, also if it cannot be read: then it is not
/// known what is what, and nothing is shown that may be a password.
fn shown(url: &str) -> &str {
    let (scheme, _) = url.split_once(':').unwrap_or_default();
    let place = url.split_once("://").map_or(url, |(_, place)| place);
    if scheme.to_ascii_lowercase().ends_with("unix") && place.starts_with('/') {
        // User and password stand behind it.
        return place.split_once('?').map_or(place, |(path, _)| path);
    }
    let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
    let place = place.split_once('?').map_or(place, |(place, _)| place);
    let host = place.split_once('/').map_or(place, |(host, _)| host);
    match host.rsplit_once(':') {
        // A password whose host was forgotten. What ends with a bracket is an address of IPv6.
        Some((host, port))
            if !port.ends_with(']') && !port.bytes().all(|it| it.is_ascii_digit()) =>
        {
            host
        }
        _ => place,
    }
}

/// True if what is there is spoken to in TLS.
fn is_tls(addr: &ConnectionAddr) -> bool {
    matches!(addr, ConnectionAddr::TcpTls { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client panics if there is no choice for the process when it begins to speak TLS.
    #[test]
    fn what_speaks_tls_is_known_however_its_address_says_so() {
        let at = RedisOptions::new;
        let sentinel = || at("redis://h").sentinel("m");

        for tls in [
            at("rediss://h"),
            at("valkeys://h"),
            at("REDISS://h"),
            at("redis://h").node("valkeys://g"),
            sentinel().sentinel_tls(true),
        ] {
            assert!(tls.speaks_tls(), "{tls:?}");
        }
        for plain in [
            at("redis://h"),
            at("valkey://h"),
            at("nonsense"),
            sentinel(),
        ] {
            assert!(!plain.speaks_tls(), "{plain:?}");
        }
    }
}
