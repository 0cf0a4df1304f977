//! Hints that something waits: a subscription of its own, which comes back by itself.

use std::{sync::Arc, time::Duration};

use redis::{Client, aio::PubSub};
use tokio::sync::watch;
use tracing::debug;

/// Between two tries to subscribe.
const RETRY: Duration = Duration::from_secs(1);
/// How long a server may be silent until it is asked whether it is there, and then until it is given up.
const SILENT_MAX: Duration = Duration::from_secs(5);

/// Where the server is that publishes: any node of a cluster does.
pub(crate) enum Source {
    One(Box<Client>),
    Sentinel(Arc<tokio::sync::Mutex<redis::sentinel::SentinelClient>>),
}

impl Source {
    async fn subscribe(&self, channel: &str) -> Result<PubSub, redis::RedisError> {
        let mut subscription = match self {
            Self::One(client) => client.get_async_pubsub().await?,
            Self::Sentinel(sentinel) => {
                let client = sentinel.lock().await.async_get_client().await?;
                client.get_async_pubsub().await?
            }
        };
        subscription.subscribe(channel).await?;
        Ok(subscription)
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
            let mut n = 0;
            loop {
                let source = &sources[n % sources.len()];
                n += 1;
                match tokio::time::timeout(RETRY * 5, source.subscribe(&channel)).await {
                    Ok(Ok(subscription)) => {
                        n -= 1;
                        // What was published before is not heard any more.
                        sender.send_modify(|hints| *hints += 1);
                        hear(subscription, &sender, &own).await;
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

/// Returns when the connection ends, or the other end is gone without a word.
async fn hear(subscription: PubSub, sender: &watch::Sender<u64>, own: &str) {
    let (mut asks, mut messages) = subscription.split();
    loop {
        let next = futures_util::StreamExt::next(&mut messages);
        match tokio::time::timeout(SILENT_MAX, next).await {
            Ok(Some(hint)) => {
                if hint.get_payload_bytes() != own.as_bytes() {
                    sender.send_modify(|hints| *hints += 1);
                }
            }
            Ok(None) => return,
            Err(_) => {
                let pong = tokio::time::timeout(SILENT_MAX, asks.ping::<redis::Value>());
                if !matches!(pong.await, Ok(Ok(_))) {
                    return;
                }
            }
        }
    }
}
