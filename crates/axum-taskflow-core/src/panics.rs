//! Catches panics of functions and stores, with their message, place and stack.

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    cell::{Cell, RefCell},
    future::poll_fn,
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    pin::{Pin, pin},
    sync::Once,
    task::Poll,
};

use tracing::error;

use crate::{
    error::BackendError,
    failure::{FailureKind, FailureReport},
};

thread_local! {
    /// True while a task's function runs on this thread.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// Where the last panic of a task's function on this thread was, and its stack.
    static LAST: RefCell<Option<(String, Option<String>)>> = const { RefCell::new(None) };
}

/// Remembers where a task's function panics: only a hook is told. The hook before ours is called as ever.
pub(crate) fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if INSIDE.get() {
                LAST.set(Some(place_and_stack(panic)));
            }
            before(panic);
        }));
    });
}

fn place_and_stack(panic: &PanicHookInfo<'_>) -> (String, Option<String>) {
    let place = panic
        .location()
        .map(ToString::to_string)
        .unwrap_or_default();
    let stack = Backtrace::capture(); // obeys RUST_BACKTRACE
    let stack = (stack.status() == BacktraceStatus::Captured).then(|| stack.to_string());
    (place, stack)
}

/// Calls `work`.
///
/// # Errors
/// What is kept of its panic.
pub(crate) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, FailureReport> {
    let outer = INSIDE.replace(true);
    // Unwind safe: what `work` borrowed is dropped with it or never looked at again.
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    INSIDE.set(outer);
    result.map_err(|payload| {
        let message = message(&*payload);
        let (place, backtrace) = LAST.take().unzip();
        FailureReport {
            place,
            backtrace: backtrace.flatten(),
            ..FailureReport::new(FailureKind::Panic, format!("panicked: {message}"))
        }
    })
}

/// Polls `work` to its end; after a panic it is not polled again.
pub(crate) async fn catch_async<T>(
    work: &mut (impl Future<Output = T> + Unpin),
) -> Result<T, FailureReport> {
    poll_fn(|cx| match catch(|| Pin::new(&mut *work).poll(cx)) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Err(report) => Poll::Ready(Err(report)),
    })
    .await
}

/// Asks the store. That its code panics is an outage.
pub(crate) async fn outage<T>(
    asked: impl Future<Output = Result<T, BackendError>>,
) -> Result<T, BackendError> {
    let mut asked = pin!(asked);
    let answer = catch_async(&mut asked).await;
    answer.unwrap_or_else(|report| {
        let what = format!("the store {}", report.message);
        Err(BackendError::unavailable(what))
    })
}

/// Calls `work`, which must not stop who calls it; a panic is logged, if it can be.
pub(crate) fn contain<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch(work)
        .map_err(|report| {
            let place = report.place.unwrap_or_default();
            say(|| error!(why = %report.message, %place, "a panic was caught: the engine goes on"));
        })
        .ok()
}

/// Logs where a panic of the subscriber, as one that writes to a broken pipe, would do harm.
pub(crate) fn say(log: impl FnOnce()) {
    let _ = catch(log); // there is nowhere to tell it
}

fn message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "with a value that is no text".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_kept_with_its_message_and_place() {
        install_hook();

        let report = catch(|| panic!("no {}", "way")).unwrap_err();

        assert_eq!(report.message, "panicked: no way");
        assert!(report.place.unwrap().contains("panics.rs:"));
    }

    #[tokio::test]
    async fn a_panic_between_two_awaits_is_caught() {
        install_hook();
        let mut work: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async {
            tokio::task::yield_now().await;
            panic::panic_any(7);
        });

        let report = catch_async(&mut work).await.unwrap_err();

        assert_eq!(report.kind, FailureKind::Panic);
        assert!(report.place.unwrap().contains("panics.rs:"));
    }
}
