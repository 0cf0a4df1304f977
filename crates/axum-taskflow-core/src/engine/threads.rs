//! A bounded pool of threads for plain functions, so that they stall neither the runtime nor the service's own
//! blocking pool.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{runtime::Runtime, sync::oneshot};
use tokio_util::task::TaskTracker;

use crate::{failure::FailureReport, panics};

/// tokio's own pool, in a runtime that does nothing else: threads start when needed and end when idle.
pub(crate) struct Threads {
    /// Taken at shutdown. A std mutex: held to hand over one closure.
    runtime: Mutex<Option<Runtime>>,
    /// What waits for a thread, or runs on one.
    works: TaskTracker,
}

impl Threads {
    pub(crate) fn new(threads_max: usize) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(threads_max)
            .thread_keep_alive(Duration::from_secs(10))
            .thread_name("taskflow-blocking")
            .build()?;
        Ok(Self {
            runtime: Mutex::new(Some(runtime)),
            works: TaskTracker::new(),
        })
    }

    /// Runs `work` on a thread; what comes of it is sent, unless the pool is closed before.
    ///
    /// # Errors
    /// The system makes no thread, as the report says, or the pool is closed; then `work` is never run.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<oneshot::Receiver<T>, Option<FailureReport>> {
        let (run, take_back, returned) = offered(work);
        let work = self.works.token();
        let run = move || {
            run();
            drop(work);
        };
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        let runtime = runtime.as_ref().ok_or(None)?;
        // tokio panics if the system makes no thread, and keeps what it was given for the next one.
        match panics::catch(|| drop(runtime.spawn_blocking(run))) {
            Err(report) if take_back() => Err(Some(report)),
            _ => Ok(returned),
        }
    }

    /// Takes no more work; what runs is left to itself.
    pub(crate) fn close(&self) {
        let mut runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Returns once nothing runs any more. After [`Threads::close`].
    pub(crate) async fn returned(&self) {
        self.works.close();
        self.works.wait().await;
    }
}

/// How a thread runs `work`, how it is taken back (true if no thread had begun: none will), and what came of it.
fn offered<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> (
    impl FnOnce() + Send + 'static,
    impl FnOnce() -> bool,
    oneshot::Receiver<T>,
) {
    let (sender, returned) = oneshot::channel();
    // A std mutex: held to take it out.
    let offer = Arc::new(Mutex::new(Some((work, sender))));
    let take = move || offer.lock().unwrap_or_else(PoisonError::into_inner).take();
    let take_back = take.clone();
    let run = move || {
        if let Some((work, sender)) = take() {
            let _ = sender.send(work()); // nobody may wait any more
        }
    };
    // Arguments that panic when they are dropped were there.
    let take_back = move || panics::catch(|| take_back().is_some()).unwrap_or(true);
    (run, take_back, returned)
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.close(); // a runtime that is dropped inside another one would panic
    }
}

#[cfg(test)]
impl Threads {
    /// From now on the system makes none: no address space has room for their stacks.
    pub(crate) fn refuse(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .thread_stack_size(1 << 50)
            .build();
        let former = self.runtime.lock().unwrap().replace(runtime.unwrap());
        former.unwrap().shutdown_background();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Config, manager::TaskManager, registry::TaskDef, status::TaskStatus};

    #[test]
    fn what_was_taken_back_is_never_run_and_what_has_begun_is_not_taken_back() {
        let (run, take_back, mut returned) = offered(|| 7);
        assert!(take_back());
        run();
        assert!(returned.try_recv().is_err());

        let (run, take_back, mut returned) = offered(|| 7);
        run();
        assert!(!take_back());
        assert_eq!(returned.try_recv(), Ok(7));
    }

    #[tokio::test]
    async fn a_function_for_which_no_thread_can_be_made_fails_and_frees_its_slot() {
        fn add(a: u32, b: u32) -> u32 {
            a + b
        }
        let config = Config {
            collect: false,
            tasks: vec![TaskDef::new(add).name("add")],
            blocking_threads: 1,
            ..Config::default()
        };
        let manager = TaskManager::start(config).await.unwrap();
        let limit = Duration::from_secs(20);
        manager.engine.threads.refuse();

        for _ in 0..2 {
            let id = manager.add_task(add, (1, 2)).retries(1).await.unwrap();
            let ended = tokio::time::timeout(limit, manager.wait::<u32>(id)).await;
            assert!(ended.expect("its slot is free").is_err());
            let life = manager.get(id).await.unwrap().unwrap().life;
            assert_eq!((life.status, life.attempt), (TaskStatus::Failed, 2));
            let why = &life.error.unwrap().message;
            assert!(
                why.starts_with("no thread could be made for the function: "),
                "{why}"
            );
        }
    }
}
