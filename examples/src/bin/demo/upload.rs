//! Receives a file from a form: onto the disk as it comes, never whole in memory.

use std::path::Path;

use axum::extract::{
    Multipart,
    multipart::{Field, MultipartError},
};
use tokio::{fs, io::AsyncWriteExt};
use uuid::Uuid;

use crate::page::{FormName, Problem};

/// What a request may hold in all. Larger than the largest upload: a file somewhat too large is read to its end,
/// because browsers show an answer only after they have sent everything.
pub(crate) const REQUEST_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A file that has come.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// Its name in the folder of uploads: ours, since theirs cannot be trusted.
    pub(crate) stored: String,
    /// The name that it had, fit to be shown.
    pub(crate) shown: String,
}

/// The form's next field.
pub(crate) async fn next_field(
    form: &mut Multipart,
    name: FormName,
) -> Result<Option<Field<'_>>, Problem> {
    form.next_field()
        .await
        .map_err(|error| broken(&error, name))
}

/// The text of a field.
pub(crate) async fn text(field: Field<'_>, name: FormName) -> Result<String, Problem> {
    field.text().await.map_err(|error| broken(&error, name))
}

/// Stores what a field holds; nothing if no file was chosen.
pub(crate) async fn receive(
    mut field: Field<'_>,
    folder: &Path,
    bytes_max: usize,
    name: FormName,
) -> Result<Option<Incoming>, Problem> {
    let shown = presentable(field.file_name().unwrap_or_default());
    let stored = Uuid::new_v4().to_string();
    let disk = |error: std::io::Error| Problem::disk(name, &error);

    let mut file = fs::File::create(folder.join(&stored)).await.map_err(disk)?;
    let mut bytes = 0;
    let received = loop {
        match field.chunk().await {
            Ok(None) => break Ok(()),
            Ok(Some(chunk)) => {
                bytes += chunk.len();
                if bytes <= bytes_max
                    && let Err(error) = file.write_all(&chunk).await
                {
                    break Err(disk(error));
                }
            }
            Err(error) => break Err(broken(&error, name)),
        }
    };
    let kept = match received {
        Ok(()) if bytes == 0 => Ok(None),
        Ok(()) if bytes > bytes_max => Err(Problem::too_large(name, bytes_max)),
        // The task's acceptance is safe on disk, so its input has to be there before.
        Ok(()) => file.sync_all().await.map_err(disk).map(|()| {
            Some(Incoming {
                stored: stored.clone(),
                shown,
            })
        }),
        Err(problem) => Err(problem),
    };
    if !matches!(kept, Ok(Some(_))) {
        drop(file);
        forget(folder, &stored).await;
    }
    kept
}

/// Stores what came by another way than as a file, and names it.
pub(crate) async fn store(folder: &Path, content: &[u8]) -> std::io::Result<String> {
    let stored = Uuid::new_v4().to_string();
    let mut file = fs::File::create(folder.join(&stored)).await?;
    file.write_all(content).await?;
    file.sync_all().await?;
    Ok(stored)
}

/// Removes an upload for which there is no task.
pub(crate) async fn forget(folder: &Path, stored: &str) {
    if let Err(error) = fs::remove_file(folder.join(stored)).await {
        tracing::warn!(stored, %error, "an upload without a task could not be removed");
    }
}

fn broken(error: &MultipartError, name: FormName) -> Problem {
    if error.status() == axum::http::StatusCode::PAYLOAD_TOO_LARGE {
        return Problem::too_large(name, REQUEST_BYTES_MAX);
    }
    Problem::unprocessable(
        name,
        format!("The form did not arrive whole: {}.", error.body_text()),
    )
}

/// The last part of a path without control characters, not longer than a line.
fn presentable(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let shown: String = last
        .chars()
        .filter(|char| !char.is_control())
        .take(80)
        .collect();
    if shown.is_empty() {
        "without a name".to_owned()
    } else {
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_shown_without_its_path_and_what_could_do_harm() {
        assert_eq!(presentable("../../etc/passwd"), "passwd");
        assert_eq!(presentable("C:\\Users\\me\\cat.png"), "cat.png");
        assert_eq!(presentable("a\r\nb\0.png"), "ab.png");
        assert_eq!(presentable(""), "without a name");
        assert_eq!(presentable(&"ä".repeat(500)).chars().count(), 80);
    }
}
