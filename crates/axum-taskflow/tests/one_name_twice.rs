//! A program of its own: what it registers is refused.

use axum_taskflow::{TaskManager, task};

mod mail {
    #[super::task]
    pub(crate) fn send() {}
}
const MAIL_LINE: u32 = line!() - 2;

mod text_message {
    #[super::task(aliases("send"))]
    pub(crate) fn send_text() {}
}
const TEXT_MESSAGE_LINE: u32 = line!() - 2;

#[tokio::test]
async fn two_functions_with_one_name_are_refused_with_both_places() {
    mail::send();
    text_message::send_text();

    let error = TaskManager::builder()
        .build()
        .await
        .unwrap_err()
        .to_string();

    assert!(
        error.contains("two functions are called \"send\""),
        "{error}"
    );
    for line in [MAIL_LINE, TEXT_MESSAGE_LINE] {
        assert!(error.contains(&format!("{}:{line}", file!())), "{error}");
    }
}
