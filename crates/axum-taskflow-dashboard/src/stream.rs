//! Live updates: server-sent events with what changed of what is on the screen.
//!
//! There is no task and no channel for a viewer. The body of the answer is polled when the browser's connection has
//! room, and only then events are taken from the feed, merged and written: a slow browser gets fewer and fuller
//! frames, and a stuck one falls behind in the feed, which holds up nobody and keeps a bounded amount for all of them.

mod view;
mod viewer;

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response, sse::Sse},
};
use axum_taskflow_core::Timestamp;
use futures_util::stream;

use self::{view::View, viewer::Viewer};
use crate::{Shared, auth::Session, guard::Call, problem::Problem};

/// Live pages of one session, or of one user or token without a session: a person with all tabs open must not leave
/// none to others.
const STREAMS_OF_ONE_MAX: usize = 8;

/// `GET /dashboard/stream`: of one task (`id`), of schedules or holders (`page`), or of a page of the list (`lo`, `hi` and
/// the page's filter).
pub(crate) async fn open(call: Call, headers: HeaderMap) -> Result<Response, Problem> {
    let view = View::of(&call)?;
    let permit = call.shared.streams.permit(&call)?;
    let viewer = Viewer::new(&call, view, synced_at(&call, &headers)?, permit);
    let frames = stream::unfold(viewer, |mut viewer| async move {
        let frame = viewer.next().await?;
        Some((Ok::<_, Infallible>(frame), viewer))
    });
    let mut response = Sse::new(frames).into_response();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store, no-transform"),
        // nginx keeps answers back unless it is told not to.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// Who has how many pages open.
#[derive(Debug)]
pub(crate) struct Streams {
    max: usize,
    /// A std mutex: held for one look-up.
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    n: usize,
    /// Those of each person; nobody is in it with none.
    of: HashMap<Person, usize>,
}

/// Whose pages are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Person {
    Session(Session),
    /// Signed in with each request.
    Name(Arc<str>),
    /// Anybody, where nobody has to sign in: they cannot be told apart, so only all streams together have a bound.
    Anybody,
}

/// Given back when the stream is dropped.
struct Permit {
    shared: Arc<Shared>,
    person: Person,
}

impl Streams {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            open: Mutex::default(),
        }
    }

    fn permit(&self, call: &Call) -> Result<Permit, Problem> {
        let person = match &call.visit.who {
            _ if call.shared.auth.is_open() => Person::Anybody,
            Some(who) => match who.session {
                Some(session) => Person::Session(session),
                None => Person::Name(who.name.clone()),
            },
            None => Person::Anybody, // the guard lets nobody come here
        };
        let mut open = self.open();
        let n_own = open.of.get(&person).copied().unwrap_or(0);
        if n_own >= STREAMS_OF_ONE_MAX && person != Person::Anybody {
            return Err(too_many(format!(
                "{n_own} of your pages are live already: close one of them, and this one will be"
            )));
        }
        if open.n >= self.max {
            let detail = "too many pages are live already: this one is read anew now and then";
            return Err(too_many(detail));
        }
        open.n += 1;
        *open.of.entry(person.clone()).or_default() += 1;
        Ok(Permit {
            shared: call.shared.clone(),
            person,
        })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.shared.streams.open();
        open.n = open.n.saturating_sub(1);
        if let Some(n) = open.of.get_mut(&self.person) {
            *n = n.saturating_sub(1);
            if *n == 0 {
                open.of.remove(&self.person);
            }
        }
    }
}

fn too_many(detail: impl Into<String>) -> Problem {
    Problem::try_later(StatusCode::SERVICE_UNAVAILABLE, 10, detail)
}

/// Up to when the page knows everything: by the id of the last frame that it got, or by when it was printed.
fn synced_at(call: &Call, headers: &HeaderMap) -> Result<Timestamp, Problem> {
    let printed_ms = call.params.number("since", 0, i64::MAX.unsigned_abs())?;
    let heard_ms = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok());
    let ms = heard_ms.or(printed_ms);
    Ok(ms.map_or(call.visit.now, |ms| {
        Timestamp::from_unix_ms(i64::try_from(ms).unwrap_or(i64::MAX))
    }))
}
