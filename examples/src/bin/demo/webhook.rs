//! Call a webhook: an address that the user gives, a server that may be slow, busy or gone.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use axum::{Form, extract::State, response::Redirect};
use axum_taskflow::{Data, Failure, TaskContext, task};
use jiff::{Timestamp, fmt::rfc2822};
use reqwest::{Client, Response, StatusCode, Url, header::RETRY_AFTER, redirect};
use serde::{Deserialize, Serialize};

use crate::{
    App,
    page::{self, FormName, Problem, Values},
};

/// How long a server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of an answer is read.
const ANSWER_BYTES_MAX: usize = 2_000;
/// The longest wait that a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);

/// Calls addresses that users give, and only those that it may.
#[derive(Clone, Debug)]
pub(crate) struct Webhooks {
    client: Client,
    /// The demo itself, for addresses that are only a path.
    home: Url,
    any_host: bool,
}

impl Webhooks {
    pub(crate) fn new(home: Url, any_host: bool) -> Result<Self, reqwest::Error> {
        // An error says that somebody chose a provider already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = || {
            let client = Client::builder()
                .user_agent("axum-taskflow-demo")
                .timeout(ANSWER_TIMEOUT)
                // A redirect leads to an address that nobody checked.
                .redirect(redirect::Policy::none());
            if any_host {
                return client;
            }
            let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            // No proxy, and no name server: either could send a local call elsewhere.
            client.no_proxy().resolve("localhost", loopback)
        };
        let client = client().build().or_else(|error| {
            // A bare Debian has no certificates, and http:// needs none.
            tracing::warn!(%error, "https:// addresses cannot be called: are ca-certificates installed?");
            client().tls_certs_only([]).build()
        })?;
        Ok(Self {
            client,
            home,
            any_host,
        })
    }

    /// The address that a user means.
    ///
    /// # Errors
    /// Why it will not be called, in words for the user.
    fn check(&self, address: &str) -> Result<Url, String> {
        let address = address.trim();
        let url = if address.starts_with('/') && !address.starts_with("//") {
            self.home.join(address)
        } else {
            Url::parse(address)
        };
        let url = url.map_err(|error| format!("“{address}” is not an address ({error})."))?;
        if !["http", "https"].contains(&url.scheme()) {
            return Err("Only http:// and https:// addresses can be called.".to_owned());
        }
        if !self.any_host && !is_loopback(&url) {
            return Err(format!(
                "{} is not this machine. A demo must not be a way to call other people's servers; \
                 start it with DEMO_ALLOW_ANY_HOST=1 if that is what you want.",
                url.host_str().unwrap_or("This address")
            ));
        }
        Ok(url)
    }
}

fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else {
        return false;
    };
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    match literal.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback(),
        Err(_) => host == "localhost",
    }
}

/// What a webhook answered.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The beginning of its body.
    pub(crate) body: String,
}

/// Calls a webhook until it takes the message.
///
/// The task's idempotency key goes along, so a careful receiver takes a repeated call for what it is; hence an
/// interrupted one may run again.
#[task(
    retries = 5,
    delay = "1s",
    backoff = 2.0,
    max_delay = "1m",
    timeout = "15s",
    requeue_on_interrupt = true
)]
pub(crate) async fn call_webhook(
    ctx: TaskContext,
    Data(webhooks): Data<Webhooks>,
    address: String,
    message: String,
) -> Result<Answer, Failure> {
    ctx.log(format!("attempt {}: POST {address}", ctx.attempt()));
    let answer = call(&webhooks, &address, &message, &ctx.idempotency_key()).await;
    if let Ok(answer) = &answer {
        ctx.log(format!("answered with {}", answer.status));
    }
    answer
}

async fn call(
    webhooks: &Webhooks,
    address: &str,
    message: &str,
    key: &str,
) -> Result<Answer, Failure> {
    // Once more: the task may have been stored by a demo that allowed more.
    let url = webhooks.check(address).map_err(Failure::give_up)?;
    // Any error on the way there or back is worth another attempt.
    let response = webhooks
        .client
        .post(url)
        .header("Idempotency-Key", key)
        .json(&serde_json::json!({ "message": message }))
        .send()
        .await?;
    if let Some(failure) = judge(&response, Timestamp::now()) {
        return Err(failure);
    }
    Ok(Answer {
        status: response.status().as_u16(),
        body: beginning(response).await?,
    })
}

/// Whether an answer is a failure, and whether another attempt could end better.
fn judge(response: &Response, now: Timestamp) -> Option<Failure> {
    let status = response.status();
    let text = format!("the server answered with {status}");
    match status {
        status if status.is_success() => None,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            let asked = response
                .headers()
                .get(RETRY_AFTER)
                .and_then(|value| value.to_str().ok());
            Some(match asked.and_then(|asked| wait_asked(asked, now)) {
                Some(wait) => {
                    let text = format!("{text} and asked to come back in {} s", wait.as_secs());
                    Failure::retry_after(wait, text)
                }
                None => Failure::retry(text),
            })
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY => Some(Failure::retry(text)),
        status if status.is_server_error() => Some(Failure::retry(text)),
        status if status.is_redirection() => Some(Failure::give_up(format!(
            "{text}, and redirects are not followed"
        ))),
        // Our mistake, and it stays one.
        _ => Some(Failure::give_up(text)),
    }
}

/// `Retry-After` is a number of seconds or a date (RFC 9110, 10.2.3).
fn wait_asked(asked: &str, now: Timestamp) -> Option<Duration> {
    let asked = asked.trim();
    let wait = match asked.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = rfc2822::DateTimeParser::new().parse_timestamp(asked).ok()?;
            Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO)
        }
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

/// The first bytes of a body; the rest is not even read, since it could be endless.
async fn beginning(mut response: Response) -> Result<String, reqwest::Error> {
    let mut bytes = Vec::new();
    while bytes.len() < ANSWER_BYTES_MAX
        && let Some(chunk) = response.chunk().await?
    {
        bytes.extend_from_slice(&chunk);
    }
    bytes.truncate(ANSWER_BYTES_MAX);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The form.
#[derive(Debug, Deserialize)]
pub(crate) struct Call {
    address: String,
    message: String,
}

/// Takes the form.
pub(crate) async fn submit(
    State(app): State<App>,
    Form(form): Form<Call>,
) -> Result<Redirect, Problem> {
    let values = Values {
        webhook: form.address.clone(),
        message: form.message.clone(),
        ..Values::default()
    };
    let url = match app.webhooks.check(&form.address) {
        Ok(url) => url,
        Err(text) => return Err(Problem::unprocessable(FormName::Webhook, text).with(values)),
    };

    let id = app
        .manager
        .add_task(call_webhook, (url.to_string(), form.message))
        .tag("host", url.host_str().unwrap_or_default())
        .await
        .map_err(|error| Problem::refused(FormName::Webhook, &error).with(values))?;
    Ok(page::to_task(id, false))
}

#[cfg(test)]
mod tests {
    use axum_taskflow::Meaning;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    fn webhooks(any_host: bool) -> Webhooks {
        Webhooks::new("http://127.0.0.1:8000/".parse().unwrap(), any_host).unwrap()
    }

    /// Calls a server on this machine that gives one answer, and returns what the server was sent, too.
    async fn call_server(answer: &str) -> (Result<Answer, Failure>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!(
            "http://localhost:{}/hook",
            listener.local_addr().unwrap().port()
        );
        let serve = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"}") {
                assert_ne!(
                    socket.read_buf(&mut request).await.unwrap(),
                    0,
                    "the request ended early"
                );
            }
            socket.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(request).unwrap()
        };
        let webhooks = webhooks(false);
        tokio::join!(call(&webhooks, &address, "hello", "key-1"), serve)
    }

    async fn meaning(status: &str, headers: &str) -> Meaning {
        let answer = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\n\r\n");
        let (answer, _) = call_server(&answer).await;
        answer.unwrap_err().meaning()
    }

    #[tokio::test]
    async fn a_success_gives_status_and_body_and_was_sent_with_the_key() {
        let (answer, request) =
            call_server("HTTP/1.1 202 Accepted\r\nContent-Length: 6\r\n\r\nthanks").await;

        let expected = Answer {
            status: 202,
            body: "thanks".to_owned(),
        };
        assert_eq!(answer.unwrap(), expected);
        assert!(request.starts_with("POST /hook "), "{request}");
        assert!(request.contains("idempotency-key: key-1\r\n"), "{request}");
        assert!(request.ends_with("{\"message\":\"hello\"}"), "{request}");
    }

    #[tokio::test]
    async fn a_server_in_trouble_is_called_again() {
        for status in [
            "500 Internal Server Error",
            "502 Bad Gateway",
            "503 Service Unavailable",
            "408 Request Timeout",
        ] {
            assert_eq!(meaning(status, "").await, Meaning::Retry, "{status}");
        }
    }

    #[tokio::test]
    async fn a_refusal_or_a_redirect_is_final() {
        for status in [
            "400 Bad Request",
            "401 Unauthorized",
            "404 Not Found",
            "422 Unprocessable Content",
        ] {
            assert_eq!(meaning(status, "").await, Meaning::GiveUp, "{status}");
        }
        let moved = meaning("302 Found", "Location: http://example.com/\r\n").await;
        assert_eq!(moved, Meaning::GiveUp);
    }

    #[tokio::test]
    async fn a_busy_server_says_when_to_come_back() {
        let wait = meaning("429 Too Many Requests", "Retry-After: 7\r\n").await;
        assert_eq!(wait, Meaning::RetryAfter(Duration::from_secs(7)));

        let unsaid = meaning("429 Too Many Requests", "").await;
        assert_eq!(unsaid, Meaning::Retry);

        let odd = meaning("429 Too Many Requests", "Retry-After: soon\r\n").await;
        assert_eq!(odd, Meaning::Retry);
    }

    #[test]
    fn a_date_to_come_back_is_a_wait_and_a_past_or_distant_one_is_bounded() {
        let now: Timestamp = "1994-11-06T08:49:00Z".parse().unwrap();

        let wait = |date: &str| wait_asked(date, now).unwrap();
        assert_eq!(
            wait("Sun, 06 Nov 1994 08:49:37 GMT"),
            Duration::from_secs(37)
        );
        assert_eq!(wait("Sun, 06 Nov 1994 08:00:00 GMT"), Duration::ZERO);
        assert_eq!(wait("Mon, 06 Nov 2006 08:00:00 GMT"), RETRY_AFTER_MAX);
        assert_eq!(wait("99999999"), RETRY_AFTER_MAX);
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_called_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/", listener.local_addr().unwrap());
        drop(listener);

        let answer = call(&webhooks(false), &address, "hello", "key-1").await;

        assert_eq!(answer.unwrap_err().meaning(), Meaning::Retry);
    }

    #[tokio::test]
    async fn a_long_answer_is_cut() {
        let long = "ä".repeat(ANSWER_BYTES_MAX);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", long.len());

        let (answer, _) = call_server(&(head + &long)).await;

        assert_eq!(answer.unwrap().body, "ä".repeat(ANSWER_BYTES_MAX / 2));
    }

    #[test]
    fn only_this_machine_may_be_called_unless_told_otherwise() {
        let (careful, open) = (webhooks(false), webhooks(true));

        for fine in [
            "/flaky",
            "http://localhost:9/x",
            "https://127.0.0.1/",
            "http://[::1]:80/",
            " http://127.8.9.1/ ",
        ] {
            assert!(careful.check(fine).is_ok(), "{fine}");
        }
        for foreign in [
            "http://example.com/",
            "http://10.0.0.1/",
            "http://169.254.169.254/latest/meta-data/",
            "http://localhost.example.com/",
            "http://127.0.0.1@example.com/",
            "http://0.0.0.0/",
            "http://[2001:db8::1]/",
        ] {
            assert!(careful.check(foreign).is_err(), "{foreign}");
            assert!(open.check(foreign).is_ok(), "{foreign}");
        }
    }

    #[test]
    fn what_is_no_web_address_is_refused_everywhere() {
        for wrong in [
            "",
            "example.com",
            "//example.com/",
            "ftp://127.0.0.1/",
            "file:///etc/passwd",
            "javascript:alert(1)",
        ] {
            assert!(webhooks(true).check(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_path_is_meant_for_the_demo_itself() {
        let url = webhooks(false).check("/echo?status=410").unwrap();

        assert_eq!(url.as_str(), "http://127.0.0.1:8000/echo?status=410");
    }
}
