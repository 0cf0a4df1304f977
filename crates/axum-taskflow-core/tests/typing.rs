//! What can be a task, as the compiler sees it.

use axum_taskflow_core::*;
fn add<F, P, M, A>(_f: F, _a: A)
where
    F: TaskFn<P, M>,
    P: Args,
    A: IntoArgs<P, F>,
    M: 'static,
{
}
async fn none() {}
async fn one(_a: String) -> Result<(), std::io::Error> {
    Ok(())
}
async fn two(_a: String, _b: u64) -> Result<u8, Failure> {
    Ok(1)
}
async fn with_ctx(_c: TaskContext, Data(_d): Data<u8>, _b: u64) -> u32 {
    7
}
fn blocking(_c: TaskContext, _b: Vec<u8>) -> Result<String, String> {
    Ok(String::new())
}
fn tup(_p: (i32, i32)) {}
#[test]
fn t() {
    add(none, ());
    add(one, "x".to_owned());
    add(one, ("x".to_owned(),));
    add(two, ("x".to_owned(), 5));
    add(with_ctx, 5);
    add(blocking, vec![1]);
    add(tup, (1, 2));
    add(
        |x: u32| async move {
            let _ = x;
        },
        5,
    );
    add(
        move |x: u32| -> Result<(), String> {
            let _ = x;
            Ok(())
        },
        5,
    );
}

/// Compiled, or not.
#[test]
fn what_services_hold_can_be_shared_and_printed_and_what_they_await_can_be_spawned() {
    fn shared<T: Send + Sync + std::fmt::Debug + 'static>() {}
    fn error<T: std::error::Error + Send + Sync + 'static>() {}
    fn spawned<T: Send + std::fmt::Debug>() {}

    shared::<TaskManager>();
    shared::<Config>();
    shared::<TaskDef>();
    shared::<Schedule>();
    shared::<TaskContext>();
    shared::<Tracking>();
    shared::<Lead>();
    shared::<LockGuard>();
    shared::<LeaderWatch>();
    shared::<Fence>();
    shared::<Failure>();
    shared::<TaskEvent>();
    error::<Error>();
    error::<BackendError>();
    error::<WaitError>();
    error::<OnceError>();
    spawned::<EventStream>();
    spawned::<Invocation>();
    spawned::<AddTask<'_>>();
    spawned::<AddTasks<'_>>();
    spawned::<Leader>();
    spawned::<Lock<'_>>();
}
