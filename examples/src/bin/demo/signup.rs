//! Sign up: one welcome mail for each address, however often the button is pressed.

use std::{path::PathBuf, time::Duration};

use axum::{Form, extract::State, response::Redirect};
use axum_taskflow::{Data, Failure, task};
use lettre::{
    Address, AsyncFileTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
};
use serde::{Deserialize, Serialize};

use crate::{
    App,
    page::{self, FormName, Problem, Values},
};

/// What is left of sending mail if no mail server is around: every mail becomes a file that mail programs open.
///
/// For real mail, this is the only line that changes: `AsyncSmtpTransport<Tokio1Executor>`.
#[derive(Clone, Debug)]
pub(crate) struct Mailer(AsyncFileTransport<Tokio1Executor>);

impl Mailer {
    pub(crate) fn into_folder(outbox: &PathBuf) -> Self {
        Self(AsyncFileTransport::new(outbox))
    }
}

/// What [`send_welcome`] leaves behind.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Sent {
    /// The name of the file in the outbox.
    pub(crate) file: String,
}

/// Welcomes somebody by mail.
///
/// Not `requeue_on_interrupt`: if the process dies while this runs, nobody knows whether the mail is out. The task is
/// shown as interrupted, and a person decides.
#[task(retries = 3, delay = "2s", backoff = 2.0, timeout = "30s")]
pub(crate) async fn send_welcome(
    Data(mailer): Data<Mailer>,
    name: String,
    address: String,
) -> Result<Sent, Failure> {
    // Neither becomes right by trying again.
    check_name(&name).map_err(Failure::give_up)?;
    let to: Address = address.parse().map_err(Failure::give_up)?;
    let mail = Message::builder()
        .from(Mailbox::new(
            Some("The demo".to_owned()),
            Address::new("welcome", "example.org").map_err(Failure::give_up)?,
        ))
        .to(Mailbox::new(Some(name.clone()), to))
        .subject(format!("Welcome, {name}!"))
        .header(ContentType::TEXT_PLAIN)
        .message_id(None)
        .body(format!(
            "Hello {name},\n\nthank you for signing up. This mail was written by a background task.\n\nThe demo\n"
        ))
        .map_err(Failure::give_up)?;

    let id = mailer.0.send(mail).await?;
    Ok(Sent {
        file: format!("{id}.eml"),
    })
}

/// A name that can stand in the header of a mail.
fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.chars().count() > 100 || name.chars().any(char::is_control) {
        return Err("Please give a name of 1 to 100 characters on one line.");
    }
    Ok(())
}

/// The form.
#[derive(Debug, Deserialize)]
pub(crate) struct Signup {
    name: String,
    address: String,
}

/// Takes the form.
pub(crate) async fn submit(
    State(app): State<App>,
    Form(form): Form<Signup>,
) -> Result<Redirect, Problem> {
    let (name, address) = (form.name.trim().to_owned(), form.address.trim().to_owned());
    let problem = |text: String| {
        Problem::unprocessable(FormName::Signup, text).with(Values {
            name: form.name.clone(),
            address: form.address.clone(),
            ..Values::default()
        })
    };
    if let Err(text) = check_name(&name) {
        return Err(problem(text.to_owned()));
    }
    if let Err(error) = address.parse::<Address>() {
        return Err(problem(format!(
            "“{address}” is not a mail address ({error})."
        )));
    }

    // The part before the @ may differ by case in theory, and never does.
    let key = format!("welcome {}", address.to_lowercase());
    let before = app.manager.now();
    let id = app
        .manager
        .add_task(send_welcome, (name, address))
        .idempotency_key(key)
        .idempotency_ttl(Duration::from_secs(24 * 3_600))
        .await
        .map_err(|error| Problem::refused(FormName::Signup, &error))?;
    // The same key gave the task that has it already.
    Ok(page::to_task(id, id.created_at() < before))
}

#[cfg(test)]
mod tests {
    use axum_taskflow::Meaning;

    use super::*;

    async fn welcome(name: &str, address: &str) -> (Result<Sent, Failure>, tempfile::TempDir) {
        let outbox = tempfile::tempdir().unwrap();
        let mailer = Data(Mailer::into_folder(&outbox.path().to_owned()));
        let sent = send_welcome(mailer, name.to_owned(), address.to_owned()).await;
        (sent, outbox)
    }

    #[tokio::test]
    async fn a_mail_is_a_file_with_headers_address_and_text() {
        let (sent, outbox) = welcome("Ada Lovelace", "ada@example.com").await;

        let mail = std::fs::read_to_string(outbox.path().join(sent.unwrap().file)).unwrap();
        let (headers, body) = mail.split_once("\r\n\r\n").unwrap();
        assert!(
            headers.contains("To: \"Ada Lovelace\" <ada@example.com>\r\n"),
            "{headers}"
        );
        assert!(
            headers.contains("Subject: Welcome, Ada Lovelace!\r\n"),
            "{headers}"
        );
        assert!(headers.contains("\r\nDate: "), "{headers}");
        assert!(headers.contains("\r\nMessage-ID: <"), "{headers}");
        assert!(body.starts_with("Hello Ada Lovelace,\r\n"), "{body}");
    }

    #[tokio::test]
    async fn a_name_outside_ascii_is_encoded_in_the_headers_and_whole_in_the_text() {
        let (sent, outbox) = welcome("Zoë Müller 李", "zoe@example.com").await;

        let mail = std::fs::read(outbox.path().join(sent.unwrap().file)).unwrap();
        let mail = String::from_utf8(mail).unwrap();
        let (headers, _) = mail.split_once("\r\n\r\n").unwrap();
        assert!(headers.is_ascii(), "{headers}");
        assert!(headers.contains("=?utf-8?b?"), "{headers}");
        assert!(headers.contains("<zoe@example.com>"), "{headers}");
    }

    #[tokio::test]
    async fn any_name_on_one_line_is_written() {
        let names = [
            "\"Q\" \\ <q@example.com>, (x)",
            "🦀".repeat(100).as_str(),
            "\u{202E}\u{2028}",
            "a@b",
            ":;.",
        ]
        .map(str::to_owned);
        for name in names {
            let (sent, outbox) = welcome(&name, "q@example.com").await;

            let mail = std::fs::read(outbox.path().join(sent.unwrap().file)).unwrap();
            let mail = String::from_utf8(mail).unwrap();
            let (headers, _) = mail.split_once("\r\n\r\n").unwrap();
            assert_eq!(headers.matches("\r\nTo: ").count(), 1, "{headers}");
            assert!(headers.lines().all(|line| line.len() < 998), "{headers}");
        }
    }

    #[tokio::test]
    async fn what_can_never_be_a_mail_is_not_tried_again() {
        for (name, address) in [
            ("Ada", "ada at example"),
            ("Eve\r\nBcc: all@example.com", "eve@example.com"),
            ("", "eve@example.com"),
        ] {
            let (sent, outbox) = welcome(name, address).await;

            assert_eq!(
                sent.unwrap_err().meaning(),
                Meaning::GiveUp,
                "{name:?} {address:?}"
            );
            assert_eq!(std::fs::read_dir(outbox.path()).unwrap().count(), 0);
        }
    }
}
