//! The tower layer that gives tasks the tracking id of the request in which they are added.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use axum_taskflow_core::{Clock, IdSource, Tracking};
use tower_layer::Layer;
use tower_service::Service;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");

/// Gives each task that is added in a request the request's tracking id, and each response an `x-request-id` header.
///
/// The id is the first of these that there is: the [`Tracking`] that the service itself has put into the request's
/// extensions; the header `x-request-id`; the trace id of the header `traceparent`; a new UUID. A header that is no
/// tracking id, or that is there twice, counts as none. Handlers find it in the extensions, as
/// `Extension<Tracking>`.
///
/// ```
/// use axum::{Router, routing::post};
/// use axum_taskflow::{TaskError, TaskManager, Tasks, TrackingLayer, task};
///
/// #[task]
/// async fn send_email(address: String) {
///     tracing::info!("sent"); // the line says of which task it is, and of which request
/// }
///
/// async fn signup(tasks: Tasks, address: String) -> Result<(), TaskError> {
///     tasks.add_task(send_email, address).await?;
///     Ok(())
/// }
///
/// fn router(manager: TaskManager) -> Router {
///     Router::new()
///         .route("/signup", post(signup))
///         .layer(TrackingLayer::new())
///         .with_state(manager)
/// }
/// ```
#[derive(Clone, Debug)]
pub struct TrackingLayer(Arc<Maker>);

/// What new ids are made of, shared by all connections.
#[derive(Debug)]
struct Maker {
    ids: IdSource,
    clock: Clock,
}

impl TrackingLayer {
    /// A layer for a router, or for some of its routes.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Maker {
            ids: IdSource::default(),
            clock: Clock::system(),
        }))
    }
}

impl Default for TrackingLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for TrackingLayer {
    type Service = TrackingService<S>;

    fn layer(&self, inner: S) -> TrackingService<S> {
        TrackingService {
            inner,
            maker: self.0.clone(),
        }
    }
}

/// What a [`TrackingLayer`] makes of a service.
#[derive(Clone, Debug)]
pub struct TrackingService<S> {
    inner: S,
    maker: Arc<Maker>,
}

impl<S, B, R> Service<Request<B>> for TrackingService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let tracking = match request.extensions().get::<Tracking>() {
            Some(given) if given.id().is_some() => given.clone(),
            _ => self.maker.tracking_of(request.headers()),
        };
        request.extensions_mut().insert(tracking.clone());
        let echo = tracking.id().and_then(|id| HeaderValue::from_str(id).ok());
        // The call itself, too: a service may do its work there.
        let answer = tracking.clone().sync_scope(|| self.inner.call(request));
        Box::pin(async move {
            let mut response = tracking.scope(answer).await?;
            if let Some(echo) = echo {
                // The service's own word counts.
                response.headers_mut().entry(REQUEST_ID).or_insert(echo);
            }
            Ok(response)
        })
    }
}

impl Maker {
    fn tracking_of(&self, headers: &HeaderMap) -> Tracking {
        let parent = only(headers, &TRACE_PARENT).unwrap_or_default();
        let trace = Tracking::of_trace(parent, &all(headers, &TRACE_STATE)).unwrap_or_default();
        let named = only(headers, &REQUEST_ID).and_then(|id| trace.clone().with_id(id).ok());
        match named {
            Some(named) => named,
            None if trace.id().is_some() => trace,
            None => Tracking::new(self.ids.task(self.clock.now()).to_string())
                .expect("a UUID is short and visible"),
        }
    }
}

/// The header's text if it is there once: of two nobody knows which is right.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// A list may come in several headers, which together mean one.
fn all(headers: &HeaderMap, name: &HeaderName) -> String {
    let values = headers.get_all(name).iter();
    let texts: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn tracking(headers: &[(&HeaderName, &[u8])]) -> Tracking {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_bytes(value).expect("a header"));
        }
        TrackingLayer::new().0.tracking_of(&map)
    }

    fn id(tracking: &Tracking) -> &str {
        tracking.id().expect("each request has one")
    }

    fn is_made(tracking: &Tracking) -> bool {
        id(tracking).parse::<axum_taskflow_core::TaskId>().is_ok()
            && tracking.trace_context().is_none()
    }

    #[test]
    fn a_request_id_comes_before_a_trace_id() {
        let parent = (&TRACE_PARENT, PARENT.as_bytes());

        let both = tracking(&[(&REQUEST_ID, b"r-1"), parent]);
        assert_eq!(id(&both), "r-1");
        assert_eq!(both.trace_context().map(|it| &**it), Some(PARENT));

        let states = [(&TRACE_STATE, b"a=1".as_slice()), (&TRACE_STATE, b"b=2")];
        let trace = tracking(&[parent, states[0], states[1]]);
        assert_eq!(id(&trace), "0af7651916cd43dd8448eb211c80319c");
        let stored = format!("{PARENT} a=1,b=2");
        assert_eq!(trace.trace_context().map(|it| &**it), Some(&*stored));

        let request = tracking(&[(&REQUEST_ID, b"r-1")]);
        assert_eq!((id(&request), request.trace_context()), ("r-1", None));
    }

    #[test]
    fn hostile_headers_count_as_none() {
        assert!(is_made(&tracking(&[])));
        let long = vec![b'x'; 129];
        for hostile in [
            b"".as_slice(),
            b" ",
            b"a b",
            b"a\tb",
            b"\xff\xfe",
            "ä".as_bytes(),
            &long,
            &[b'x'; 100_000],
        ] {
            let made = tracking(&[(&REQUEST_ID, hostile)]);
            assert!(is_made(&made), "{made:?}");
            let made = tracking(&[(&TRACE_PARENT, hostile)]);
            assert!(is_made(&made), "{made:?}");
        }
        let twice = [(&REQUEST_ID, b"a".as_slice()), (&REQUEST_ID, b"b")];
        assert!(is_made(&tracking(&twice)));
        let parent = (&TRACE_PARENT, PARENT.as_bytes());
        assert!(is_made(&tracking(&[parent, parent])));
        // A wrong id does not take the trace with it.
        let trace = tracking(&[(&REQUEST_ID, b"a b"), parent]);
        assert_eq!(id(&trace), "0af7651916cd43dd8448eb211c80319c");
    }

    #[test]
    fn made_ids_differ() {
        let layer = TrackingLayer::new();
        let [one, other] = [(), ()].map(|()| layer.0.tracking_of(&HeaderMap::new()));

        assert_ne!(one.id(), other.id());
    }
}
