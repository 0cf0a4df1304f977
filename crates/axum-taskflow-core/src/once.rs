//! What is run once, in one process of all that ask for it.

use std::{fmt, future::IntoFuture, pin::Pin, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::{
    backend::{Becomes, Record, RecordChange, Step, Stepped},
    clock::Timestamp,
    engine::{
        Engine,
        holds::{Hold, HoldName, Patience},
        records::{json, parse},
    },
    error::{BackendError, BoxError, Error, ErrorKind},
    id::{InstanceId, TaskId},
    panics,
};

/// How long those wait who find that another process runs it, unless they say otherwise.
const WAIT: Duration = Duration::from_secs(600);
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// How long it stays done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// For ever: in the whole life of the store.
    Forever,
    /// For the version of the program ([`Config::version`](crate::Config::version)): once after each deploy.
    Version,
    /// As long as any instance of the cluster lives: once more when the first one starts after none was alive.
    ClusterBoot,
}

/// How [`TaskManager::run_once`](crate::TaskManager::run_once) came to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnceOutcome {
    /// It was run here.
    Ran,
    /// It was done before anybody asked here.
    AlreadyDone,
    /// Another process has run it, while this one waited.
    WaitedForOther,
}

/// Why it is not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnceError {
    /// It was run, here or in another process, and failed as often as it may. Whoever asks again runs it again.
    #[error("{name:?} failed: {message}")]
    Failed {
        /// What was to be run.
        name: String,
        /// What its last error said.
        message: String,
    },
    /// Another process still runs it.
    #[error("{name:?} is still being run by another process after {waited:?}")]
    TimedOut {
        /// What was to be run.
        name: String,
        /// How long this one has waited.
        waited: Duration,
    },
    /// The name cannot be used, or the store failed.
    #[error(transparent)]
    Manager(#[from] Error),
}

/// What became of it, as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Outcome {
    /// Who wrote it.
    by: TaskId,
    instance: InstanceId,
    host: String,
    at: Timestamp,
    /// None: it is done.
    error: Option<String>,
    /// The start of the cluster for which this counts; none: for all.
    #[serde(default)]
    boot: Option<TaskId>,
}

/// Something that is about to be run once: set options, then `.await`.
///
/// # Errors
/// See [`OnceError`].
///
/// # Cancel safety
/// Dropped while the work runs here, it is not done, and whoever waits may run it.
#[must_use = "it is run by `.await`"]
pub struct Once<'a, F> {
    engine: &'a Arc<Engine>,
    name: Result<HoldName, Error>,
    scope: Scope,
    work: F,
    wait: Duration,
    retries: u32,
    delay: Duration,
}

impl<F> fmt::Debug for Once<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once")
            .field("name", &self.name)
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

impl<'a, F> Once<'a, F> {
    pub(crate) fn new(
        engine: &'a Arc<Engine>,
        name: Result<HoldName, Error>,
        scope: Scope,
        work: F,
    ) -> Self {
        Self {
            engine,
            name,
            scope,
            work,
            wait: WAIT,
            retries: 0,
            delay: RETRY_DELAY,
        }
    }

    /// Waits so long at most for another process that runs it; ten minutes unless set. How long it may run here is not
    /// limited.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Tries so many times more if it fails, here and before anybody is told; none unless set.
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// Between two tries; a second unless set.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

impl<'a, F, W, E> IntoFuture for Once<'a, F>
where
    F: FnMut() -> W + Send + 'a,
    W: Future<Output = Result<(), E>> + Send + 'a,
    E: Into<BoxError> + Send + 'a,
{
    type Output = Result<OnceOutcome, OnceError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let name = self.name?;
            let (key, boot) = match &self.scope {
                Scope::Forever => (format!("once:{}", name.name), None),
                Scope::Version => {
                    let version = &self.engine.instance().version;
                    (format!("once-in:{}", json(&(version, &name.name))), None)
                }
                // One record for all starts, since each would leave one.
                Scope::ClusterBoot => {
                    let boot = async { Ok(self.engine.boot().await?) };
                    let boot = self.engine.in_time(boot).await?;
                    (format!("once-at-boot:{}", name.name), Some(boot))
                }
            };
            let asked = Asked {
                engine: self.engine,
                name,
                key,
                boot,
            };
            asked
                .run(self.work, self.wait, (self.retries, self.delay))
                .await
        })
    }
}

/// What somebody learns who asks.
enum Asking {
    Ended(Result<OnceOutcome, OnceError>),
    MayRun(Arc<Hold>),
    /// Another process runs it.
    Waits,
}

/// True if the store may answer later.
fn is_outage(failure: &Error) -> bool {
    let source = std::error::Error::source(failure);
    let store = source.and_then(|source| source.downcast_ref::<BackendError>());
    let is_refused = store.is_some_and(BackendError::is_refused);
    matches!(failure.kind(), ErrorKind::Unavailable | ErrorKind::TimedOut) && !is_refused
}

struct Asked<'a> {
    engine: &'a Arc<Engine>,
    name: HoldName,
    key: String,
    boot: Option<TaskId>,
}

impl Asked<'_> {
    async fn run<F, W, E>(
        &self,
        mut work: F,
        wait: Duration,
        (retries, delay): (u32, Duration),
    ) -> Result<OnceOutcome, OnceError>
    where
        F: FnMut() -> W,
        W: Future<Output = Result<(), E>>,
        E: Into<BoxError>,
    {
        let begun = Instant::now();
        let mut changes = self.engine.hold_changes();
        // Whoever failed before anybody asked here does not count.
        let (before, outcome) = self.look().await?;
        let mut first = Some(outcome);
        loop {
            changes.mark_unchanged(); // before the look, so that nothing is missed
            let has_waited = first.is_none();
            let asking = async {
                let outcome = match first.take() {
                    Some(outcome) => outcome,
                    None => self.look().await?.1,
                };
                if let Some(ended) = self.ended(outcome, before, has_waited) {
                    return Ok(Asking::Ended(ended));
                }
                let patience = Patience::None;
                let acquired = self.engine.acquire(self.name.clone(), patience).await?;
                Ok(acquired.map_or(Asking::Waits, Asking::MayRun))
            };
            match asking.await {
                Ok(Asking::Ended(ended)) => return ended,
                Ok(Asking::MayRun(hold)) => {
                    // Once more, now that nobody else can end it.
                    let (version, outcome) = self.look().await?;
                    if outcome.is_none_or(|(version, it)| it.error.is_some() && version <= before) {
                        let ended = self.work_off(&hold, version, &mut work, (retries, delay));
                        if let Some(ended) = ended.await? {
                            return ended;
                        }
                    }
                    continue;
                }
                Ok(Asking::Waits) if begun.elapsed() >= wait => {
                    return Err(OnceError::TimedOut {
                        name: self.name.name.to_string(),
                        waited: wait,
                    });
                }
                Ok(Asking::Waits) => {}
                // Whoever runs it goes on through an outage, and so does the wait for him.
                Err(failure) if has_waited && is_outage(&failure) && begun.elapsed() < wait => {
                    panics::say(
                        || debug!(error = %failure, name = %self.name.name, "cannot look whether it was run"),
                    );
                }
                Err(failure) => return Err(failure.into()),
            }
            changes.next(begun.checked_add(wait)).await;
            if self.engine.stopped.is_cancelled() {
                return Err(Error::shutting_down().into());
            }
        }
    }

    /// What came of it, if it has ended, and that counts here.
    fn ended(
        &self,
        outcome: Option<(u64, Outcome)>,
        before: u64,
        has_waited: bool,
    ) -> Option<Result<OnceOutcome, OnceError>> {
        let (version, Outcome { error, .. }) = outcome?;
        match error {
            None => Some(Ok(match has_waited {
                true => OnceOutcome::WaitedForOther,
                false => OnceOutcome::AlreadyDone,
            })),
            Some(message) => (version > before).then(|| Err(self.failed(message))),
        }
    }

    /// Runs it; None if the right to do so was lost meanwhile.
    async fn work_off<F, W, E>(
        &self,
        hold: &Hold,
        version: u64,
        work: &mut F,
        (retries, delay): (u32, Duration),
    ) -> Result<Option<Result<OnceOutcome, OnceError>>, OnceError>
    where
        F: FnMut() -> W,
        W: Future<Output = Result<(), E>>,
        E: Into<BoxError>,
    {
        let mut left = retries;
        let worked = loop {
            let worked = tokio::select! {
                biased;
                () = hold.lost.cancelled() => return Ok(None),
                worked = work() => worked,
            };
            match worked {
                Ok(()) => break Ok(()),
                Err(error) => {
                    let error: BoxError = error.into();
                    panics::say(
                        || warn!(name = %self.name.name, %error, left, "what is to be run once has failed"),
                    );
                    if left == 0 {
                        break Err(error.to_string());
                    }
                }
            }
            left -= 1;
            tokio::select! {
                biased;
                () = hold.lost.cancelled() => return Ok(None),
                () = tokio::time::sleep(delay) => {}
            }
        };
        let error = worked.err();
        if !self.store(hold, version, error.clone()).await? {
            return Ok(None); // another process has taken it over, and its outcome counts
        }
        Ok(Some(match error {
            None => Ok(OnceOutcome::Ran),
            Some(message) => Err(self.failed(message)),
        }))
    }

    /// Stores the outcome and ends the hold in one step; false if the hold was lost.
    async fn store(
        &self,
        hold: &Hold,
        version: u64,
        error: Option<String>,
    ) -> Result<bool, OnceError> {
        let (engine, me) = (self.engine, self.engine.instance());
        let now = engine.clock.now();
        let outcome = Outcome {
            by: engine.ids.task(now),
            instance: me.id,
            host: me.host.clone(),
            at: now,
            error,
            boot: self.boot,
        };
        let mut step = Step::at(now);
        step.records.push(RecordChange {
            key: self.key.clone(),
            expects: version,
            becomes: Becomes::Value(json(&outcome)),
        });
        step.records.push(hold.end());
        // It has run: an outage must not make another process run it again.
        loop {
            match engine.step(step.clone()).await {
                Ok(Stepped::Done { .. }) => break,
                Ok(Stepped::Stale) => return Ok(false),
                Err(failure) if hold.lost.is_cancelled() || failure.is_refused() => {
                    return Err(Error::from(failure).into());
                }
                Err(failure) => {
                    panics::say(
                        || warn!(name = %self.name.name, error = %failure, "cannot store that it was run"),
                    );
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            }
        }
        hold.has_ended();
        panics::say(|| info!(name = %self.name.name, "run once"));
        Ok(true)
    }

    /// The version of what is stored, 0 if there is nothing; and what it says.
    async fn look(&self) -> Result<(u64, Option<(u64, Outcome)>), Error> {
        let looked = async {
            let Some(record) = self.engine.record(&self.key).await? else {
                return Ok::<_, Error>((0, None));
            };
            let outcome: Option<Outcome> = parse(Some(&record))?;
            let Record { version, .. } = record;
            let counts = outcome.filter(|outcome| outcome.boot == self.boot);
            Ok((version, counts.map(|outcome| (version, outcome))))
        };
        self.engine.in_time(looked).await
    }

    fn failed(&self, message: String) -> OnceError {
        OnceError::Failed {
            name: self.name.name.to_string(),
            message,
        }
    }
}
