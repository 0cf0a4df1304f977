//! Which request a task belongs to: an id that goes from the request to its tasks, and from a task to those that it
//! adds.

use std::sync::Arc;

use crate::{context::TaskContext, error::Error, task::Task, trace_context::TraceContext};

/// Longest tracking id, in characters.
pub const TRACKING_ID_LEN_MAX: usize = 128;

tokio::task_local! {
    static CURRENT: Tracking;
}

/// What tells the tasks of one request from all others: a tracking id, and the request's place in a trace.
///
/// In an axum service a layer makes it from the request. Elsewhere, make it yourself: each task that is added inside
/// of [`Tracking::scope`] gets it, and so does every task that these add.
///
/// ```
/// use axum_taskflow_core::{Config, TaskManager, Tracking};
///
/// async fn import(row: u32) {}
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let manager = TaskManager::start(Config::default()).await?;
///
/// let id = Tracking::new("nightly-import")?
///     .scope(async { manager.add_task(import, 1).await })
///     .await?;
///
/// let task = manager.get(id).await?.expect("it was added");
/// assert_eq!(task.tracking_id.as_deref(), Some("nightly-import"));
/// # manager.shutdown().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tracking {
    id: Option<Arc<str>>,
    trace_context: Option<Arc<str>>,
}

impl Tracking {
    /// With this id: 1 to [`TRACKING_ID_LEN_MAX`] visible characters of ASCII, no blanks.
    ///
    /// # Errors
    /// `Invalid` if the id is anything else.
    pub fn new(id: impl Into<Arc<str>>) -> Result<Self, Error> {
        Self::default().with_id(id)
    }

    /// Of a request with this `traceparent` header, and this `tracestate` or an empty one. The trace's id is the
    /// tracking id.
    ///
    /// # Errors
    /// `Invalid` if the `traceparent` is not as the
    /// [standard](https://www.w3.org/TR/trace-context/#traceparent-header) demands. A `tracestate` that cannot be kept
    /// is left out.
    pub fn of_trace(traceparent: &str, tracestate: &str) -> Result<Self, Error> {
        let context = TraceContext::parse(traceparent, tracestate).ok_or_else(|| {
            let beginning: String = traceparent.chars().take(64).collect();
            Error::invalid(format!("{beginning:?} is not a traceparent"))
        })?;
        Ok(Self {
            id: Some(context.trace_id.into()),
            trace_context: Some(context.to_store()),
        })
    }

    /// The same with another id.
    ///
    /// # Errors
    /// As for [`Tracking::new`].
    pub fn with_id(self, id: impl Into<Arc<str>>) -> Result<Self, Error> {
        let id = id.into();
        let is_visible = id.bytes().all(|byte| byte.is_ascii_graphic());
        if id.is_empty() || id.len() > TRACKING_ID_LEN_MAX || !is_visible {
            return Err(Error::invalid(format!(
                "a tracking id has 1 to {TRACKING_ID_LEN_MAX} visible ASCII characters, which {:?} has not",
                id.chars().take(64).collect::<String>()
            )));
        }
        Ok(Self {
            id: Some(id),
            ..self
        })
    }

    /// The tracking id.
    #[must_use]
    pub fn id(&self) -> Option<&Arc<str>> {
        self.id.as_ref()
    }

    /// The place in a trace, as [`Task::trace_context`] keeps it.
    #[must_use]
    pub fn trace_context(&self) -> Option<&Arc<str>> {
        self.trace_context.as_ref()
    }

    /// What counts here: that of the innermost [`Tracking::scope`], else that of the task that runs here, else nothing.
    ///
    /// It does not follow into tokio tasks and threads that are spawned: there, use [`Tracking::scope`] again.
    #[must_use]
    pub fn current() -> Self {
        let of_scope = CURRENT.try_with(Clone::clone);
        of_scope.unwrap_or_else(|_| {
            TaskContext::current()
                .map(|context| Self::of_task(context.task()))
                .unwrap_or_default()
        })
    }

    /// Runs `work` so that it counts for the tasks that are added in there.
    ///
    /// # Cancel safety
    /// That of `work`.
    pub async fn scope<T>(self, work: impl Future<Output = T>) -> T {
        CURRENT.scope(self, work).await
    }

    /// As [`Tracking::scope`], for code that is not async.
    pub fn sync_scope<T>(self, work: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self, work)
    }

    /// What a task gets that is added here and now.
    pub(crate) fn of_call() -> Self {
        let tracking = Self::current();
        #[cfg(feature = "otel")]
        let tracking = Self {
            // The nearest span says more than that of the request.
            trace_context: crate::otel::current().or(tracking.trace_context),
            ..tracking
        };
        tracking
    }

    pub(crate) fn of_task(task: &Task) -> Self {
        Self {
            id: task.tracking_id.clone(),
            trace_context: task.trace_context.clone(),
        }
    }

    pub(crate) fn give_to(&self, task: &mut Task) {
        task.tracking_id.clone_from(&self.id);
        task.trace_context.clone_from(&self.trace_context);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_tracking_id_is_short_and_visible() {
        let longest = "x".repeat(128);
        for right in ["a", "!~", "r-1/2:3", &longest] {
            assert_eq!(Tracking::new(right).unwrap().id().unwrap().as_ref(), right);
        }

        let too_long = "x".repeat(129);
        for wrong in [
            "",
            " ",
            "a b",
            "a\n",
            "a\r\nset-cookie:b",
            "ä",
            "\u{7f}",
            "\0",
            &too_long,
        ] {
            let error = Tracking::new(wrong).unwrap_err();

            assert!(error.to_string().len() < 400, "{error}");
        }
    }

    #[test]
    fn a_trace_gives_its_id_unless_there_is_another() {
        let tracking = Tracking::of_trace(PARENT, "").unwrap();
        assert_eq!(
            &**tracking.id().unwrap(),
            "0af7651916cd43dd8448eb211c80319c"
        );

        let tracking = tracking.with_id("mine").unwrap();
        assert_eq!(&**tracking.id().unwrap(), "mine");
        assert_eq!(&**tracking.trace_context().unwrap(), PARENT);

        assert!(Tracking::of_trace("nothing", "").is_err());
    }

    #[tokio::test]
    async fn the_innermost_scope_counts() {
        let [outer, inner] = ["outer", "inner"].map(|id| Tracking::new(id).unwrap());
        assert_eq!(Tracking::current(), Tracking::default());

        outer
            .clone()
            .scope(async {
                assert_eq!(Tracking::current(), outer);
                inner
                    .clone()
                    .sync_scope(|| assert_eq!(Tracking::current(), inner));
                assert_eq!(Tracking::current(), outer);
            })
            .await;
    }
}
