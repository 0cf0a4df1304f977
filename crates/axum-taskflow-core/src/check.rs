//! What `#[task]` has the compiler check, each with a message of its own.
//!
//! [`TaskFn`](crate::TaskFn) asks for everything at once, so the compiler can only say that a function does not fit.
//! Here every parameter and the return type is asked for by itself, in a span of the user's code. Nothing here runs.

use serde::{Serialize, de::DeserializeOwned};

use crate::{context::FromTask, handler::TaskOutput};

/// A parameter that the task provides.
#[derive(Debug)]
pub struct Provided;
/// A parameter that is stored with the task.
#[derive(Debug)]
pub struct Stored;
/// A return type of a plain function.
#[derive(Debug)]
pub struct Value;
/// A return type of a function that returns a future.
#[derive(Debug)]
pub struct Promise;

/// What can be a parameter; `K` is [`Provided`] or [`Stored`], found by the compiler.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a parameter of a task",
    label = "neither an argument that can be stored nor something that a task provides",
    note = "an argument is stored and read again: it is owned, `Send`, and both `Serialize` and `Deserialize` (`#[derive(serde::Serialize, serde::Deserialize)]` on your own type)",
    note = "a task provides `TaskContext` and `Data<T>` with `T: Clone + Send + Sync`"
)]
pub trait Parameter<K> {}

#[diagnostic::do_not_recommend]
impl<T: FromTask> Parameter<Provided> for T {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Send + 'static> Parameter<Stored> for T {}

/// What can stand at its place; `Before` is the kind of the parameter to the left, `K` its own.
#[diagnostic::on_unimplemented(
    message = "`{Self}` must stand before the arguments of the task",
    label = "move this parameter to the front",
    note = "first what the task provides (`TaskContext`, `Data<T>`), then its arguments"
)]
pub trait Follows<Before, K> {}

#[diagnostic::do_not_recommend]
impl<T> Follows<Provided, Provided> for T {}
#[diagnostic::do_not_recommend]
impl<T> Follows<Provided, Stored> for T {}
#[diagnostic::do_not_recommend]
impl<T> Follows<Stored, Stored> for T {}

/// The first of more than eight parameters.
#[diagnostic::on_unimplemented(
    message = "a task takes at most 8 arguments",
    label = "one argument too many",
    note = "put what belongs together into a struct with `#[derive(serde::Serialize, serde::Deserialize)]`"
)]
pub trait BesideEight {}

#[diagnostic::do_not_recommend]
impl<T: FromTask> BesideEight for T {}

/// What a plain function can return; `K` is [`Value`] or [`Promise`], found by the compiler.
#[diagnostic::on_unimplemented(
    message = "a task cannot return `{Self}`",
    label = "cannot be kept as a task's result",
    note = "`()`, numbers, `bool`, `String`, `Option` and `Vec` are returned as they are, other types in a `Result<{Self}, Failure>`; your own with `#[derive(serde::Serialize)]`"
)]
pub trait Output<K> {}

#[diagnostic::do_not_recommend]
impl<T: TaskOutput> Output<Value> for T {}

#[diagnostic::do_not_recommend]
impl<F: Future + Send + 'static> Output<Promise> for F where F::Output: TaskOutput {}

/// This type can be a parameter.
pub const fn parameter<T: Parameter<K>, K>() {}

/// This type can be a parameter after the other one.
pub const fn in_order<A, B, KA, KB>()
where
    A: Parameter<KA>,
    B: Parameter<KB> + Follows<KA, KB>,
{
}

/// This type is none of the eight arguments.
pub const fn beside_eight<T: BesideEight>() {}

/// The future that this function returns can move between threads, as the runtime moves it.
pub const fn task_must_be_send<F: FnPointer>(_: F)
where
    F::Output: Send,
{
}

/// A pointer to a function of any type, to get at the future of an async one.
pub trait FnPointer: Copy {
    /// What the function returns.
    type Output;
}

macro_rules! fn_pointers {
    ($([$($A:ident)*])*) => {
        $(impl<Output, $($A),*> FnPointer for fn($($A),*) -> Output {
            type Output = Output;
        })*
    };
}

fn_pointers! {
    [] [A] [A B] [A B C] [A B C D] [A B C D E] [A B C D E F] [A B C D E F G] [A B C D E F G H] [A B C D E F G H I]
    [A B C D E F G H I J] [A B C D E F G H I J K]
}

/// This type can be returned by an async function.
pub const fn returned<T: TaskOutput>() {}

/// This type can be returned by a plain function.
pub const fn returned_or_awaited<T: Output<K>, K>() {}

/// Ties the checks to the registration: if they failed, the compiler leaves it at that.
pub trait Passed<F> {
    /// The function.
    type Function;
}

impl<F> Passed<F> for [(); 1] {
    type Function = F;
}

/// The function itself.
pub fn checked<F, const PASSED: usize>(function: F) -> <[(); PASSED] as Passed<F>>::Function
where
    [(); PASSED]: Passed<F, Function = F>,
{
    function
}
