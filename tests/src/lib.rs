//! The code in README.md and in the guides, compiled and run: `cargo test --doc -p tests`.
//!
//! A block with a `main` that builds a task manager is marked `standalone_crate`: doctests share one program
//! otherwise, and a manager takes every `#[task]` of its program.

macro_rules! guides {
    ($($name:ident: $path:literal),+ $(,)?) => {
        $(#[cfg(doctest)]
        #[doc = include_str!(concat!("../../", $path))]
        mod $name {})+
    };
}

guides! {
    index: "docs/index.md",
    getting_started: "docs/getting-started.md",
    defining_tasks: "docs/defining-tasks.md",
    adding_tasks: "docs/adding-tasks.md",
    execution_and_retries: "docs/execution-and-retries.md",
    persistence: "docs/persistence.md",
}
