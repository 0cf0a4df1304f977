//! The door: sign in and out.

use axum::{
    body::Bytes,
    extract::rejection::BytesRejection,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use axum_taskflow_core::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    api::{is_content_type, read_body, read_json},
    auth::{self, Identity, is_form_token},
    guard::{Call, braked, redirect},
    pages,
    problem::{Problem, json},
    query::Params,
};

/// `GET /auth/login`.
pub(crate) async fn page(call: Call) -> Response {
    let next = call.visit.local(call.params.get("next"));
    if call.visit.who.is_some() {
        return redirect(&next);
    }
    pages::sign_in(&call, &next, "", None)
}

#[derive(Deserialize)]
#[serde(expecting = "an object with username and password")]
struct Credentials {
    username: String,
    password: String,
}

impl Credentials {
    /// What somebody left out.
    fn missing(&self) -> Option<&'static str> {
        match (&*self.username, &*self.password) {
            ("", _) => Some("user name"),
            (_, "") => Some("password"),
            _ => None,
        }
    }
}

#[derive(Serialize)]
struct SignedIn<'a> {
    username: &'a str,
    expires_at: Timestamp,
}

/// `POST /auth/login`: a form of a browser, or JSON of a program.
pub(crate) async fn sign_in(
    call: Call,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let is_form = is_content_type(&headers, FORM);
    let (credentials, next) = match is_form {
        true => read_form(&read_body(body)?),
        false => (read_json::<Credentials>(&headers, body)?, None),
    };
    let next = call.visit.local(next.as_deref());
    let auth = &call.shared.auth;
    if auth.is_open() {
        return Ok(redirect(&next));
    }
    let name = &credentials.username;
    if let Some(what) = credentials.missing().filter(|_| is_form) {
        let problem = Problem::unprocessable(format!("the {what} is missing"));
        return Ok(pages::sign_in(&call, &next, name, Some(&problem)));
    }
    let now = call.visit.now;
    let identity = auth.by_password(name, &credentials.password, call.visit.address, now);
    let problem = match identity {
        Identity::Known(access) => {
            if let Some((value, expires_at)) = auth.begin(&access, now) {
                let mut response = match is_form {
                    true => redirect(&next),
                    false => json(&SignedIn {
                        username: name,
                        expires_at,
                    }),
                };
                set_session(
                    &mut response,
                    call.visit.is_https,
                    &value,
                    expires_at.since(now).as_secs(),
                );
                tracing::info!(user = %access.name, "signed in");
                return Ok(response);
            }
            // A password is a user's, so this does not happen.
            Problem::new(StatusCode::UNAUTHORIZED, WRONG)
        }
        Identity::Braked(wait_s) => braked(wait_s),
        Identity::Nobody | Identity::Wrong => Problem::new(StatusCode::UNAUTHORIZED, WRONG),
    };
    let address = call.visit.address.map(tracing::field::display);
    tracing::warn!(
        address,
        status = problem.status.as_u16(),
        "a sign-in was refused"
    );
    match is_form {
        true => Ok(pages::sign_in(&call, &next, name, Some(&problem))),
        false => Err(problem),
    }
}

const FORM: &str = "application/x-www-form-urlencoded";
const WRONG: &str = "wrong user name or password";

fn read_form(body: &[u8]) -> (Credentials, Option<String>) {
    let params = Params::of(body);
    let field = |name: &str| params.get(name).map(str::to_owned);
    let credentials = Credentials {
        username: field("username").unwrap_or_default(),
        password: field("password").unwrap_or_default(),
    };
    (credentials, field("next"))
}

/// `POST /auth/logout`.
pub(crate) async fn sign_out(
    call: Call,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let form = match is_content_type(&headers, FORM) {
        true => Some(Params::of(&read_body(body)?)),
        false => None,
    };
    if let Some(access) = &call.visit.who
        && let Some(session) = access.session
    {
        // A program with a cookie has no form; that it is no foreign page, the guard has seen.
        if let Some(form) = &form {
            let given = form.get("csrf").unwrap_or_default();
            if !is_form_token(access, given) {
                return Err(bad_form());
            }
        }
        call.shared.auth.end(session, call.visit.now);
    }
    let mut response = match form {
        Some(_) => redirect(&format!("{}/auth/login", call.visit.base)),
        None => json(&serde_json::json!({ "detail": "signed out" })),
    };
    for is_https in [true, false] {
        set_session(&mut response, is_https, "", 0);
    }
    Ok(response)
}

pub(crate) fn bad_form() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "the form is out of date: go back, reload the page and try again",
    )
}

/// Under https the cookie can be set by this host only and never travels in the clear.
fn set_session(response: &mut Response, is_https: bool, value: &str, max_age_s: u64) {
    let (name, secure) = match is_https {
        true => (auth::COOKIE_SECURE, "; Secure"),
        false => (auth::COOKIE_PLAIN, ""),
    };
    let text =
        format!("{name}={value}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Lax{secure}");
    let cookie = HeaderValue::from_str(&text).expect("the value is base64url");
    response.headers_mut().append(header::SET_COOKIE, cookie);
}
