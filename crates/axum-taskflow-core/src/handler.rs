//! A function becomes a task: `fn(extras…, args…)` by one tuple macro, erased once.

use std::{fmt, pin::Pin, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    context::{FromTask, TaskContext},
    error::BoxError,
    failure::Failure,
    states::Need,
    task::Executor,
};

/// What a function returned: its result as JSON (nothing for `()`), or why it failed.
pub type Returned = Result<Option<Arc<str>>, Failure>;

/// A call that is ready to be made, within the [`TaskContext`] of an attempt.
#[non_exhaustive]
pub enum Invocation {
    /// Of an `async fn`.
    Async(Pin<Box<dyn Future<Output = Returned> + Send>>),
    /// Of a plain `fn`, which may block.
    Thread(Box<dyn FnOnce() -> Returned + Send>),
}

impl fmt::Debug for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Async(_) => "Async",
            Self::Thread(_) => "Thread",
        })
    }
}

/// A function that can be a task: an `async fn`, a plain `fn` (which may block) or a closure.
///
/// It takes what [`FromTask`] provides first ([`TaskContext`], [`Data`](crate::Data); at most three), then at most
/// eight arguments that serde can store. It returns `()`, a `Result` whose value serde can store, or one of the
/// usual values (numbers, strings, `Vec`, `Option`). Implemented for all such functions; `P` are the arguments'
/// types, and `M` tells the compiler which parameter is what.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a task",
    label = "not a function that can run later with stored arguments",
    note = "the function itself is given, not called: `add_task(send_email, …)`",
    note = "parameters: `TaskContext` and `Data<T>` first (at most 3), then at most 8 owned arguments, each `Serialize` and `DeserializeOwned` (`String`, not `&str`)",
    note = "return value: `()`, a number, `bool`, `String`, `Vec`, `Option` or `Result<T, E>` with `T: Serialize` and `E: Into<Box<dyn Error + Send + Sync>>`",
    note = "the future of an async function must be `Send`: it holds no `Rc`, `RefCell` or std `MutexGuard` across an `.await`",
    note = "put `#[task]` on the function: then the compiler says which of these it is"
)]
pub trait TaskFn<P, M>: Clone + Send + Sync + 'static {
    /// Where it runs.
    #[doc(hidden)]
    const EXECUTOR: Executor;

    /// The state that it takes.
    #[doc(hidden)]
    fn needs() -> Vec<Need>;

    /// Makes the call ready.
    #[doc(hidden)]
    fn invoke(self, args: P) -> Invocation;
}

/// What a function may return.
#[diagnostic::on_unimplemented(
    message = "a task cannot return `{Self}`",
    label = "cannot be kept as a task's result",
    note = "`()`, numbers, `bool`, `String`, `Option` and `Vec` are returned as they are, other types in a `Result<{Self}, Failure>`; your own with `#[derive(serde::Serialize)]`"
)]
pub trait TaskOutput {
    /// As it is stored.
    #[doc(hidden)]
    fn into_returned(self) -> Returned;
}

#[diagnostic::do_not_recommend]
impl TaskOutput for () {
    fn into_returned(self) -> Returned {
        Ok(None)
    }
}

impl<T: Storable, E: IntoFailure> TaskOutput for Result<T, E> {
    fn into_returned(self) -> Returned {
        match self {
            Ok(value) => stored(&value),
            Err(error) => Err(Failure::from_box(error.into())),
        }
    }
}

/// A value that can be kept with the task: everything that is [`Serialize`].
#[diagnostic::on_unimplemented(
    message = "a task cannot return `{Self}`: it is not `serde::Serialize`",
    label = "cannot be kept as a task's result",
    note = "put `#[derive(serde::Serialize)]` on your own type, or return `()`"
)]
pub trait Storable: Serialize {}

#[diagnostic::do_not_recommend]
impl<T: Serialize> Storable for T {}

/// An error that a task can fail with: every `std::error::Error` that is `Send + Sync`, [`Failure`], a `String`, a
/// boxed error, and what else becomes one by `into()`.
#[diagnostic::on_unimplemented(
    message = "a task cannot fail with `{Self}`: it is not an error",
    label = "not a `std::error::Error` that is `Send + Sync`",
    note = "implement `std::error::Error` for your own type (`#[derive(Debug, thiserror::Error)]`), or return `Result<_, Failure>` or `Result<_, String>`"
)]
pub trait IntoFailure: Into<BoxError> {}

#[diagnostic::do_not_recommend]
impl<E: Into<BoxError>> IntoFailure for E {}

#[diagnostic::do_not_recommend]
impl<T: Storable> TaskOutput for Option<T> {
    fn into_returned(self) -> Returned {
        stored(&self)
    }
}

#[diagnostic::do_not_recommend]
impl<T: Storable> TaskOutput for Vec<T> {
    fn into_returned(self) -> Returned {
        stored(&self)
    }
}

macro_rules! plain_outputs {
    ($($type:ty),* $(,)?) => {
        $(#[diagnostic::do_not_recommend]
        impl TaskOutput for $type {
            fn into_returned(self) -> Returned {
                stored(&self)
            }
        })*
    };
}

#[rustfmt::skip]
plain_outputs!(
    bool, String, u8, u16, u32, u64, usize, i8, i16, i32, i64, isize, f32, f64, serde_json::Value,
);

fn stored(value: &impl Serialize) -> Returned {
    match serde_json::to_string(value) {
        Ok(json) if json == "null" => Ok(None),
        Ok(json) => Ok(Some(json.into())),
        // The work is done: running it again would not change what it returns.
        Err(error) => Err(Failure::give_up(format!(
            "the function returned, but its result cannot be serialized: {error}"
        ))),
    }
}

/// The arguments of a function, as a tuple.
pub trait Args: Sized + Send + 'static {
    /// How many.
    #[doc(hidden)]
    const LEN: usize;

    /// As a JSON array.
    ///
    /// # Errors
    /// The position of the argument that serde cannot store, and why.
    #[doc(hidden)]
    fn encode(&self) -> Result<String, ArgError>;

    /// From a JSON array.
    ///
    /// # Errors
    /// The position of the argument that serde cannot read, and why.
    #[doc(hidden)]
    fn decode(json: &str) -> Result<Self, ArgError>;
}

/// What is wrong with stored or given arguments.
#[derive(Debug)]
#[non_exhaustive]
pub enum ArgError {
    /// This one, counted from 0.
    At(usize, serde_json::Error),
    /// There are so many.
    Count(usize),
    /// They are no JSON array.
    Shape(serde_json::Error),
}

/// What can stand for the arguments of a function in `add_task(function, …)`: the tuple of them, or for a single
/// argument the argument itself.
#[diagnostic::on_unimplemented(
    message = "these are not the arguments of the task `{F}`",
    label = "expected `{P}`, found `{Self}`",
    note = "one argument is given as it is, several as a tuple, none as `()`; each has exactly the parameter's type (`\"a\".to_owned()` for a `String`)"
)]
pub trait IntoArgs<P, F> {
    /// The tuple.
    #[doc(hidden)]
    fn into_args(self) -> P;
}

#[diagnostic::do_not_recommend]
impl<T, F> IntoArgs<(T,), F> for T {
    fn into_args(self) -> (T,) {
        (self,)
    }
}

/// Most arguments take no more than this.
const ARGS_BYTES: usize = 128;

impl Args for () {
    const LEN: usize = 0;

    fn encode(&self) -> Result<String, ArgError> {
        Ok("[]".to_owned())
    }

    fn decode(json: &str) -> Result<Self, ArgError> {
        let stored: Vec<&RawValue> = serde_json::from_str(json).map_err(ArgError::Shape)?;
        match stored.len() {
            0 => Ok(()),
            n => Err(ArgError::Count(n)),
        }
    }
}

macro_rules! args {
    ($($A:ident $a:ident $n:tt),+) => {
        impl<$($A: Serialize + DeserializeOwned + Send + 'static),+> Args for ($($A,)+) {
            const LEN: usize = [$($n),+].len();

            fn encode(&self) -> Result<String, ArgError> {
                let mut json = Vec::with_capacity(ARGS_BYTES); // else it grows in five steps
                json.push(b'[');
                $(
                    if $n > 0 {
                        json.push(b',');
                    }
                    serde_json::to_writer(&mut json, &self.$n).map_err(|error| ArgError::At($n, error))?;
                )+
                json.push(b']');
                Ok(String::from_utf8(json).expect("serde_json writes UTF-8"))
            }

            fn decode(json: &str) -> Result<Self, ArgError> {
                if let Ok(args) = serde_json::from_str(json) {
                    return Ok(args);
                }
                // Once more, slowly, to name the one that does not fit.
                let stored: Vec<&RawValue> = serde_json::from_str(json).map_err(ArgError::Shape)?;
                if stored.len() != Self::LEN {
                    return Err(ArgError::Count(stored.len()));
                }
                $(let $a = serde_json::from_str(stored[$n].get()).map_err(|error| ArgError::At($n, error))?;)+
                Ok(($($a,)+))
            }
        }
    };
}

/// What a function takes before its arguments, of the task that runs here.
fn provided<E: FromTask>() -> E {
    let ctx = TaskContext::current().expect("a function is called within its context");
    let home = ctx
        .home()
        .expect("an attempt keeps the engine as long as it runs");
    E::from_task(&ctx, home.states())
}

/// Tells the compiler that a function is async, and what it takes before its arguments.
#[derive(Debug)]
pub struct AsyncFn<E>(std::marker::PhantomData<E>);
/// Tells the compiler that a function is a plain one, and what it takes before its arguments.
#[derive(Debug)]
pub struct PlainFn<E>(std::marker::PhantomData<E>);

macro_rules! task_fn {
    ([$($E:ident),*] [$($A:ident $a:ident),*]) => {
        impl<Func, Fut, $($E,)* $($A),*> TaskFn<($($A,)*), AsyncFn<($($E,)*)>> for Func
        where
            Func: Fn($($E,)* $($A),*) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future + Send + 'static,
            Fut::Output: TaskOutput,
            $($E: FromTask,)*
            $($A: Serialize + DeserializeOwned + Send + 'static,)*
        {
            const EXECUTOR: Executor = Executor::Async;

            fn needs() -> Vec<Need> {
                let needs: Vec<Option<Need>> = vec![$($E::needs()),*];
                needs.into_iter().flatten().collect()
            }

            #[allow(non_snake_case, unused_variables, clippy::unused_unit)]
            fn invoke(self, ($($a,)*): ($($A,)*)) -> Invocation {
                Invocation::Async(Box::pin(async move {
                    $(let $E = provided::<$E>();)*
                    self($($E,)* $($a),*).await.into_returned()
                }))
            }
        }

        impl<Func, Output, $($E,)* $($A),*> TaskFn<($($A,)*), PlainFn<($($E,)*)>> for Func
        where
            Func: Fn($($E,)* $($A),*) -> Output + Clone + Send + Sync + 'static,
            Output: TaskOutput,
            $($E: FromTask + Send + 'static,)*
            $($A: Serialize + DeserializeOwned + Send + 'static,)*
        {
            const EXECUTOR: Executor = Executor::Thread;

            fn needs() -> Vec<Need> {
                let needs: Vec<Option<Need>> = vec![$($E::needs()),*];
                needs.into_iter().flatten().collect()
            }

            #[allow(non_snake_case, unused_variables)]
            fn invoke(self, ($($a,)*): ($($A,)*)) -> Invocation {
                Invocation::Thread(Box::new(move || {
                    $(let $E = provided::<$E>();)*
                    self($($E,)* $($a),*).into_returned()
                }))
            }
        }
    };
}

// By itself, because the compiler quotes this one when arguments are forgotten.
#[diagnostic::do_not_recommend]
impl<F> IntoArgs<(), F> for () {
    fn into_args(self) {}
}

macro_rules! into_args {
    () => {};
    ($($A:ident),+) => {
        #[diagnostic::do_not_recommend]
        impl<F, $($A),+> IntoArgs<($($A,)+), F> for ($($A,)+) {
            fn into_args(self) -> Self {
                self
            }
        }
    };
}

macro_rules! all_arities {
    ($([$($A:ident $a:ident $n:tt),*])*) => {
        $(
            into_args!($($A),*);
            task_fn!([] [$($A $a),*]);
            task_fn!([E1] [$($A $a),*]);
            task_fn!([E1, E2] [$($A $a),*]);
            task_fn!([E1, E2, E3] [$($A $a),*]);
        )*
    };
}

args!(A1 a1 0);
args!(A1 a1 0, A2 a2 1);
args!(A1 a1 0, A2 a2 1, A3 a3 2);
args!(A1 a1 0, A2 a2 1, A3 a3 2, A4 a4 3);
args!(A1 a1 0, A2 a2 1, A3 a3 2, A4 a4 3, A5 a5 4);
args!(A1 a1 0, A2 a2 1, A3 a3 2, A4 a4 3, A5 a5 4, A6 a6 5);
args!(A1 a1 0, A2 a2 1, A3 a3 2, A4 a4 3, A5 a5 4, A6 a6 5, A7 a7 6);
args!(A1 a1 0, A2 a2 1, A3 a3 2, A4 a4 3, A5 a5 4, A6 a6 5, A7 a7 6, A8 a8 7);

all_arities! {
    []
    [A1 a1 0]
    [A1 a1 0, A2 a2 1]
    [A1 a1 0, A2 a2 1, A3 a3 2]
    [A1 a1 0, A2 a2 1, A3 a3 2, A4 a4 3]
    [A1 a1 0, A2 a2 1, A3 a3 2, A4 a4 3, A5 a5 4]
    [A1 a1 0, A2 a2 1, A3 a3 2, A4 a4 3, A5 a5 4, A6 a6 5]
    [A1 a1 0, A2 a2 1, A3 a3 2, A4 a4 3, A5 a5 4, A6 a6 5, A7 a7 6]
    [A1 a1 0, A2 a2 1, A3 a3 2, A4 a4 3, A5 a5 4, A6 a6 5, A7 a7 6, A8 a8 7]
}
