//! Gives out what tasks have written, and the page's own files.

use std::path::Path as FilePath;

use axum::{
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::App;

/// `/thumbnails/{name}`
pub(crate) async fn thumbnail(State(app): State<App>, Path(name): Path<String>) -> Response {
    let media_type = if name.ends_with(".png") {
        "image/png"
    } else {
        "image/jpeg"
    };
    give(&app.folders.thumbnails, &name, media_type).await
}

/// `/outbox/{name}`: as text, because a browser would save a mail instead of showing it.
pub(crate) async fn mail(State(app): State<App>, Path(name): Path<String>) -> Response {
    give(&app.folders.outbox, &name, "text/plain; charset=utf-8").await
}

async fn give(folder: &FilePath, name: &str, media_type: &'static str) -> Response {
    if !is_ours(name) {
        return StatusCode::NOT_FOUND.into_response();
    }
    match tokio::fs::read(folder.join(name)).await {
        Ok(content) => ([(header::CONTENT_TYPE, media_type)], content).into_response(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            StatusCode::NOT_FOUND.into_response()
        }
        Err(error) => {
            tracing::error!(name, %error, "a file could not be read");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Our names are ids and sizes; nothing else leads out of a folder.
fn is_ours(name: &str) -> bool {
    let Some((stem, ending)) = name.split_once('.') else {
        return false;
    };
    !stem.is_empty()
        && stem
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && ["jpg", "png", "eml"].contains(&ending)
}

/// `/demo.css`
pub(crate) async fn css() -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "text/css; charset=utf-8")],
        include_str!("demo.css"),
    )
}

/// `/demo.js`
pub(crate) async fn js() -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "text/javascript; charset=utf-8")],
        include_str!("demo.js"),
    )
}

/// `/demo.svg`
pub(crate) async fn svg() -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "image/svg+xml")],
        include_str!("demo.svg"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_we_gave_are_read() {
        assert!(is_ours("0193a1b2-96.jpg"));
        for foreign in [
            "../demo.db",
            "..",
            ".eml",
            "a/b.png",
            "a.png.exe",
            "a\\b.png",
            "%2e%2e.png",
            "a.db",
        ] {
            assert!(!is_ours(foreign), "{foreign}");
        }
    }
}
