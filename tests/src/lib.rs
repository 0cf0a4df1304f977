//! The code in README.md and in the guides, compiled and run: `cargo test --doc -p tests`.
//!
//! A block with a `main` that builds a task manager is marked `standalone_crate`: doctests share one program
//! otherwise, and a manager takes every `#[task]` of its program.

pub mod lab;

macro_rules! guides {
    ($($name:ident: $path:literal),+ $(,)?) => {
        $(#[cfg(doctest)]
        #[doc = include_str!(concat!("../../", $path))]
        mod $name {})+
    };
}

guides! {
    readme: "README.md",
    index: "docs/index.md",
    getting_started: "docs/getting-started.md",
    defining_tasks: "docs/defining-tasks.md",
    adding_tasks: "docs/adding-tasks.md",
    execution_and_retries: "docs/execution-and-retries.md",
    tracking: "docs/tracking.md",
    persistence: "docs/persistence.md",
    redis: "docs/redis.md",
    schedules: "docs/schedules.md",
    exactly_one_process: "docs/exactly-one-process.md",
    dashboard_and_rest: "docs/dashboard-and-rest.md",
    several_hosts: "docs/several-hosts.md",
    promises: "docs/promises.md",
    life_of_a_task: "docs/internals/life-of-a-task.md",
    statuses: "docs/internals/statuses.md",
    decisions: "docs/internals/decisions.md",
    simulation: "docs/internals/simulation.md",
    crash_lab: "docs/crash-lab.md",
    benchmarks: "docs/benchmarks.md",
    contributing: "CONTRIBUTING.md",
}
