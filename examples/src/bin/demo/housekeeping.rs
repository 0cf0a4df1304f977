//! What no form asks for: old uploads are deleted by the clock, and one process keeps the list of the mails.

use std::{
    fs, io,
    path::Path,
    time::{Duration, SystemTime},
};

use axum_taskflow::{Data, Failure, TaskContext, TaskManager, schedule, task};

use crate::folders::{Folders, write_whole};

/// As long as failed tasks are kept: until then a retry by hand needs what was sent.
const UPLOAD_AGE_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Between two looks at the outbox.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Deletes uploads that no task can need any more.
#[schedule(every = "5m")]
#[task(requeue_on_interrupt = true)]
pub(crate) fn sweep_uploads(
    ctx: TaskContext,
    Data(folders): Data<Folders>,
) -> Result<usize, Failure> {
    let mut deleted = 0;
    for entry in fs::read_dir(&folders.uploads)? {
        let entry = entry?;
        let age = SystemTime::now().duration_since(entry.metadata()?.modified()?);
        if age.is_ok_and(|age| age > UPLOAD_AGE_MAX) {
            fs::remove_file(entry.path())?;
            deleted += 1;
        }
    }
    ctx.log(format!("{deleted} old uploads deleted"));
    Ok(deleted)
}

/// Keeps `mails.txt` true, which names the mails in the outbox: in one process, however many demos share the folder.
pub(crate) async fn list_mails(manager: TaskManager, folders: Folders) {
    let leader = manager.leader("list of mails").run(|_lead| async {
        loop {
            if let Err(error) = write_list(&folders.outbox) {
                tracing::warn!(%error, "cannot write the list of mails");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    let led: Result<Option<()>, _> = leader.await;
    if let Err(error) = led {
        tracing::warn!(%error, "nobody keeps the list of mails here");
    }
}

/// Blocks, but for no longer than a small folder takes.
fn write_list(outbox: &Path) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(outbox)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".eml") {
            names.push(name + "\n");
        }
    }
    names.sort();
    write_whole(&outbox.join("mails.txt"), names.concat().as_bytes())
}
