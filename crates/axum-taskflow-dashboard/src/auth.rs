//! Who may: users with passwords, tokens of programs, signed sessions, and a brake on guessing.

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, Once, PoisonError},
    time::Duration,
};

use axum::http::{HeaderMap, header};
use axum_taskflow_core::Timestamp;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// What somebody who is signed in may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rights {
    /// See everything, change nothing.
    Read,
    /// See everything, and retry, cancel and delete tasks.
    Operate,
}

/// Somebody who was let in.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    /// For the audit log.
    pub(crate) name: Arc<str>,
    pub(crate) rights: Rights,
    /// Present if a cookie let them in.
    pub(crate) session: Option<Session>,
    /// What their forms carry: another site can neither read nor guess it.
    pub(crate) form_token: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Session {
    nonce: [u8; 16],
    pub(crate) expires_at: Timestamp,
}

/// What a request's credentials came to.
#[derive(Clone, Debug)]
pub(crate) enum Identity {
    Known(Access),
    /// There are none.
    Nobody,
    /// They are wrong, or of a session that is over.
    Wrong,
    /// There were too many wrong ones; try again after so many seconds.
    Braked(u64),
}

/// Everybody who may come in.
pub(crate) struct Auth {
    /// Everybody may do everything: only if the user wrote so.
    is_open: bool,
    users: Vec<User>,
    tokens: Vec<Token>,
    session_ttl: Duration,
    /// New at each start: what is compared, counted and forgotten within one process.
    local_key: Key,
    /// For the forms of those who have no session: the page may be another instance's.
    form_key: Key,
    /// A std mutex: held for one look-up.
    brake: Mutex<Brake>,
    /// That callers cannot be told apart is warned of, once.
    warned: Once,
    /// Sessions that were signed out before their end. A std mutex: held for one look-up.
    ended: Mutex<HashMap<[u8; 16], Timestamp>>,
}

struct User {
    name: Arc<str>,
    rights: Rights,
    password_mac: [u8; 32],
    /// Signs this user's sessions. Made of the password as well, so that a new one ends them all.
    session_key: Key,
}

struct Token {
    name: Arc<str>,
    rights: Rights,
    token_mac: [u8; 32],
}

type Key = [u8; 32];

/// A user as the settings name them.
pub(crate) struct UserSetting {
    pub(crate) name: String,
    pub(crate) password: String,
    pub(crate) rights: Rights,
}

/// A token as the settings name it.
pub(crate) struct TokenSetting {
    pub(crate) name: String,
    pub(crate) token: String,
    pub(crate) rights: Rights,
}

/// Who is let in if nobody needs to sign in.
const ANYBODY: &str = "anonymous";
/// Sessions that are remembered as signed out; the one that ends first is forgotten first.
const ENDED_MAX: usize = 10_000;

impl Auth {
    pub(crate) fn new(
        users: Vec<UserSetting>,
        tokens: Vec<TokenSetting>,
        is_open: bool,
        secret: Option<&[u8]>,
        session_ttl: Duration,
    ) -> Self {
        let local_key = random_key();
        let secret = secret.map_or_else(random_key, |secret| mac(secret, &[b"axum-taskflow"]));
        let users = users.into_iter().map(|user| User {
            password_mac: mac(&local_key, &[user.password.as_bytes()]),
            session_key: mac(
                &secret,
                &[b"session", user.name.as_bytes(), user.password.as_bytes()],
            ),
            name: user.name.into(),
            rights: user.rights,
        });
        let tokens = tokens.into_iter().map(|token| Token {
            name: token.name.into(),
            rights: token.rights,
            token_mac: mac(&local_key, &[token.token.as_bytes()]),
        });
        Self {
            is_open,
            users: users.collect(),
            tokens: tokens.collect(),
            session_ttl,
            local_key,
            form_key: mac(&secret, &[b"forms"]),
            brake: Mutex::default(),
            warned: Once::new(),
            ended: Mutex::default(),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Who sends a request with these headers. A session that is valid counts before `Authorization`: a proxy in
    /// front that asks for a password of its own sends that along.
    pub(crate) fn identify(
        &self,
        headers: &HeaderMap,
        cookies: Cookies,
        address: Option<IpAddr>,
        now: Timestamp,
    ) -> Identity {
        if self.is_open {
            return Identity::Known(self.anybody());
        }
        if let Some(access) = self.by_session(headers, cookies, now) {
            return Identity::Known(access);
        }
        if let Some(value) = headers.get(header::AUTHORIZATION) {
            return match value.to_str().ok().and_then(|value| value.split_once(' ')) {
                Some((scheme, rest)) if scheme.eq_ignore_ascii_case("basic") => {
                    self.by_basic(rest, address, now)
                }
                Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => {
                    self.by_token(rest.trim())
                }
                _ => Identity::Wrong,
            };
        }
        match cookies.session(headers) {
            Some(_) => Identity::Wrong,
            None => Identity::Nobody,
        }
    }

    /// The same where nobody has to sign in. Only a session is looked at: nobody asked for a password there, so a wrong
    /// one must not count for the brake.
    pub(crate) fn recognise(
        &self,
        headers: &HeaderMap,
        cookies: Cookies,
        now: Timestamp,
    ) -> Identity {
        if self.is_open {
            return Identity::Known(self.anybody());
        }
        self.by_session(headers, cookies, now)
            .map_or(Identity::Nobody, Identity::Known)
    }

    fn by_session(&self, headers: &HeaderMap, cookies: Cookies, now: Timestamp) -> Option<Access> {
        let cookie = cookies.session(headers)?;
        self.by_cookie(cookie, now)
    }

    fn anybody(&self) -> Access {
        Access {
            name: ANYBODY.into(),
            rights: Rights::Operate,
            session: None,
            form_token: form_token(&self.form_key, &[0; 16]),
        }
    }

    fn by_basic(&self, encoded: &str, address: Option<IpAddr>, now: Timestamp) -> Identity {
        let decoded = STANDARD.decode(encoded.trim()).ok();
        let Some(pair) = decoded.and_then(|bytes| String::from_utf8(bytes).ok()) else {
            return Identity::Wrong;
        };
        match pair.split_once(':') {
            Some((name, password)) => self.by_password(name, password, address, now),
            None => Identity::Wrong,
        }
    }

    /// The user with this name and password. Takes as long for a name that is unknown as for a wrong password, and
    /// both count for the brake.
    pub(crate) fn by_password(
        &self,
        name: &str,
        password: &str,
        address: Option<IpAddr>,
        now: Timestamp,
    ) -> Identity {
        let who = Guesser::of(address, name, &self.local_key);
        if let Some(wait_s) = lock(&self.brake).wait_s(&who, now) {
            return Identity::Braked(wait_s);
        }
        let user = self.users.iter().find(|user| *user.name == *name);
        let nobody = [0; 32];
        let expected = user.map_or(&nobody, |user| &user.password_mac);
        let is_right = is_mac(&self.local_key, &[password.as_bytes()], expected);
        match user.filter(|_| is_right) {
            Some(user) => {
                lock(&self.brake).forget(&who);
                Identity::Known(Access {
                    name: user.name.clone(),
                    rights: user.rights,
                    session: None,
                    form_token: form_token(&user.session_key, &[0; 16]),
                })
            }
            None => {
                lock(&self.brake).count(who, now);
                if address.is_none() {
                    self.warned.call_once(|| {
                        tracing::warn!(
                            "the addresses of callers are not known, so whoever guesses passwords keeps everybody from \
                             signing in: serve with into_make_service_with_connect_info::<SocketAddr>()"
                        );
                    });
                }
                Identity::Wrong
            }
        }
    }

    /// Tokens are long and random, so guessing needs no brake: it is hopeless.
    fn by_token(&self, given: &str) -> Identity {
        let is_it = |token: &&Token| is_mac(&self.local_key, &[given.as_bytes()], &token.token_mac);
        match self.tokens.iter().find(is_it) {
            Some(token) => Identity::Known(Access {
                name: token.name.clone(),
                rights: token.rights,
                session: None,
                form_token: form_token(&self.form_key, &[0; 16]),
            }),
            None => Identity::Wrong,
        }
    }

    /// A new session of somebody who has just given a password: the value of its cookie, and when it ends.
    pub(crate) fn begin(&self, access: &Access, now: Timestamp) -> Option<(String, Timestamp)> {
        let user = self.users.iter().find(|user| user.name == access.name)?;
        let session = Session {
            nonce: random_bytes(),
            expires_at: now.saturating_add(self.session_ttl),
        };
        Some((session.sign(user), session.expires_at))
    }

    /// Ends a session before its time. Known to this process only: others accept its cookie until it runs out.
    pub(crate) fn end(&self, session: Session, now: Timestamp) {
        let mut ended = lock(&self.ended);
        if ended.len() >= ENDED_MAX {
            ended.retain(|_, expires_at| *expires_at > now);
        }
        if ended.len() >= ENDED_MAX {
            let first = ended.iter().min_by_key(|(_, expires_at)| **expires_at);
            if let Some(nonce) = first.map(|(nonce, _)| *nonce) {
                ended.remove(&nonce);
            }
        }
        ended.insert(session.nonce, session.expires_at);
    }

    fn by_cookie(&self, cookie: &str, now: Timestamp) -> Option<Access> {
        let (payload, signature) = cookie.split_once('.')?;
        let bytes = URL_SAFE_NO_PAD.decode(payload).ok()?;
        let (head, name) = bytes.split_at_checked(24)?;
        let user = self
            .users
            .iter()
            .find(|user| user.name.as_bytes() == name)?;
        let signature: [u8; 32] = URL_SAFE_NO_PAD.decode(signature).ok()?.try_into().ok()?;
        if !is_mac(&user.session_key, &[b"cookie", &bytes], &signature) {
            return None;
        }
        let session = Session {
            expires_at: Timestamp::from_unix_ms(i64::from_be_bytes(head[..8].try_into().ok()?)),
            nonce: head[8..].try_into().ok()?,
        };
        self.is_live(session, now).then(|| Access {
            name: user.name.clone(),
            rights: user.rights,
            session: Some(session),
            form_token: form_token(&user.session_key, &session.nonce),
        })
    }

    /// True until the session runs out or is signed out here.
    pub(crate) fn is_live(&self, session: Session, now: Timestamp) -> bool {
        session.expires_at > now && !lock(&self.ended).contains_key(&session.nonce)
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("is_open", &self.is_open)
            .field("users", &self.users.len())
            .field("tokens", &self.tokens.len())
            .finish_non_exhaustive()
    }
}

impl Session {
    fn sign(self, user: &User) -> String {
        let mut bytes = self.expires_at.as_unix_ms().to_be_bytes().to_vec();
        bytes.extend(self.nonce);
        bytes.extend(user.name.as_bytes());
        let signature = mac(&user.session_key, &[b"cookie", &bytes]);
        format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(bytes),
            URL_SAFE_NO_PAD.encode(signature)
        )
    }
}

/// The session's cookie where the browser sees https: it cannot be set by a neighbouring host or over plain http.
pub(crate) const COOKIE_SECURE: &str = "__Host-tf_session";
/// The session's cookie over plain http.
pub(crate) const COOKIE_PLAIN: &str = "tf_session";

/// Which cookies can hold a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cookies {
    /// The browser is known to use https. A plain one may be a neighbouring host's, who would have somebody work in
    /// his session.
    Secure,
    Any,
}

impl Cookies {
    fn session(self, headers: &HeaderMap) -> Option<&str> {
        let plain = || cookie(headers, COOKIE_PLAIN).filter(|_| self == Self::Any);
        cookie(headers, COOKIE_SECURE).or_else(plain)
    }
}

/// The value of a cookie.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

/// True if a form carries the token of the session that sends it.
pub(crate) fn is_form_token(access: &Access, given: &str) -> bool {
    // Both are turned into macs of a key that nobody knows, so that the comparison tells nothing by its time.
    let key = random_key();
    let expected = mac(&key, &[access.form_token.as_bytes()]);
    is_mac(&key, &[given.as_bytes()], &expected)
}

fn form_token(key: &Key, nonce: &[u8; 16]) -> String {
    URL_SAFE_NO_PAD.encode(&mac(key, &[b"form", nonce])[..18])
}

fn keyed(key: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        // With its length, so that no two lists of parts give the same bytes.
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    keyed(key, parts).finalize().into_bytes().into()
}

/// Compares in constant time.
fn is_mac(key: &[u8], parts: &[&[u8]], expected: &[u8; 32]) -> bool {
    keyed(key, parts).verify_slice(expected).is_ok()
}

fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Nothing can be kept safe without it, and no system that runs tokio is without it.
    getrandom::fill(&mut bytes).expect("the operating system gives random numbers");
    bytes
}

fn random_key() -> Key {
    random_bytes()
}

/// A password of 100 random bits that can be typed: no letters or digits that look alike.
pub(crate) fn random_password() -> String {
    const LETTERS: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz023456789";
    let letters = random_bytes::<20>().map(|byte| char::from(LETTERS[usize::from(byte % 32)]));
    let groups: Vec<String> = letters
        .chunks(5)
        .map(|group| group.iter().collect())
        .collect();
    groups.join("-")
}

/// Wrong passwords in a minute after which an address has to wait with a name.
const GUESSES_MAX: u32 = 5;
const GUESSES_WINDOW: Duration = Duration::from_secs(60);
/// Pairs of address and name that are counted; the oldest is forgotten first. Whoever makes room for five more
/// guesses in this way sends ten thousand requests for them.
const GUESSERS_MAX: usize = 10_000;

/// An address with a name, as a mac: names of any length cost the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Guesser([u8; 32]);

impl Guesser {
    fn of(address: Option<IpAddr>, name: &str, key: &Key) -> Self {
        let address = match address {
            // A home has a whole network of these; one guesser is one network.
            Some(IpAddr::V6(v6)) => v6.octets()[..8].to_vec(),
            Some(IpAddr::V4(v4)) => v4.octets().to_vec(),
            None => Vec::new(),
        };
        Self(mac(key, &[&address, name.as_bytes()]))
    }
}

/// Counts wrong passwords.
#[derive(Default)]
struct Brake(HashMap<Guesser, Guesses>);

struct Guesses {
    since: Timestamp,
    n: u32,
}

impl Brake {
    /// How long this one has to wait, if it has to.
    fn wait_s(&self, who: &Guesser, now: Timestamp) -> Option<u64> {
        let guesses = self.0.get(who)?;
        let until = guesses.since.saturating_add(GUESSES_WINDOW);
        (guesses.n >= GUESSES_MAX && now < until).then(|| until.since(now).as_secs() + 1)
    }

    fn count(&mut self, who: Guesser, now: Timestamp) {
        let is_over = |guesses: &Guesses| now >= guesses.since.saturating_add(GUESSES_WINDOW);
        if self.0.len() >= GUESSERS_MAX && !self.0.contains_key(&who) {
            self.0.retain(|_, guesses| !is_over(guesses));
            if self.0.len() >= GUESSERS_MAX {
                let oldest = self.0.iter().min_by_key(|(_, guesses)| guesses.since);
                if let Some(oldest) = oldest.map(|(who, _)| *who) {
                    self.0.remove(&oldest);
                }
            }
        }
        let guesses = self.0.entry(who).or_insert(Guesses { since: now, n: 0 });
        if is_over(guesses) {
            *guesses = Guesses { since: now, n: 0 };
        }
        guesses.n += 1;
    }

    fn forget(&mut self, who: &Guesser) {
        self.0.remove(who);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_795_300_000_000);
    const DAY: Duration = Duration::from_secs(24 * 3_600);

    fn later(s: u64) -> Timestamp {
        NOW.saturating_add(Duration::from_secs(s))
    }

    fn user(name: &str, password: &str) -> UserSetting {
        UserSetting {
            name: name.to_owned(),
            password: password.to_owned(),
            rights: Rights::Operate,
        }
    }

    fn auth_with(password: &str, secret: Option<&[u8]>) -> Auth {
        let tokens = vec![TokenSetting {
            name: "ci".to_owned(),
            token: "0123456789abcdef".to_owned(),
            rights: Rights::Read,
        }];
        let users = vec![user("ada", password), user("bob", "other")];
        Auth::new(users, tokens, false, secret, DAY)
    }

    fn auth() -> Auth {
        auth_with("secret", None)
    }

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    fn is_known(identity: &Identity) -> bool {
        matches!(identity, Identity::Known(_))
    }

    fn sign_in(auth: &Auth) -> String {
        let Identity::Known(access) = auth.by_password("ada", "secret", None, NOW) else {
            panic!("the password is right")
        };
        auth.begin(&access, NOW).unwrap().0
    }

    fn by_cookie(auth: &Auth, cookie: &str, now: Timestamp) -> Identity {
        let headers = headers(header::COOKIE, &format!("a=b; tf_session={cookie}"));
        auth.identify(&headers, Cookies::Any, None, now)
    }

    #[test]
    fn a_wrong_password_of_an_unknown_address_is_warned_of() {
        let auth = auth();
        let address = Some(IpAddr::from([203, 0, 113, 5]));

        auth.by_password("ada", "wrong", address, NOW);
        assert!(!auth.warned.is_completed());
        auth.by_password("ada", "wrong", None, NOW);
        assert!(auth.warned.is_completed());
    }

    #[test]
    fn basic_and_bearer_let_in_who_has_them_right() {
        let auth = auth();
        let by = |value: &str| {
            auth.identify(
                &headers(header::AUTHORIZATION, value),
                Cookies::Any,
                None,
                NOW,
            )
        };
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));

        assert!(is_known(&by(&basic("ada:secret"))));
        assert!(is_known(
            &by(&basic("ada:secret").replace("Basic", "basic"))
        ));
        assert!(is_known(&by("Bearer 0123456789abcdef")));
        for wrong in [
            basic("ada:Secret"),
            basic("ada:"),
            basic("ada"),
            basic("eve:secret"),
            "Basic !!".to_owned(),
            "Bearer 0123456789abcdeF".to_owned(),
            "Bearer ".to_owned(),
            "Digest x".to_owned(),
            "Basic".to_owned(),
        ] {
            assert!(matches!(by(&wrong), Identity::Wrong), "{wrong}");
        }
    }

    #[test]
    fn a_session_lives_until_its_end_and_not_longer() {
        let auth = auth();
        let cookie = sign_in(&auth);

        assert!(is_known(&by_cookie(&auth, &cookie, later(24 * 3_600 - 1))));
        assert!(!is_known(&by_cookie(&auth, &cookie, later(24 * 3_600))));
    }

    #[test]
    fn a_session_that_was_changed_in_any_character_is_refused() {
        let auth = auth();
        let cookie = sign_in(&auth);

        for at in 0..cookie.len() {
            let mut bytes = cookie.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();

            assert!(!is_known(&by_cookie(&auth, &changed, NOW)), "{changed}");
        }
        for odd in ["", ".", "a.b", "....", &cookie[..10], "%00"] {
            assert!(!is_known(&by_cookie(&auth, odd, NOW)), "{odd}");
        }
    }

    #[test]
    fn a_session_cannot_be_moved_to_another_user() {
        let auth = auth();
        let cookie = sign_in(&auth);
        let (payload, signature) = cookie.split_once('.').unwrap();
        let mut bytes = URL_SAFE_NO_PAD.decode(payload).unwrap();
        bytes.truncate(24);
        bytes.extend(b"bob");

        let moved = format!("{}.{signature}", URL_SAFE_NO_PAD.encode(bytes));

        assert!(!is_known(&by_cookie(&auth, &moved, NOW)));
    }

    #[test]
    fn a_fixed_secret_carries_sessions_over_a_restart_but_not_over_a_new_password() {
        let secret: Option<&[u8]> = Some(b"a secret of at least thirty-two bytes");
        let cookie = sign_in(&auth_with("secret", secret));

        assert!(is_known(&by_cookie(
            &auth_with("secret", secret),
            &cookie,
            NOW
        )));
        assert!(!is_known(&by_cookie(
            &auth_with("new", secret),
            &cookie,
            NOW
        )));
        assert!(!is_known(&by_cookie(
            &auth_with("secret", None),
            &cookie,
            NOW
        )));
    }

    #[test]
    fn a_session_that_was_signed_out_is_over() {
        let auth = auth();
        let (kept, ended) = (sign_in(&auth), sign_in(&auth));
        let Identity::Known(access) = by_cookie(&auth, &ended, NOW) else {
            panic!("the session is good")
        };

        auth.end(access.session.unwrap(), NOW);

        assert!(!is_known(&by_cookie(&auth, &ended, NOW)));
        assert!(is_known(&by_cookie(&auth, &kept, NOW)));
    }

    #[test]
    fn what_is_remembered_of_ended_sessions_is_bounded() {
        let auth = auth();
        for n in 0..ENDED_MAX as u64 + 10 {
            let mut nonce = [0; 16];
            nonce[..8].copy_from_slice(&n.to_be_bytes());
            let expires_at = later(3_600 + n);

            auth.end(Session { nonce, expires_at }, NOW);
        }

        assert_eq!(lock(&auth.ended).len(), ENDED_MAX);
    }

    #[test]
    fn the_sixth_wrong_password_in_a_minute_waits_and_so_does_the_right_one() {
        let auth = auth();
        let address = Some(IpAddr::from([192, 0, 2, 1]));
        let try_it = |name, password, address, now| auth.by_password(name, password, address, now);
        for _ in 0..5 {
            assert!(matches!(try_it("ada", "x", address, NOW), Identity::Wrong));
        }

        assert!(matches!(
            try_it("ada", "x", address, later(10)),
            Identity::Braked(51)
        ));
        assert!(matches!(
            try_it("ada", "secret", address, later(10)),
            Identity::Braked(_)
        ));
        assert!(is_known(&try_it("bob", "other", address, later(10))));
        let elsewhere = Some(IpAddr::from([192, 0, 2, 2]));
        assert!(is_known(&try_it("ada", "secret", elsewhere, later(10))));
        assert!(is_known(&try_it("ada", "secret", address, later(60))));
    }

    #[test]
    fn what_is_signed_in_parts_cannot_move_from_one_to_the_next() {
        let key = random_key();

        assert_ne!(
            mac(&key, &[b"ada", b"secret"]),
            mac(&key, &[b"adas", b"ecret"])
        );
    }

    #[test]
    fn each_minute_has_its_own_five_wrong_passwords() {
        let auth = auth();
        let wrong = |s| auth.by_password("ada", "x", None, later(s));
        for s in [0, 60] {
            for _ in 0..5 {
                assert!(matches!(wrong(s), Identity::Wrong));
            }
            assert!(matches!(wrong(s), Identity::Braked(_)), "after {s} s");
        }
    }

    #[test]
    fn the_right_password_wipes_out_the_wrong_ones_before_it() {
        let auth = auth();
        for _ in 0..3 {
            for _ in 0..4 {
                auth.by_password("ada", "x", None, NOW);
            }

            assert!(is_known(&auth.by_password("ada", "secret", None, NOW)));
        }
    }

    #[test]
    fn an_unknown_name_is_braked_like_a_known_one() {
        let auth = auth();
        for _ in 0..5 {
            assert!(matches!(
                auth.by_password("eve", "x", None, NOW),
                Identity::Wrong
            ));
        }

        assert!(matches!(
            auth.by_password("eve", "x", None, NOW),
            Identity::Braked(_)
        ));
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_guesser() {
        let key = random_key();
        let of = |address: &str| Guesser::of(Some(address.parse().unwrap()), "ada", &key);

        assert!(of("2001:db8::1") == of("2001:db8::ffff:1"));
        assert!(of("2001:db8::1") != of("2001:db8:0:1::1"));
    }

    #[test]
    fn what_is_remembered_of_guesses_is_bounded() {
        let mut brake = Brake::default();
        let key = random_key();
        for n in 0..GUESSERS_MAX as u64 + 10 {
            brake.count(Guesser::of(None, &n.to_string(), &key), NOW);
        }
        assert_eq!(brake.0.len(), GUESSERS_MAX);

        brake.count(Guesser::of(None, "late", &key), later(60));
        assert_eq!(brake.0.len(), 1);
    }

    #[test]
    fn a_form_token_belongs_to_one_session() {
        let auth = auth();
        let access = |cookie: &str| match by_cookie(&auth, cookie, NOW) {
            Identity::Known(access) => access,
            other => panic!("{other:?}"),
        };
        let (one, two) = (access(&sign_in(&auth)), access(&sign_in(&auth)));

        assert!(is_form_token(&one, &one.form_token));
        assert!(!is_form_token(&one, &two.form_token));
        assert!(!is_form_token(&one, ""));
    }

    #[test]
    fn two_generated_passwords_differ_and_can_be_typed() {
        let (one, two) = (random_password(), random_password());

        assert_ne!(one, two);
        assert_eq!(one.len(), 23);
        assert!(
            one.chars()
                .all(|char| char.is_ascii_alphanumeric() || char == '-')
        );
    }

    #[test]
    fn whoever_opened_the_door_lets_everybody_in() {
        let auth = Auth::new(Vec::new(), Vec::new(), true, None, DAY);

        assert!(is_known(&auth.identify(
            &HeaderMap::new(),
            Cookies::Any,
            None,
            NOW
        )));
    }

    #[test]
    fn without_anybody_configured_nobody_comes_in() {
        let auth = Auth::new(Vec::new(), Vec::new(), false, None, DAY);
        let basic = format!("Basic {}", STANDARD.encode("admin:admin"));

        let identity = auth.identify(
            &headers(header::AUTHORIZATION, &basic),
            Cookies::Any,
            None,
            NOW,
        );

        assert!(matches!(identity, Identity::Wrong));
        assert!(!is_known(&auth.identify(
            &HeaderMap::new(),
            Cookies::Any,
            None,
            NOW
        )));
    }
}
