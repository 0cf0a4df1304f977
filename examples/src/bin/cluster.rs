//! What happens once, however many processes there are. Start it in two or three terminals, and end any of them by Ctrl-C
//! or `kill -9`:
//!
//! ```sh
//! cargo run -p examples --bin cluster
//! ```
//! One of them prepares the file that all share, one at a time leads, and of each scheduled time one makes the task.

use std::{process, time::Duration};

use axum_taskflow::{Lead, Scope, TaskContext, TaskManager, schedule, task};
use tokio::time::sleep;

/// At every fifth second, in whichever process gets it.
#[schedule(cron = "*/5 * * * * *")]
#[task]
async fn report(ctx: TaskContext) {
    if let Some(slot) = ctx.slot() {
        println!("{}: the report of {slot}", process::id());
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let manager = TaskManager::builder().sqlite("cluster.db").build().await?;

    let prepare = || async {
        println!("{}: prepares, once for ever", process::id());
        sleep(Duration::from_secs(3)).await; // the others wait
        Ok::<(), std::io::Error>(())
    };
    let outcome = manager.run_once("prepare", Scope::Forever, prepare).await?;
    println!("{}: {outcome:?}", process::id());

    let feed = manager.leader("feed").run(async |lead: Lead| {
        println!("{}: leads, in term {}", process::id(), lead.epoch());
        loop {
            sleep(Duration::from_secs(1)).await; // here it would read from something that only one may read from
        }
    });
    tokio::select! {
        over = feed => {
            over?;
        }
        () = manager.shutdown_on_signal() => {}
    }
    manager.shutdown().await?;
    Ok(())
}
