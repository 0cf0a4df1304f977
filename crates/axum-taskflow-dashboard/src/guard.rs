//! The one layer around everything: who asks, may they, is it their own page that asks, and what every answer says.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Extension,
    extract::{ConnectInfo, FromRequestParts, OriginalUri, RawPathParams, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use axum_taskflow_core::{TaskId, Timestamp};
use tracing::Instrument;

use crate::{
    ROUTES, Right, Route, Shared,
    auth::{self, Access, Cookies, Identity, Rights},
    problem::Problem,
    query::Params,
};

/// What the guard found out about a request, for the handlers.
#[derive(Clone, Debug)]
pub(crate) struct Visit {
    /// Where the routes are mounted, as the browser sees it; without a slash at the end.
    pub(crate) base: String,
    /// The path and query below `base`.
    pub(crate) below: String,
    /// Who asks; nobody only on the few open routes.
    pub(crate) who: Option<Access>,
    /// True for a person with a browser, who wants a page and not JSON.
    pub(crate) wants_html: bool,
    /// True if the browser is known to use https.
    pub(crate) is_https: bool,
    /// The client's, and not that of a trusted proxy; nothing if the service is served without the peers' addresses.
    pub(crate) address: Option<IpAddr>,
    pub(crate) theme: Theme,
    /// What the last action came to, told once.
    pub(crate) flash: Option<Flash>,
    pub(crate) now: Timestamp,
}

impl Visit {
    /// For the audit log.
    pub(crate) fn actor(&self) -> &str {
        self.who.as_ref().map_or("nobody", |who| &who.name)
    }

    pub(crate) fn may_operate(&self) -> bool {
        matches!(&self.who, Some(who) if who.rights == Rights::Operate)
    }

    pub(crate) fn dashboard(&self) -> String {
        format!("{}/dashboard", self.base)
    }

    /// The page where a person can go back to: a local path below the dashboard, or the dashboard itself. Whatever
    /// else somebody writes into a link leads nowhere else.
    pub(crate) fn local(&self, path: Option<&str>) -> String {
        let dashboard = self.dashboard();
        match path {
            Some(path) if is_below(path, &dashboard) => path.to_owned(),
            _ => dashboard,
        }
    }
}

fn is_below(path: &str, dashboard: &str) -> bool {
    path.len() <= 4_096
        && path
            .strip_prefix(dashboard)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
        // No other host, no way up, nothing that ends the header early.
        && path.starts_with('/')
        && !path.starts_with("//")
        && !leads_up(path)
        && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
}

/// True if a browser would leave a folder on this way: it reads `%2e` as a dot. A question may have dots.
fn leads_up(path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    path.to_ascii_lowercase().replace("%2e", ".").contains("..")
}

/// Which colours somebody chose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Theme {
    #[default]
    System,
    Light,
    Dark,
}

impl Theme {
    pub(crate) fn of(word: Option<&str>) -> Self {
        match word {
            Some("light") => Self::Light,
            Some("dark") => Self::Dark,
            _ => Self::System,
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::System => "",
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }
}

/// What an action came to, in the cookie that carries it over the redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flash {
    Retried(TaskId),
    Added(TaskId),
    Cancelled(TaskId),
    Asked(TaskId),
    Sent(TaskId),
    /// A lead, a lock or a run.
    Released,
    Many(Many),
}

/// What a retry of many came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Many {
    pub(crate) retried: usize,
    pub(crate) skipped: usize,
    /// Those that are left stand on the page.
    pub(crate) has_more: bool,
}

impl Many {
    /// `many.12.3.1`, as [`Flash::cookie`] writes it.
    fn of(text: &str) -> Option<Self> {
        let mut numbers = text.split('.').map(|n| n.parse().ok());
        let (retried, skipped, more) = (numbers.next()??, numbers.next()??, numbers.next()??);
        Some(Self {
            retried,
            skipped,
            has_more: more > 0,
        })
    }
}

impl fmt::Display for Many {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.retried {
            1 => write!(f, "Retried 1 task as a new one")?,
            n => write!(f, "Retried {n} tasks as new ones")?,
        }
        if self.skipped > 0 {
            write!(
                f,
                ", and left out {} that cannot be retried or have been",
                self.skipped
            )?;
        }
        f.write_str(match self.has_more {
            true => ". Older ones are left: here they are.",
            false => ".",
        })
    }
}

impl Flash {
    fn of(text: &str) -> Option<Self> {
        if text == "released" {
            return Some(Self::Released);
        }
        if let Some(many) = text.strip_prefix("many.") {
            return Many::of(many).map(Self::Many);
        }
        let (word, id) = text.split_once('.')?;
        let id = id.parse().ok()?;
        match word {
            "retried" => Some(Self::Retried(id)),
            "added" => Some(Self::Added(id)),
            "cancelled" => Some(Self::Cancelled(id)),
            "asked" => Some(Self::Asked(id)),
            "sent" => Some(Self::Sent(id)),
            _ => None,
        }
    }

    pub(crate) fn cookie(self) -> HeaderValue {
        let value = match self {
            Self::Retried(id) => format!("retried.{id}"),
            Self::Added(id) => format!("added.{id}"),
            Self::Cancelled(id) => format!("cancelled.{id}"),
            Self::Asked(id) => format!("asked.{id}"),
            Self::Sent(id) => format!("sent.{id}"),
            Self::Released => "released".to_owned(),
            Self::Many(many) => format!(
                "many.{}.{}.{}",
                many.retried,
                many.skipped,
                u8::from(many.has_more)
            ),
        };
        let text = format!("{FLASH_COOKIE}={value}; Path=/; Max-Age=20; HttpOnly; SameSite=Lax");
        text.parse()
            .expect("words, ids and numbers are visible ASCII")
    }
}

const FLASH_COOKIE: &str = "tf_flash";
const FLASH_GONE: HeaderValue =
    HeaderValue::from_static("tf_flash=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax");
const THEME_COOKIE: &str = "tf_theme";

/// The cookie that keeps a theme for a year.
pub(crate) fn theme_cookie(theme: Theme) -> HeaderValue {
    let word = theme.word();
    let text = format!("{THEME_COOKIE}={word}; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax");
    text.parse().expect("the words are visible ASCII")
}

/// Lets a request through, or answers it.
pub(crate) async fn guard(
    State(shared): State<Arc<Shared>>,
    mut request: Request,
    next: Next,
) -> Response {
    let right = right_of(request.method(), request.uri().path());
    let (visit, identity) = look(&shared, &request, right);
    let asset = request.uri().path().starts_with(ASSETS);
    let mut response = match refuse(&shared, &request, right, &visit, &identity) {
        Some(refusal) => refusal,
        None => {
            let told = visit.flash.is_some() && visit.wants_html;
            request.extensions_mut().insert(Arc::new(visit));
            let mut response = match right {
                Right::Operate => to_the_end(next.run(request)).await,
                Right::Open | Right::Read => next.run(request).await,
            };
            if told && response.status() == StatusCode::OK {
                response
                    .headers_mut()
                    .append(header::SET_COOKIE, FLASH_GONE);
            }
            response
        }
    };
    secure(response.headers_mut(), asset);
    response
}

/// Answers in a task of its own. When a client hangs up, what answers it is dropped where it stands, and an action
/// would be done without its record in the audit log. It is not waited for at shutdown; the store's deadlines end it.
async fn to_the_end(answer: impl Future<Output = Response> + Send + 'static) -> Response {
    match tokio::spawn(answer.in_current_span()).await {
        Ok(response) => response,
        Err(failed) => match failed.try_into_panic() {
            // As if it had been here: whoever catches panics of handlers wants this one, too.
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => {
                let detail = "the service is shutting down: what was asked for may have been done";
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).into_response()
            }
        },
    }
}

const ASSETS: &str = "/dashboard/assets/";

fn look(shared: &Shared, request: &Request, right: Right) -> (Visit, Identity) {
    let headers = request.headers();
    let now = shared.manager.now();
    let peer = request
        .extensions()
        .get::<ConnectInfo<SocketAddr>>()
        .map(|ConnectInfo(address)| address.ip());
    let address = shared.proxies.client(peer, headers);
    let certainly_https = shared.is_https || is_forwarded_https(request);
    let cookies = match certainly_https {
        true => Cookies::Secure,
        false => Cookies::Any,
    };
    let identity = match right {
        Right::Open => shared.auth.recognise(headers, cookies, now),
        Right::Read | Right::Operate => shared.auth.identify(headers, cookies, address, now),
    };
    let visit = Visit {
        base: base(shared, request),
        below: request
            .uri()
            .path_and_query()
            .map_or_else(String::new, ToString::to_string),
        who: match &identity {
            Identity::Known(access) => Some(access.clone()),
            _ => None,
        },
        wants_html: is_safe(request.method()) && accepts_html(headers),
        // `Origin` is the browser's own word. Not all requests have it, so it decides only how a cookie is set.
        is_https: certainly_https || header_is(headers, "origin", |it| it.starts_with("https://")),
        address,
        theme: Theme::of(auth::cookie(headers, THEME_COOKIE)),
        flash: auth::cookie(headers, FLASH_COOKIE).and_then(Flash::of),
        now,
    };
    (visit, identity)
}

/// Where the routes are mounted: what the browser asked for, without what is left of it here.
fn base(shared: &Shared, request: &Request) -> String {
    if let Some(path) = &shared.public_path {
        return path.clone();
    }
    let inner = request.uri().path();
    let outer = request
        .extensions()
        .get::<OriginalUri>()
        .map_or(inner, |OriginalUri(uri)| uri.path());
    let base = match outer.strip_suffix(inner) {
        Some(base) => base,
        // `nest("/tasks", …)` gives "/" for "/tasks".
        None if inner == "/" => outer,
        None => "",
    };
    base.trim_end_matches('/').to_owned()
}

fn refuse(
    shared: &Shared,
    request: &Request,
    right: Right,
    visit: &Visit,
    identity: &Identity,
) -> Option<Response> {
    let proof = Proof::of(request.headers());
    if right != Right::Open {
        match identity {
            Identity::Known(access) => {
                if right == Right::Operate && access.rights != Rights::Operate {
                    let detail = format!("{} may look, but change nothing", access.name);
                    return Some(Problem::new(StatusCode::FORBIDDEN, detail).into_response());
                }
            }
            Identity::Braked(wait_s) => return Some(braked(*wait_s).into_response()),
            // Also from a form: a page may be open for longer than its session.
            Identity::Nobody | Identity::Wrong if accepts_html(request.headers()) => {
                return Some(to_sign_in(visit, request));
            }
            Identity::Nobody | Identity::Wrong => return Some(unauthorized(identity)),
        }
    }
    if is_safe(request.method()) {
        return None;
    }
    // Browsers send a cookie with whatever page makes them ask. So a request that comes with one has to prove that
    // our own page asks; any other is refused only if it says that a foreign page does.
    let has_session =
        !shared.auth.is_open() && matches!(&visit.who, Some(who) if who.session.is_some());
    match proof {
        Proof::SameOrigin => None,
        Proof::Nothing if !has_session => None,
        Proof::Nothing => Some(
            "a change with a session cookie needs a Sec-Fetch-Site or Origin header, as browsers send them; \
             programs sign in with an Authorization header instead",
        ),
        Proof::Foreign => Some("another site asked for this change, so it was not made"),
    }
    .map(|detail| Problem::new(StatusCode::FORBIDDEN, detail).into_response())
}

pub(crate) fn braked(wait_s: u64) -> Problem {
    let detail = format!("too many wrong passwords: try again in {wait_s} s");
    Problem::try_later(StatusCode::TOO_MANY_REQUESTS, wait_s, detail)
}

fn unauthorized(identity: &Identity) -> Response {
    let detail = match identity {
        Identity::Wrong => "wrong credentials, or a session that is over",
        _ => "sign in first: Authorization: Basic or Bearer, or the cookie of POST auth/login",
    };
    let mut response = Problem::new(StatusCode::UNAUTHORIZED, detail).into_response();
    // Not "Basic": browsers would open their own window for it above ours.
    let challenge = HeaderValue::from_static("Bearer realm=\"tasks\"");
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, challenge);
    response
}

fn to_sign_in(visit: &Visit, request: &Request) -> Response {
    let mut location = format!("{}/auth/login", visit.base);
    let wanted = match is_safe(request.method()) {
        true => format!("{}{}", visit.base, visit.below),
        false => page_of_form(request.headers()),
    };
    if visit.local(Some(&wanted)) == wanted && wanted != visit.dashboard() {
        let next = form_urlencoded::Serializer::new(String::new())
            .append_pair("next", &wanted)
            .finish();
        location.push('?');
        location.push_str(&next);
    }
    redirect(&location)
}

/// The path and query of the page that a form stood on, or nothing.
fn page_of_form(headers: &HeaderMap) -> String {
    let referer = headers.get(header::REFERER);
    let page = referer
        .and_then(|value| value.to_str().ok()?.parse::<Uri>().ok())
        .and_then(|page| page.path_and_query().map(ToString::to_string));
    page.unwrap_or_default()
}

/// Sends a browser elsewhere, with GET.
pub(crate) fn redirect(location: &str) -> Response {
    match HeaderValue::from_str(location) {
        Ok(location) => (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response(),
        Err(_) => Problem::unprocessable("the address of the page cannot be used").into_response(),
    }
}

/// What a request needs. What is in no table needs the most: nothing is open by being forgotten.
fn right_of(method: &Method, path: &str) -> Right {
    let found = ROUTES.iter().find(|route| route.fits(method, path));
    match found {
        Some(route) => route.right,
        None if is_safe(method) => Right::Read,
        None => Right::Operate,
    }
}

impl Route {
    fn fits(&self, method: &Method, path: &str) -> bool {
        let method = if *method == Method::HEAD {
            &Method::GET
        } else {
            method
        };
        let mut ours = self.path.split('/');
        let mut theirs = path.split('/');
        *method == self.verb.method()
            && loop {
                match (ours.next(), theirs.next()) {
                    (None, None) => break true,
                    (Some(our), Some(their)) if our == their => {}
                    (Some(our), Some(their)) if our.starts_with('{') && !their.is_empty() => {}
                    _ => break false,
                }
            }
    }
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// True if the client prefers a page: browsers name `text/html` when somebody opens an address.
fn accepts_html(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.to_ascii_lowercase().contains("text/html"))
}

/// True if the browser uses https, by the connection or by what a proxy says. A wrong guess costs nothing but a cookie
/// and its flag, so a proxy's word needs no proof.
fn is_forwarded_https(request: &Request) -> bool {
    let is_https = |proto: &str| {
        let first = proto.split(',').next().unwrap_or_default();
        first.trim().eq_ignore_ascii_case("https")
    };
    request.uri().scheme_str() == Some("https")
        || header_is(request.headers(), "x-forwarded-proto", is_https)
}

fn header_is(headers: &HeaderMap, name: &str, is: impl FnOnce(&str) -> bool) -> bool {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.is_some_and(is)
}

/// What a request's headers say about the page that made the browser ask.
#[derive(Debug, PartialEq, Eq)]
enum Proof {
    SameOrigin,
    Foreign,
    /// Not a browser, or one from before 2020.
    Nothing,
}

impl Proof {
    fn of(headers: &HeaderMap) -> Self {
        if let Some(site) = headers.get("sec-fetch-site") {
            return match site.as_bytes() {
                b"same-origin" => Self::SameOrigin,
                _ => Self::Foreign,
            };
        }
        let Some(origin) = headers.get(header::ORIGIN) else {
            return Self::Nothing;
        };
        let Some(origin) = origin
            .to_str()
            .ok()
            .and_then(|origin| origin.parse::<Uri>().ok())
        else {
            return Self::Foreign;
        };
        // A proxy may have put its own name into `Host`. A foreign page cannot set the other one: a browser asks
        // before it sends a header like that elsewhere, and nobody answers.
        let is_ours = [header::HOST, HeaderName::from_static("x-forwarded-host")]
            .iter()
            .filter_map(|name| headers.get(name)?.to_str().ok())
            .any(|host| is_same_host(&origin, host));
        if is_ours {
            Self::SameOrigin
        } else {
            Self::Foreign
        }
    }
}

/// Compares host and port; browsers leave out the usual port of a scheme.
fn is_same_host(origin: &Uri, host: &str) -> bool {
    let Some(authority) = origin.authority() else {
        return false;
    };
    let usual = match origin.scheme_str() {
        Some("https") => ":443",
        _ => ":80",
    };
    let short = |host: &str| {
        let host = host.trim().to_ascii_lowercase();
        host.strip_suffix(usual).map(str::to_owned).unwrap_or(host)
    };
    short(authority.as_str()) == short(host)
}

/// What every answer says to browsers.
fn secure(headers: &mut HeaderMap, is_asset: bool) {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                          form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (HeaderName::from_static("x-robots-tag"), "noindex"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if !is_asset {
        headers.append(header::VARY, HeaderValue::from_static("accept, cookie"));
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("private, no-store"));
}

/// A request that came through the guard.
pub(crate) struct Call {
    pub(crate) shared: Arc<Shared>,
    pub(crate) visit: Arc<Visit>,
    pub(crate) params: Params,
    /// The last parameter of the path, as it was sent; there may be others where we are nested.
    tail: Option<String>,
}

impl Call {
    /// The task that the path names. What is no id names no task.
    pub(crate) fn task_id(&self) -> Result<TaskId, Problem> {
        let text = self.tail.as_deref().unwrap_or_default();
        text.parse().map_err(|_| {
            let head: String = text.chars().take(64).collect();
            Problem::no_task_id(&head)
        })
    }

    /// The file that the path names.
    pub(crate) fn file(&self) -> &str {
        self.tail.as_deref().unwrap_or_default()
    }
}

impl FromRequestParts<Arc<Shared>> for Call {
    type Rejection = Response;

    async fn from_request_parts(
        parts: &mut Parts,
        shared: &Arc<Shared>,
    ) -> Result<Self, Self::Rejection> {
        let Extension(visit) = Extension::<Arc<Visit>>::from_request_parts(parts, shared)
            .await
            .map_err(IntoResponse::into_response)?;
        // A path that is no UTF-8 names nothing.
        let path = RawPathParams::from_request_parts(parts, shared).await.ok();
        let tail = path.and_then(|path| path.iter().last().map(|(_, value)| value.to_owned()));
        Ok(Self {
            shared: shared.clone(),
            visit,
            params: Params::of(parts.uri.query().unwrap_or_default().as_bytes()),
            tail,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(pairs: &[(&'static str, &str)]) -> Proof {
        Proof::of(&HeaderMap::from_iter(pairs.iter().map(|(name, value)| {
            (HeaderName::from_static(name), value.parse().unwrap())
        })))
    }

    #[test]
    fn only_our_own_page_is_of_the_same_origin() {
        assert_eq!(proof(&[]), Proof::Nothing);
        assert_eq!(
            proof(&[("sec-fetch-site", "same-origin")]),
            Proof::SameOrigin
        );
        for site in ["cross-site", "same-site", "none", ""] {
            // A browser's word about the site counts more than an origin.
            let headers = [
                ("sec-fetch-site", site),
                ("origin", "http://a.example"),
                ("host", "a.example"),
            ];
            assert_eq!(proof(&headers), Proof::Foreign, "{site}");
        }
        let origin = |origin, host| proof(&[("origin", origin), ("host", host)]);
        assert_eq!(origin("http://a.example", "a.example"), Proof::SameOrigin);
        assert_eq!(
            origin("http://a.example", "A.example:80"),
            Proof::SameOrigin
        );
        assert_eq!(
            origin("https://a.example", "a.example:443"),
            Proof::SameOrigin
        );
        assert_eq!(origin("http://[::1]:3000", "[::1]:3000"), Proof::SameOrigin);
        assert_eq!(origin("http://a.example:3000", "a.example"), Proof::Foreign);
        assert_eq!(origin("http://b.example", "a.example"), Proof::Foreign);
        assert_eq!(
            origin("http://a.example.b.example", "a.example"),
            Proof::Foreign
        );
        assert_eq!(origin("null", "a.example"), Proof::Foreign);
        assert_eq!(origin("", "a.example"), Proof::Foreign);
        let proxied = [
            ("origin", "https://a.example"),
            ("host", "10.0.0.7:3000"),
            ("x-forwarded-host", "a.example"),
        ];
        assert_eq!(proof(&proxied), Proof::SameOrigin);
    }

    #[test]
    fn what_no_table_names_is_not_open() {
        assert_eq!(right_of(&Method::GET, "/auth/login"), Right::Open);
        assert_eq!(right_of(&Method::HEAD, "/auth/login"), Right::Open);
        assert_eq!(right_of(&Method::GET, "/auth/login/"), Right::Read);
        assert_eq!(right_of(&Method::GET, "/dashboard/assets/"), Right::Read);
        assert_eq!(right_of(&Method::GET, "/dashboard/assets/a/b"), Right::Read);
        assert_eq!(right_of(&Method::DELETE, "/auth/login"), Right::Operate);
        assert_eq!(right_of(&Method::PATCH, "/x"), Right::Operate);
        assert_eq!(right_of(&Method::POST, "/x/retry"), Right::Operate);
    }

    #[test]
    fn a_way_back_leads_to_the_dashboard_only() {
        let visit = |base: &str| Visit {
            base: base.to_owned(),
            below: "/".to_owned(),
            who: None,
            wants_html: true,
            is_https: false,
            address: None,
            theme: Theme::System,
            flash: None,
            now: Timestamp::default(),
        };
        let tasks = visit("/tasks");
        for good in [
            "/tasks/dashboard",
            "/tasks/dashboard?status=failed",
            "/tasks/dashboard?q=a..b",
            "/tasks/dashboard/t/01993f8a-41c2-7b1e-9d0a-5a2f1c9e7d10",
        ] {
            assert_eq!(tasks.local(Some(good)), good);
        }
        for bad in [
            "//evil.example/tasks/dashboard",
            "https://evil.example/tasks/dashboard",
            "/tasks/dashboard/../../evil",
            "/tasks/dashboard/%2e%2E/evil",
            "/tasks/dashboardevil",
            "/tasks/dashboard\r\nset-cookie: a=b",
            "/tasks/dashboard/\\evil.example",
            "/tasks",
            "",
        ] {
            assert_eq!(tasks.local(Some(bad)), "/tasks/dashboard", "{bad}");
        }
        let root = visit("");
        assert_eq!(root.local(Some("//evil/dashboard")), "/dashboard");
        assert_eq!(root.local(Some("/dashboard?x")), "/dashboard?x");
    }

    #[test]
    fn only_known_words_and_ids_make_a_flash() {
        let id = "01993f8a-41c2-7b1e-9d0a-5a2f1c9e7d10";

        assert_eq!(
            Flash::of(&format!("retried.{id}")),
            Some(Flash::Retried(id.parse().unwrap()))
        );
        assert_eq!(Flash::of(&format!("deleted.{id}")), None);
        assert_eq!(Flash::of("retried.<b>"), None);
        assert_eq!(Flash::of(""), None);
    }
}
