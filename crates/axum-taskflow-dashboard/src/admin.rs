//! The settings of the routes: setters judge nothing, [`TaskAdmin::routes`] judges everything.

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use axum::Router;
use axum_taskflow_core::{Error, ErrorKind, TaskManager};

use crate::{
    Shared,
    auth::{self, Auth, Rights, TokenSetting, UserSetting},
    proxies::{self, Proxies},
    stream::Streams,
};

/// The routes of the REST API and the dashboard.
///
/// ```
/// use axum::Router;
/// use axum_taskflow_core::{Config, TaskManager};
/// use axum_taskflow_dashboard::{Rights, TaskAdmin};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), axum_taskflow_core::Error> {
/// let manager = TaskManager::start(Config::default()).await?;
/// let admin = TaskAdmin::new(&manager)
///     .auth("ada", "correct horse battery staple")
///     .user("bob", "another good password", Rights::Read)
///     .token("ci", "2d1c7a0e5b9f4c3a8e6d", Rights::Operate);
///
/// let app: Router = Router::new().nest("/tasks", admin.routes());
/// # let _ = app;
/// # manager.shutdown().await
/// # }
/// ```
///
/// # Without users
/// Nothing is open by default. If neither a user nor a token is set, a password for the user `admin` is made up and
/// printed to standard error when the routes are built; it is another one at each start.
pub struct TaskAdmin {
    manager: TaskManager,
    users: Vec<UserSetting>,
    tokens: Vec<TokenSetting>,
    is_open: bool,
    title: String,
    public_path: Option<String>,
    session_ttl: Duration,
    secret: Option<Vec<u8>>,
    is_https: bool,
    proxies: Vec<String>,
    streams_max: usize,
}

/// How long a session lasts unless set.
const SESSION_TTL: Duration = Duration::from_secs(24 * 3_600);
/// Streams that may be open at once unless set.
const STREAMS_MAX: usize = 64;
/// Shorter secrets and tokens could be guessed.
const TOKEN_BYTES_MIN: usize = 16;
const SECRET_BYTES_MIN: usize = 32;
/// Longer names do not fit into a cookie.
const NAME_BYTES_MAX: usize = 256;

impl TaskAdmin {
    /// Routes over this manager, closed to everybody as long as nobody is named.
    #[must_use]
    pub fn new(manager: &TaskManager) -> Self {
        Self {
            manager: manager.clone(),
            users: Vec::new(),
            tokens: Vec::new(),
            is_open: false,
            title: "Taskflow".to_owned(),
            public_path: None,
            session_ttl: SESSION_TTL,
            secret: None,
            is_https: false,
            proxies: Vec::new(),
            streams_max: STREAMS_MAX,
        }
    }

    /// A user who may do everything. Call it again for more of them.
    #[must_use]
    pub fn auth(self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.user(name, password, Rights::Operate)
    }

    /// A user with these rights.
    #[must_use]
    pub fn user(
        mut self,
        name: impl Into<String>,
        password: impl Into<String>,
        rights: Rights,
    ) -> Self {
        self.users.push(UserSetting {
            name: name.into(),
            password: password.into(),
            rights,
        });
        self
    }

    /// A token for programs, sent as `Authorization: Bearer …`: at least 16 bytes that nobody can guess. The name is
    /// for the audit log.
    #[must_use]
    pub fn token(
        mut self,
        name: impl Into<String>,
        token: impl Into<String>,
        rights: Rights,
    ) -> Self {
        self.tokens.push(TokenSetting {
            name: name.into(),
            token: token.into(),
            rights,
        });
        self
    }

    /// Lets everybody who can reach the routes see all tasks with their arguments, retry, cancel and delete them. On
    /// `localhost`, too, that may be a foreign web page in a browser there, by a name that leads to it (DNS rebinding).
    #[must_use]
    pub fn insecure_no_auth(mut self) -> Self {
        self.is_open = true;
        self
    }

    /// What the pages are called. `Taskflow` unless set.
    #[must_use]
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.title = title.into();
        self
    }

    /// Where browsers find the routes, if a proxy in front changes the path: `/ops/tasks`. Unless set it is read from
    /// each request, which is right wherever the routes are nested.
    #[must_use]
    pub fn public_path(mut self, path: impl Into<String>) -> Self {
        self.public_path = Some(path.into());
        self
    }

    /// How long a session lasts after its sign-in. 24 hours unless set.
    #[must_use]
    pub fn session_ttl(mut self, ttl: Duration) -> Self {
        self.session_ttl = ttl;
        self
    }

    /// What sessions are signed with: at least 32 random bytes. With it they outlive a restart, and count on
    /// every instance that has it, as do the forms of the pages. Unless set it is made up at each start.
    #[must_use]
    pub fn secret(mut self, secret: impl Into<Vec<u8>>) -> Self {
        self.secret = Some(secret.into());
        self
    }

    /// Says that browsers only ever come over https, so cookies are marked for it. Unless set this is read from each
    /// request (`X-Forwarded-Proto`, `Origin`).
    #[must_use]
    pub fn https(mut self) -> Self {
        self.is_https = true;
        self
    }

    /// The reverse proxies in front of the service, by their addresses (`10.0.0.7`) or networks (`10.0.0.0/24`). From
    /// them, and from nobody else, the client's address is taken from `X-Forwarded-For`: the last one that is no
    /// proxy of these. Without it all who come by a proxy share the brake on wrong passwords. Call it again for more.
    ///
    /// Each of them has to add the address that it was asked from to that header, or to put it in its place, and no
    /// client may have an address in these networks. The service has to be served with
    /// `into_make_service_with_connect_info::<SocketAddr>()`, or the proxies cannot be recognised.
    #[must_use]
    pub fn trusted_proxies<P>(mut self, proxies: P) -> Self
    where
        P: IntoIterator,
        P::Item: Into<String>,
    {
        self.proxies.extend(proxies.into_iter().map(Into::into));
        self
    }

    /// Live streams that may be open at once; further ones are answered with 503, and their pages are read anew now
    /// and then. 64 unless set. Eight of them may be of one session, or of one user or token that signs in with each
    /// request.
    #[must_use]
    pub fn streams_max(mut self, n: usize) -> Self {
        self.streams_max = n;
        self
    }

    /// The routes, for [`Router::nest`] at any path. What is not there is answered with 404, so at the root of a service
    /// that has other routes, take [`TaskAdmin::at`]: these routes take all paths there, and `merge` panics if a route
    /// of the service is in the way.
    ///
    /// `Router::nest("/tasks", …)` never answers `/tasks/` with a slash at its end; [`TaskAdmin::at`] does.
    ///
    /// # Panics
    /// If a setting cannot be used, with all complaints in one message. See [`TaskAdmin::try_routes`].
    #[track_caller]
    pub fn routes<S: Clone + Send + Sync + 'static>(self) -> Router<S> {
        match self.try_routes() {
            Ok(router) => router,
            Err(error) => panic!("{error}"),
        }
    }

    /// The routes at `path`, which answers with and without a slash at its end, for [`Router::merge`]. At `/` all paths
    /// that are none of these routes are left to the service. Its own `/`, `/{page}` or `/{*path}` would be in the way:
    /// `merge` panics and names both routes.
    ///
    /// ```
    /// # use axum::Router;
    /// # use axum_taskflow_core::{Config, TaskManager};
    /// # use axum_taskflow_dashboard::TaskAdmin;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), axum_taskflow_core::Error> {
    /// # let manager = TaskManager::start(Config::default()).await?;
    /// let admin = TaskAdmin::new(&manager).auth("ada", "correct horse battery staple");
    ///
    /// let app: Router = Router::new().merge(admin.at("/ops/tasks"));
    /// # let _ = app;
    /// # manager.shutdown().await
    /// # }
    /// ```
    ///
    /// # Panics
    /// As [`TaskAdmin::routes`], and if the path does not begin with a slash.
    #[track_caller]
    pub fn at<S: Clone + Send + Sync + 'static>(self, path: &str) -> Router<S> {
        match (path.trim_end_matches('/'), self.shared()) {
            (_, Err(error)) => panic!("{error}"),
            ("", Ok(shared)) => crate::router_at_root(shared),
            (path, Ok(shared)) => Router::new().nest_service(path, crate::router::<()>(shared)),
        }
    }

    /// The routes, or everything that is wrong with the settings.
    ///
    /// # Errors
    /// One error of kind `Invalid` that holds all complaints.
    pub fn try_routes<S: Clone + Send + Sync + 'static>(self) -> Result<Router<S>, Error> {
        self.shared().map(crate::router)
    }

    fn shared(mut self) -> Result<Arc<Shared>, Error> {
        let mut complaints = self.complaints();
        let mut networks = Vec::new();
        for proxy in &self.proxies {
            match proxies::network(proxy) {
                Ok(network) => networks.push(network),
                Err(complaint) => complaints.push(complaint),
            }
        }
        if !complaints.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, complaints.join("; ")));
        }
        if let Some(password) = self.make_up_password() {
            // Not by `tracing` alone: without a subscriber nobody would ever see it, and with one it would be kept
            // wherever log lines are kept.
            eprintln!("{}", notice(&password, self.public_path.as_deref()));
            tracing::warn!(
                "no sign-in is set for the task routes: a password was made up and printed to standard error"
            );
        }
        if self.is_open {
            tracing::warn!("the task routes are open to everybody who can reach them");
        }
        let auth = Auth::new(
            self.users,
            self.tokens,
            self.is_open,
            self.secret.as_deref(),
            self.session_ttl,
        );
        Ok(Arc::new(Shared {
            manager: self.manager,
            auth,
            proxies: Proxies::new(networks),
            title: self.title,
            public_path: self
                .public_path
                .map(|path| path.trim_end_matches('/').to_owned()),
            is_https: self.is_https,
            streams: Streams::new(self.streams_max),
        }))
    }

    fn make_up_password(&mut self) -> Option<String> {
        if self.is_open || !self.users.is_empty() || !self.tokens.is_empty() {
            return None;
        }
        let password = auth::random_password();
        self.users.push(UserSetting {
            name: "admin".to_owned(),
            password: password.clone(),
            rights: Rights::Operate,
        });
        Some(password)
    }

    fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut names = HashSet::new();
        for user in &self.users {
            complaints.extend(name_complaint("user", &user.name));
            if user.name.contains(':') {
                complaints.push(format!(
                    "the name of user {:?} must not have a colon",
                    user.name
                ));
            }
            if user.password.is_empty() {
                complaints.push(format!("the password of user {:?} is empty", user.name));
            }
            if !names.insert(&user.name) {
                complaints.push(format!("two users are called {:?}", user.name));
            }
        }
        for token in &self.tokens {
            complaints.extend(name_complaint("token", &token.name));
            if token.token.len() < TOKEN_BYTES_MIN {
                complaints.push(format!(
                    "token {:?} must have at least {TOKEN_BYTES_MIN} bytes, and has {}",
                    token.name,
                    token.token.len()
                ));
            }
        }
        if self.is_open && !(self.users.is_empty() && self.tokens.is_empty()) {
            let open = "insecure_no_auth() lets everybody in, so users and tokens mean nothing";
            complaints.push(open.to_owned());
        }
        if self.session_ttl.is_zero() {
            complaints.push("session_ttl must be longer than zero".to_owned());
        }
        if let Some(secret) = &self.secret
            && secret.len() < SECRET_BYTES_MIN
        {
            complaints.push(format!(
                "secret must have at least {SECRET_BYTES_MIN} bytes, and has {}",
                secret.len()
            ));
        }
        if let Some(path) = &self.public_path
            && !is_public_path(path)
        {
            complaints.push(format!(
                "public_path must be a path such as \"/ops/tasks\", not {path:?}"
            ));
        }
        complaints
    }
}

fn name_complaint(what: &str, name: &str) -> Option<String> {
    let is_good =
        !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control);
    (!is_good).then(|| {
        format!("the name of {what} {name:?} must have 1 to {NAME_BYTES_MAX} bytes and no control characters")
    })
}

fn is_public_path(path: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\\?#\"<>;,".contains(&byte);
    path.bytes().all(is_plain)
        && (path.is_empty() || path.starts_with('/'))
        && !path.contains("//")
        && !path.contains("..")
}

/// What is printed if nobody set a sign-in.
fn notice(password: &str, public_path: Option<&str>) -> String {
    let place = match public_path {
        Some(path) => format!("{}/auth/login", path.trim_end_matches('/')),
        None => {
            "auth/login below the mount, such as http://127.0.0.1:8000/tasks/auth/login".to_owned()
        }
    };
    format!(
        "\naxum-taskflow: no sign-in is set for the task routes, so one was made up for this run.\n  \
         where     {place}\n  user      admin\n  password  {password}\n  \
         Set your own with TaskAdmin::new(&manager).auth(name, password).\n"
    )
}

impl fmt::Debug for TaskAdmin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither passwords nor tokens nor the secret.
        f.debug_struct("TaskAdmin")
            .field("title", &self.title)
            .field("public_path", &self.public_path)
            .field("is_open", &self.is_open)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use axum_taskflow_core::Config;

    use super::*;

    async fn admin() -> TaskAdmin {
        let mut config = Config::default();
        config.collect = false;
        TaskAdmin::new(&TaskManager::start(config).await.unwrap())
    }

    #[tokio::test]
    async fn all_complaints_come_at_once() {
        let admin = admin()
            .await
            .auth("", "")
            .auth("a:b", "x")
            .auth("a:b", "y")
            .token("ci", "short", Rights::Read)
            .secret("short")
            .session_ttl(Duration::ZERO)
            .public_path("tasks")
            .trusted_proxies(["10.0.0.7", "proxy.example"])
            .trusted_proxies(["0.0.0.0/0".to_owned()])
            .insecure_no_auth();

        let error = admin.try_routes::<()>().unwrap_err().to_string();

        for part in [
            "the name of user \"\" must have",
            "the password of user \"\" is empty",
            "must not have a colon",
            "two users are called \"a:b\"",
            "token \"ci\" must have at least 16 bytes, and has 5",
            "users and tokens mean nothing",
            "session_ttl must be longer than zero",
            "secret must have at least 32 bytes, and has 5",
            "public_path must be a path such as \"/ops/tasks\", not \"tasks\"",
            "such as \"10.0.0.7\" or \"10.0.0.0/24\", not \"proxy.example\"",
            "trusted_proxies \"0.0.0.0/0\" would believe everybody",
        ] {
            assert!(error.contains(part), "{part:?} is missing in {error}");
        }
    }

    #[tokio::test]
    async fn names_tokens_and_secrets_may_be_as_long_or_short_as_is_said_and_no_more() {
        let with = async |name_bytes, token_bytes, secret_bytes| {
            let admin = admin().await.auth("n".repeat(name_bytes), "x");
            let admin = admin.token("ci", "t".repeat(token_bytes), Rights::Read);
            admin.secret("s".repeat(secret_bytes)).complaints()
        };

        assert_eq!(with(256, 16, 32).await, Vec::<String>::new());
        assert_eq!(with(257, 15, 31).await.len(), 3);
    }

    #[tokio::test]
    #[should_panic(expected = "the password of user \"ada\" is empty")]
    async fn an_empty_password_never_opens_a_door() {
        let _: Router = admin().await.auth("ada", "").routes();
    }

    #[tokio::test]
    async fn a_password_is_made_up_only_if_nobody_is_named() {
        let made_up = |mut admin: TaskAdmin| admin.make_up_password();

        let one = made_up(admin().await).unwrap();
        assert_ne!(Some(one), made_up(admin().await));
        assert_eq!(made_up(admin().await.auth("ada", "secret")), None);
        let token = "0123456789abcdef";
        assert_eq!(
            made_up(admin().await.token("ci", token, Rights::Read)),
            None
        );
        assert_eq!(made_up(admin().await.insecure_no_auth()), None);
    }

    #[test]
    fn the_notice_tells_where_who_and_what() {
        let text = notice("pass-word", None);
        assert!(text.contains("/tasks/auth/login") && text.contains("admin"));
        assert!(text.contains("pass-word"));
        assert!(notice("x", Some("/ops/tasks/")).contains("  /ops/tasks/auth/login"));
    }

    #[tokio::test]
    async fn secrets_are_not_printed_for_debugging() {
        let admin = admin()
            .await
            .auth("ada", "hunter2")
            .secret("s3cr3t".repeat(9));

        let text = format!("{admin:?}");

        assert!(
            !text.contains("hunter2") && !text.contains("s3cr3t"),
            "{text}"
        );
    }

    #[test]
    fn a_public_path_is_a_plain_path() {
        for good in ["", "/", "/tasks", "/ops/tasks/"] {
            assert!(is_public_path(good), "{good}");
        }
        for bad in [
            "tasks", "//evil", "/a//b", "/a/../b", "/a b", "/a\"", "/a?b", "http://x",
        ] {
            assert!(!is_public_path(bad), "{bad}");
        }
    }
}
