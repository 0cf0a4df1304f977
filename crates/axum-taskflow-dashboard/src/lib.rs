//! REST, pages and live updates for axum-taskflow, as one axum [`Router`] to mount anywhere.
//!
//! Services depend on `axum-taskflow`, which re-exports [`TaskAdmin`].
//!
//! # What is where
//! Below the mount, say `/tasks`, programs find the routes and the JSON of fastapi-taskflow (`GET /tasks`,
//! `GET /tasks/{id}`, `POST /tasks/{id}/retry` and so on), and people find the dashboard at `/tasks/dashboard`.
//! A browser that opens `/tasks` itself is sent there. The table of all routes is in this crate's `lib.rs`, once: the
//! router is built from it, the guard asks it, and a test walks it.
//!
//! # Who may
//! Everything but the sign-in and the stylesheet needs a sign-in, unless [`TaskAdmin::insecure_no_auth`] is written
//! in code. Users and tokens have [`Rights`]: to look, or to act as well. One layer around the router judges every
//! request, so that no handler can forget to.
//!
//! # What it costs
//! Nothing that the pages or the API do costs more because more tasks are stored: lists go on from an id, numbers come
//! from counters, and the live stream sends changes of what is on the screen. It sees the engine only through
//! the public methods of [`TaskManager`] and its event feed.

mod text;
mod problem;
mod query;
mod view;
mod auth;
mod guard;
mod stream;
mod actions;
mod pages;
mod sign_in;
mod api;
mod admin;

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::Method,
    middleware,
    routing::{MethodRouter, delete, get, post},
};
use axum_taskflow_core::TaskManager;
use tokio::sync::Semaphore;
use tower_http::compression::CompressionLayer;

pub use crate::{admin::TaskAdmin, auth::Rights};

/// All routes, relative to the mount. Fixed paths win over `{task_id}`, whatever their order.
const ROUTES: &[Route] = &[
    // For programs.
    Route::new(Verb::Get, "/", Right::Read, || get(api::list)),
    Route::new(Verb::Get, "/metrics", Right::Read, || get(api::metrics)),
    Route::new(Verb::Get, "/audit", Right::Read, || get(api::audit)),
    Route::new(Verb::Post, "/bulk-retry", Right::Operate, || {
        post(api::bulk_retry)
    }),
    Route::new(Verb::Post, "/retry-failed", Right::Operate, || {
        post(api::retry_failed)
    }),
    Route::new(Verb::Delete, "/history", Right::Operate, || {
        delete(api::delete_history)
    }),
    Route::new(Verb::Get, "/{task_id}", Right::Read, || get(api::task)),
    Route::new(Verb::Post, "/{task_id}/retry", Right::Operate, || {
        post(api::retry)
    }),
    Route::new(Verb::Post, "/{task_id}/cancel", Right::Operate, || {
        post(api::cancel)
    }),
    // For people.
    Route::new(Verb::Get, "/dashboard", Right::Read, || get(pages::list)),
    Route::new(Verb::Get, "/dashboard/t/{task_id}", Right::Read, || {
        get(pages::task)
    }),
    Route::new(
        Verb::Post,
        "/dashboard/t/{task_id}/retry",
        Right::Operate,
        || post(actions::retry),
    ),
    Route::new(
        Verb::Post,
        "/dashboard/t/{task_id}/cancel",
        Right::Operate,
        || post(actions::cancel),
    ),
    Route::new(Verb::Post, "/dashboard/prefs", Right::Read, || {
        post(actions::prefs)
    }),
    Route::new(Verb::Get, "/dashboard/stream", Right::Read, || {
        get(stream::open)
    }),
    Route::new(Verb::Get, "/dashboard/assets/{file}", Right::Open, || {
        get(pages::asset)
    }),
    // The door.
    Route::new(Verb::Get, "/auth/login", Right::Open, || get(sign_in::page)),
    Route::new(Verb::Post, "/auth/login", Right::Open, || {
        post(sign_in::sign_in)
    }),
    Route::new(Verb::Post, "/auth/logout", Right::Read, || {
        post(sign_in::sign_out)
    }),
];

/// One line of the table.
struct Route {
    verb: Verb,
    path: &'static str,
    right: Right,
    handler: fn() -> MethodRouter<Arc<Shared>>,
}

impl Route {
    const fn new(
        verb: Verb,
        path: &'static str,
        right: Right,
        handler: fn() -> MethodRouter<Arc<Shared>>,
    ) -> Self {
        Self {
            verb,
            path,
            right,
            handler,
        }
    }
}

/// What a route needs of whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Right {
    /// Nothing.
    Open,
    /// A sign-in.
    Read,
    /// A sign-in with [`Rights::Operate`].
    Operate,
}

/// The methods in the table; [`Method`] itself cannot stand in a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Get,
    Post,
    Delete,
}

impl Verb {
    fn method(self) -> Method {
        match self {
            Self::Get => Method::GET,
            Self::Post => Method::POST,
            Self::Delete => Method::DELETE,
        }
    }
}

/// What all requests share.
#[derive(Debug)]
struct Shared {
    manager: TaskManager,
    auth: auth::Auth,
    title: String,
    public_path: Option<String>,
    is_https: bool,
    /// One permit for each stream that may be open.
    streams: Arc<Semaphore>,
}

/// Bytes of a request's body at most: a thousand ids, and room to spare.
const BODY_BYTES_MAX: usize = 256 * 1024;

fn router<S: Clone + Send + Sync + 'static>(shared: Arc<Shared>) -> Router<S> {
    ROUTES
        .iter()
        .fold(Router::new(), |router, route| {
            router.route(route.path, (route.handler)())
        })
        .method_not_allowed_fallback(api::wrong_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(shared.clone(), guard::guard))
        // Lists repeat themselves: a page of 60 KB travels as 6. It leaves streams and small answers alone.
        .layer(CompressionLayer::new())
        .with_state(shared)
}
