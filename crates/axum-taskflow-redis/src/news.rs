//! Hints that something waits: a subscription of its own, which comes back by itself.

use std::{sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, ProtocolVersion, PushInfo, PushKind,
    RedisError, Value, aio::MultiplexedConnection,
};
use tokio::sync::{Notify, watch};
use tracing::debug;

/// Between two tries to subscribe.
const RETRY: Duration = Duration::from_secs(1);
/// Between two looks whether the server is there, and how long it may take to answer one.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// Where the server is that publishes.
pub(crate) enum Source {
    One(Box<Client>),
    Sentinel(Arc<tokio::sync::Mutex<redis::sentinel::SentinelClient>>),
    /// A node of a cluster: any of them tells which one has the slot.
    Node(Box<Client>),
}

impl Source {
    async fn subscribe(&self, channel: &str, ear: &Arc<Ear>) -> Result<Subscription, RedisError> {
        match self {
            Self::One(client) => Subscription::open(client, "SUBSCRIBE", channel, ear).await,
            Self::Sentinel(sentinel) => {
                let client = sentinel.lock().await.async_get_client().await?;
                Subscription::open(&client, "SUBSCRIBE", channel, ear).await
            }
            Self::Node(client) => {
                // As `news.lua` publishes. All nodes would be told otherwise.
                let of_slot = Subscription::open(client, "SSUBSCRIBE", channel, ear).await;
                let moved = of_slot.as_ref().err().and_then(RedisError::redirect_node);
                let Some((address, _)) = moved else {
                    return or_of_all(of_slot, client, channel, ear).await;
                };
                let owner = at(client, address)?;
                let of_slot = Subscription::open(&owner, "SSUBSCRIBE", channel, ear).await;
                or_of_all(of_slot, &owner, channel, ear).await
            }
        }
    }
}

/// A node of Redis 6.2 knows no channels of a slot, and publishes to all.
async fn or_of_all(
    of_slot: Result<Subscription, RedisError>,
    node: &Client,
    channel: &str,
    ear: &Arc<Ear>,
) -> Result<Subscription, RedisError> {
    let is_unknown = |error: &RedisError| {
        let said = error.detail().unwrap_or_default();
        said.starts_with("unknown command")
    };
    match of_slot {
        Err(error) if is_unknown(&error) => {
            Subscription::open(node, "SUBSCRIBE", channel, ear).await
        }
        of_slot => of_slot,
    }
}

/// The node at an address that another one gave, `host:port`; with no host, on that one's.
fn at(other: &Client, address: &str) -> Result<Client, RedisError> {
    let wrong = || RedisError::from((ErrorKind::Parse, "a node gave no address of another one"));
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse::<u16>().map_err(|_| wrong())?;
    let info = other.get_connection_info().clone();
    let mut addr = info.addr().clone();
    match &mut addr {
        ConnectionAddr::Tcp(old_host, old_port)
        | ConnectionAddr::TcpTls {
            host: old_host,
            port: old_port,
            ..
        } => {
            if !host.is_empty() {
                host.clone_into(old_host);
            }
            *old_port = port;
        }
        _ => return Err(wrong()),
    }
    Client::open(info.set_addr(addr))
}

/// What is done with what is heard.
struct Ear {
    hints: watch::Sender<u64>,
    /// What this process publishes: it knows that already.
    own: String,
}

impl Ear {
    fn hint(&self) {
        self.hints.send_modify(|hints| *hints += 1);
    }
}

/// An open subscription.
struct Subscription {
    connection: MultiplexedConnection,
    /// The connection has ended, or the channel went to another node.
    ended: Arc<Notify>,
}

impl Subscription {
    async fn open(
        client: &Client,
        subscribe: &str,
        channel: &str,
        ear: &Arc<Ear>,
    ) -> Result<Self, RedisError> {
        let info = client.get_connection_info();
        let settings = info.redis_settings().clone();
        let settings = settings.set_protocol(ProtocolVersion::RESP3); // messages beside answers
        let client = Client::open(info.clone().set_redis_settings(settings))?;
        let ended = Arc::new(Notify::new());
        let (is_over, ear) = (ended.clone(), ear.clone());
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None) // the caller's counts for all
            .set_response_timeout(None)
            .set_push_sender(move |push: PushInfo| {
                match push.kind {
                    PushKind::Message | PushKind::SMessage => {
                        let is_own = |it: &Value| matches!(it, Value::BulkString(said) if *said == ear.own.as_bytes());
                        if !push.data.last().is_some_and(is_own) {
                            ear.hint();
                        }
                    }
                    PushKind::Disconnection | PushKind::Unsubscribe | PushKind::SUnsubscribe => {
                        is_over.notify_one();
                    }
                    _ => {}
                }
                Ok::<_, std::convert::Infallible>(())
            });
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let mut command = redis::cmd(subscribe);
        command.arg(channel);
        let answer = connection.send_packed_command(&command).await?;
        answer.extract_error()?;
        Ok(Self { connection, ended })
    }

    /// Returns when the connection has ended, or the other end is gone without a word.
    async fn until_over(mut self) {
        loop {
            if tokio::time::timeout(ASK_EVERY, self.ended.notified())
                .await
                .is_ok()
            {
                return;
            }
            let ping = redis::cmd("PING");
            let pong = self.connection.send_packed_command(&ping);
            if !matches!(tokio::time::timeout(ASK_EVERY, pong).await, Ok(Ok(_))) {
                return;
            }
        }
    }
}

/// Counts hints.
#[derive(Debug)]
pub(crate) struct News {
    hints: watch::Receiver<u64>,
    listener: tokio::task::AbortHandle,
}

impl News {
    /// `own` is what this process publishes: it knows that already.
    pub(crate) fn listen(sources: Vec<Source>, channel: String, own: String) -> Self {
        let (sender, hints) = watch::channel(0);
        let listening = tokio::spawn(async move {
            let ear = Arc::new(Ear { hints: sender, own });
            let mut n = 0;
            loop {
                let source = &sources[n % sources.len()];
                n += 1;
                match tokio::time::timeout(RETRY * 5, source.subscribe(&channel, &ear)).await {
                    Ok(Ok(subscription)) => {
                        n -= 1;
                        // What was published before is not heard any more.
                        ear.hint();
                        subscription.until_over().await;
                    }
                    Ok(Err(error)) => debug!(%error, "cannot listen to what other instances leave"),
                    Err(_) => debug!("cannot listen to what other instances leave: no answer"),
                }
                tokio::time::sleep(RETRY.mul_f64(0.5 + fastrand::f64())).await;
            }
        });
        Self {
            hints,
            listener: listening.abort_handle(),
        }
    }

    /// The number of hints, as soon as it is not `seen`.
    pub(crate) async fn since(&self, seen: u64) -> u64 {
        let mut hints = self.hints.clone();
        if let Ok(hints) = hints.wait_for(|hints| *hints != seen).await {
            return *hints;
        }
        std::future::pending().await // closed: nothing comes any more
    }

    pub(crate) fn close(&self) {
        self.listener.abort();
    }
}

impl Drop for News {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "this is test code")]
    use servers::RedisServer;

    use super::*;

    const SHARED: &str = concat!(include_str!("lua/common.lua"), include_str!("lua/news.lua"));

    /// Publishes as a script does in a cluster.
    fn publish(server: &RedisServer, message: &str) {
        let script = format!("{SHARED} publish(ARGV[1], '1')");
        server.command(&["EVAL", &script, "1", "{p}", message]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_of_any_version_is_heard_and_only_what_others_say_counts() {
        let server = RedisServer::start();
        // Nobody is told who is alone.
        server.command(&["HSET", "{p}:i", "this one", "", "another", ""]);
        let node = Source::Node(Box::new(Client::open(server.url()).unwrap()));
        let news = News::listen(vec![node], "{p}:news".to_owned(), "own".to_owned());
        let deadline = Duration::from_secs(20);
        let subscribed = tokio::time::timeout(deadline, news.since(0)).await.unwrap();

        publish(&server, "own");
        publish(&server, "another's");

        let heard = tokio::time::timeout(deadline, news.since(subscribed));
        assert_eq!(heard.await.unwrap(), subscribed + 1);
    }

    #[test]
    fn a_node_that_another_one_names_is_reached_as_that_one_is() {
        let other = Client::open("redis://ada:secret@10.0.0.1:7000/").unwrap();

        let named = at(&other, "10.0.0.2:7001").unwrap();
        let here = at(&other, ":7002").unwrap();

        let address = |it: &Client| it.get_connection_info().addr().to_string();
        assert_eq!(address(&named), "10.0.0.2:7001");
        assert_eq!(address(&here), "10.0.0.1:7002");
        assert_eq!(
            named.get_connection_info().redis_settings().username(),
            Some("ada")
        );
        assert!(at(&other, "nowhere").is_err());
    }

    #[test]
    fn other_servers_do_the_same() {
        servers::test_with_others(
            "",
            &[
                "other_servers_do_the_same",
                "a_beat_waits_for_no_other_link_that_asks_the_sentinels", // no server matters there
            ],
        );
    }
}
