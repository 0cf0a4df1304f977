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
//! Everything but the sign-in, the files of the page and `GET /tasks/health`, which shows no data, needs a sign-in,
//! unless [`TaskAdmin::insecure_no_auth`] is written in code. Users and tokens have [`Rights`]: to look, or to act as well. One layer around the router judges every
//! request, so that no handler can forget to.
//!
//! # What it costs
//! Nothing that the pages or the API do costs more because more tasks are stored: lists go on from an id, numbers come
//! from counters, and the live stream sends changes of what is on the screen. It sees the engine only through
//! the public methods of [`TaskManager`] and its event feed.

mod text;
mod problem;
mod query;
mod runners;
mod view;
mod auth;
mod proxies;
mod guard;
mod instances;
mod stream;
mod actions;
mod pages;
mod sign_in;
mod api;
mod health;
mod holders;
mod scheduled;
mod schedules;
mod admin;

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::Method,
    middleware,
    routing::{MethodRouter, any, delete, get, post},
};
use axum_taskflow_core::TaskManager;
use tower_http::compression::CompressionLayer;

pub use crate::{admin::TaskAdmin, auth::Rights};

/// All routes, relative to the mount. Fixed paths win over `{task_id}`, whatever their order.
const ROUTES: &[Route] = &[
    // For programs.
    Route::new(Verb::Get, "/", Right::Read, || get(api::list)),
    Route::new(Verb::Get, "/metrics", Right::Read, || get(api::metrics)),
    Route::new(Verb::Get, "/audit", Right::Read, || get(api::audit)),
    Route::new(Verb::Get, "/instances", Right::Read, || {
        get(instances::list)
    }),
    Route::new(Verb::Get, "/holders", Right::Read, || get(holders::list)),
    Route::new(Verb::Post, "/holders/release", Right::Operate, || {
        post(holders::release)
    }),
    Route::new(Verb::Get, "/schedules", Right::Read, || {
        get(schedules::list)
    }),
    Route::new(Verb::Post, "/schedules/pause", Right::Operate, || {
        post(schedules::pause)
    }),
    Route::new(Verb::Post, "/schedules/resume", Right::Operate, || {
        post(schedules::resume)
    }),
    Route::new(Verb::Post, "/schedules/run", Right::Operate, || {
        post(schedules::run)
    }),
    Route::new(Verb::Post, "/schedules", Right::Operate, || {
        post(schedules::define)
    }),
    Route::new(Verb::Delete, "/schedules", Right::Operate, || {
        delete(schedules::delete)
    }),
    Route::new(Verb::Get, "/scheduled", Right::Read, || {
        get(scheduled::list)
    }),
    Route::new(Verb::Post, "/scheduled", Right::Operate, || {
        post(scheduled::add)
    }),
    Route::new(Verb::Delete, "/scheduled", Right::Operate, || {
        delete(scheduled::cancel)
    }),
    Route::new(Verb::Get, "/health", Right::Open, || get(health::health)),
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
    Route::new(Verb::Post, "/dashboard/retry-all", Right::Operate, || {
        post(actions::retry_all)
    }),
    Route::new(Verb::Get, "/dashboard/audit", Right::Read, || {
        get(pages::audit::page)
    }),
    Route::new(Verb::Get, "/dashboard/schedules", Right::Read, || {
        get(pages::duties::schedules)
    }),
    Route::new(
        Verb::Post,
        "/dashboard/schedules/pause",
        Right::Operate,
        || post(pages::duties::pause),
    ),
    Route::new(
        Verb::Post,
        "/dashboard/schedules/resume",
        Right::Operate,
        || post(pages::duties::resume),
    ),
    Route::new(
        Verb::Post,
        "/dashboard/schedules/run",
        Right::Operate,
        || post(pages::duties::run),
    ),
    Route::new(
        Verb::Post,
        "/dashboard/schedules/delete",
        Right::Operate,
        || post(pages::duties::delete),
    ),
    Route::new(Verb::Get, "/dashboard/holders", Right::Read, || {
        get(pages::duties::holders)
    }),
    Route::new(
        Verb::Post,
        "/dashboard/holders/release",
        Right::Operate,
        || post(pages::duties::release),
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
    proxies: proxies::Proxies,
    title: String,
    public_path: Option<String>,
    is_https: bool,
    streams: stream::Streams,
}

/// Bytes of a request's body at most: a thousand ids, and room to spare.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// Below a mount: every path there is ours, also those that nothing is at.
fn router<S: Clone + Send + Sync + 'static>(shared: Arc<Shared>) -> Router<S> {
    // Not a fallback: axum cannot nest one below a parameter, as in `/{tenant}/tasks`.
    let table = table()
        .route("/{task_id}/", any(pages::missing))
        .route("/{task_id}/{*rest}", any(pages::missing));
    guarded(table, shared)
}

/// The same at the root, where all other paths are the service's own.
fn router_at_root<S: Clone + Send + Sync + 'static>(shared: Arc<Shared>) -> Router<S> {
    guarded(table(), shared)
}

fn table() -> Router<Arc<Shared>> {
    ROUTES
        .iter()
        .fold(Router::new(), |router, route| {
            router.route(route.path, (route.handler)())
        })
        .method_not_allowed_fallback(api::wrong_method)
}

/// Around the routes, and not around what the service does with other paths.
fn guarded<S: Clone + Send + Sync + 'static>(
    router: Router<Arc<Shared>>,
    shared: Arc<Shared>,
) -> Router<S> {
    router
        .route_layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .route_layer(middleware::from_fn_with_state(shared.clone(), guard::guard))
        // Lists repeat themselves: a page of 60 KB travels as 6. It leaves streams and small answers alone.
        .route_layer(CompressionLayer::new())
        .with_state(shared)
}

#[cfg(test)]
mod tests {
    use axum::{
        body::Body,
        http::{Request, StatusCode},
    };
    use axum_taskflow_core::Config;
    use tower::ServiceExt;

    use super::*;

    async fn admin() -> TaskAdmin {
        let mut config = Config::default();
        config.collect = false;
        TaskAdmin::new(&TaskManager::start(config).await.unwrap())
    }

    async fn ask(
        app: &Router,
        route: &Route,
        headers: &[(&str, &str)],
    ) -> axum::response::Response {
        let id = "01993f8a-41c2-7b1e-9d0a-5a2f1c9e7d10";
        let path = route.path.replace("{task_id}", id).replace("{file}", "x");
        let mut request = Request::builder()
            .method(route.verb.method())
            .uri(path.trim_end_matches('/').to_owned() + if path == "/" { "/" } else { "" });
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        app.clone().oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn no_route_answers_without_a_sign_in_but_those_that_are_open() {
        let app: Router = admin().await.auth("ada", "secret").routes();
        let forged = ("cookie", "tf_session=AAAA.AAAA");

        for route in ROUTES {
            for accept in ["*/*", "text/html", "text/event-stream", "application/json"] {
                for headers in [vec![("accept", accept)], vec![("accept", accept), forged]] {
                    let status = ask(&app, route, &headers).await.status();
                    let is_shut =
                        matches!(status, StatusCode::UNAUTHORIZED | StatusCode::SEE_OTHER);
                    assert_eq!(
                        is_shut,
                        route.right != Right::Open,
                        "{} {status}",
                        route.path
                    );
                }
            }
        }
    }

    #[tokio::test]
    async fn the_open_routes_are_the_door_the_files_of_the_page_and_the_health_that_shows_no_data()
    {
        let open = ROUTES.iter().filter(|route| route.right == Right::Open);
        let open: Vec<_> = open.map(|route| (route.verb, route.path)).collect();

        assert_eq!(
            open,
            [
                (Verb::Get, "/health"),
                (Verb::Get, "/dashboard/assets/{file}"),
                (Verb::Get, "/auth/login"),
                (Verb::Post, "/auth/login"),
            ]
        );
    }

    #[tokio::test]
    async fn every_answer_carries_the_headers_that_keep_browsers_safe() {
        let shut: Router = admin().await.auth("ada", "secret").routes();
        let open: Router = admin().await.insecure_no_auth().routes();

        for (app, route) in ROUTES
            .iter()
            .flat_map(|route| [(&shut, route), (&open, route)])
        {
            let response = ask(app, route, &[("accept", "text/html")]).await;
            let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
            assert_eq!(
                header("content-security-policy"),
                "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                 form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
                "{}",
                route.path
            );
            assert_eq!(header("x-content-type-options"), "nosniff");
            assert_eq!(header("referrer-policy"), "same-origin");
            assert_eq!(header("cross-origin-opener-policy"), "same-origin");
            assert_eq!(header("x-robots-tag"), "noindex");
            assert!(
                header("cache-control").contains("no-store"),
                "{}",
                route.path
            );
        }
    }

    #[test]
    fn what_changes_something_needs_the_right_to_but_for_a_persons_own_settings() {
        for route in ROUTES.iter().filter(|route| route.verb != Verb::Get) {
            let own = ["/auth/login", "/auth/logout", "/dashboard/prefs"];
            assert_eq!(
                route.right == Right::Operate,
                !own.contains(&route.path),
                "{}",
                route.path
            );
        }
        for route in ROUTES.iter().filter(|route| route.verb == Verb::Get) {
            assert_ne!(route.right, Right::Operate, "{}", route.path);
        }
    }
}
