//! Who comes in, who may act, and whose page asks.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, extract::ConnectInfo, http::Method};
use axum_taskflow_core::TaskStatus;
use axum_taskflow_dashboard::TaskAdmin;
use serde_json::json;

use crate::site::{Site, TOKEN, people, request};

const SAME: (&str, &str) = ("sec-fetch-site", "same-origin");
const ADA: &str = "Basic YWRhOnNlY3JldA==";
const BOB: &str = "Basic Ym9iOnNlY3JldA==";

#[tokio::test]
async fn without_a_sign_in_programs_are_refused_and_browsers_sent_to_the_door() {
    let site = Site::closed().await;
    let id = site.ended(TaskStatus::Failed).await;

    let program = site.get("/tasks").await;
    assert_eq!(program.header("www-authenticate"), "Bearer realm=\"tasks\"");
    assert!(program.detail(401).contains("sign in first"));
    let stream = site
        .ask(
            Method::GET,
            "/tasks/dashboard/stream",
            &[("accept", "text/event-stream")],
        )
        .await;
    assert_eq!(stream.status, 401);
    let browser = site.page(&format!("/tasks/dashboard/t/{id}?a=b")).await;
    assert_eq!(browser.status, 303);
    assert_eq!(
        browser.header("location"),
        format!("/tasks/auth/login?next=%2Ftasks%2Fdashboard%2Ft%2F{id}%3Fa%3Db")
    );
    assert_eq!(
        site.page("/tasks").await.header("location"),
        "/tasks/auth/login"
    );
}

#[tokio::test]
async fn basic_bearer_and_cookie_let_in() {
    let site = Site::closed().await;
    let cookie = site.sign_in("ada").await;
    let bearer = format!("Bearer {TOKEN}");

    for (name, value) in [
        ("authorization", ADA),
        ("authorization", &*bearer),
        ("cookie", &*cookie),
    ] {
        assert_eq!(
            site.ask(Method::GET, "/tasks", &[(name, value)])
                .await
                .status,
            200,
            "{value}"
        );
    }
    // A proxy in front may ask for a password of its own, which a browser then sends to us as well.
    let both = [("authorization", "Bearer wrong"), ("cookie", &*cookie)];
    assert_eq!(site.ask(Method::GET, "/tasks", &both).await.status, 200);
}

#[tokio::test]
async fn whoever_may_only_look_changes_nothing() {
    let site = Site::closed().await;
    let id = site.ended(TaskStatus::Failed).await;
    let cookie = site.sign_in("bob").await;
    let page = site
        .ask(Method::GET, "/tasks/dashboard", &[("cookie", &cookie)])
        .await;
    assert!(page.body.contains("id=\"read-only\"") && !page.body.contains("formaction"));

    for path in [
        format!("/tasks/{id}/retry"),
        format!("/tasks/{id}/cancel"),
        "/tasks/bulk-retry".to_owned(),
        "/tasks/retry-failed".to_owned(),
        format!("/tasks/dashboard/t/{id}/retry"),
        format!("/tasks/dashboard/t/{id}/cancel"),
    ] {
        let by_cookie = [("cookie", &*cookie), SAME];
        for headers in [&by_cookie[..], &[("authorization", BOB)]] {
            let detail = site.ask(Method::POST, &path, headers).await.detail(403);
            assert_eq!(detail, "bob may look, but change nothing", "{path}");
        }
    }
    let delete = "/tasks/history?value=1&unit=min";
    site.ask(Method::DELETE, delete, &[("authorization", BOB)])
        .await
        .detail(403);
    assert_eq!(
        site.manager
            .list(Default::default())
            .await
            .unwrap()
            .tasks
            .len(),
        1
    );
    assert!(site.actors().await.is_empty());
}

#[tokio::test]
async fn the_audit_log_names_who_acted() {
    let site = Site::closed().await;
    let cookie = site.sign_in("ada").await;
    let bearer = format!("Bearer {TOKEN}");
    for headers in [
        vec![("authorization", ADA)],
        vec![("authorization", &*bearer)],
        vec![("cookie", &*cookie), SAME],
    ] {
        let id = site.ended(TaskStatus::Failed).await;
        let answer = site
            .ask(Method::POST, &format!("/tasks/{id}/retry"), &headers)
            .await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    let actors: Vec<String> = site
        .actors()
        .await
        .into_iter()
        .map(|(actor, _)| actor)
        .collect();

    assert_eq!(actors, ["ada", "ci", "ada"]);
}

#[tokio::test]
async fn a_change_by_cookie_needs_proof_that_our_own_page_asks() {
    let site = Site::closed().await;
    let cookie = site.sign_in("ada").await;
    let cookie = ("cookie", &*cookie);
    let host = ("origin", "http://site.example");
    let foreign_origin = ("origin", "http://evil.example");

    for (proof, status) in [
        (vec![SAME], 200),
        (vec![host], 200),
        (vec![SAME, foreign_origin], 200), // the browser's own word counts
        (vec![], 403),
        (vec![("sec-fetch-site", "cross-site"), host], 403),
        (vec![("sec-fetch-site", "same-site"), host], 403),
        (vec![("sec-fetch-site", "none")], 403),
        (vec![foreign_origin], 403),
        (vec![("origin", "null")], 403),
    ] {
        let id = site.ended(TaskStatus::Failed).await;
        let before = site.actors().await.len();
        let mut headers = vec![cookie];
        headers.extend(&proof);

        let answer = site
            .ask(Method::POST, &format!("/tasks/{id}/retry"), &headers)
            .await;

        assert_eq!(answer.status, status, "{proof:?}: {}", answer.body);
        let changed = site.actors().await.len() - before;
        assert_eq!(changed, usize::from(status == 200), "{proof:?}");
    }
}

#[tokio::test]
async fn a_foreign_page_cannot_use_credentials_that_a_browser_sends_by_itself() {
    for site in [Site::closed().await, Site::open().await] {
        let id = site.ended(TaskStatus::Failed).await;
        let path = format!("/tasks/{id}/retry");
        for foreign in [
            ("sec-fetch-site", "cross-site"),
            ("origin", "http://evil.example"),
        ] {
            let detail = site
                .ask(Method::POST, &path, &[("authorization", ADA), foreign])
                .await
                .detail(403);
            assert!(detail.contains("another site"), "{detail}");
        }
        assert!(site.actors().await.is_empty());
        assert_eq!(
            site.ask(Method::POST, &path, &[("authorization", ADA)])
                .await
                .status,
            200
        );
    }
}

#[tokio::test]
async fn a_form_needs_the_token_of_its_own_session() {
    let site = Site::closed().await;
    let id = site.ended(TaskStatus::Failed).await;
    let (cookie, other) = (site.sign_in("ada").await, site.sign_in("ada").await);
    let page = async |cookie: &str| {
        site.ask(
            Method::GET,
            "/tasks/dashboard",
            &[("cookie", cookie), ("accept", "text/html")],
        )
        .await
    };
    let (own, foreign) = (page(&cookie).await.csrf(), page(&other).await.csrf());
    let path = format!("/tasks/dashboard/t/{id}/retry");
    let post = async |token: &str| {
        site.post_form(&path, &[("cookie", &cookie), SAME], &[("csrf", token)])
            .await
    };

    for wrong in ["", "x", &foreign] {
        let answer = post(wrong).await;
        assert_eq!(answer.status, 403, "{wrong}");
        assert!(answer.body.contains("the form is out of date"));
    }
    assert!(site.actors().await.is_empty());
    assert_eq!(post(&own).await.status, 303);
    assert_eq!(site.actors().await.len(), 1);
}

#[tokio::test]
async fn the_cookie_is_as_safe_as_the_connection_allows() {
    let site = Site::closed().await;
    let form = [
        ("username", "ada"),
        ("password", "secret"),
        ("next", "/tasks/dashboard?status=failed"),
    ];
    let sign_in = async |headers: &[(&str, &str)]| {
        let answer = site.post_form("/tasks/auth/login", headers, &form).await;
        assert_eq!(answer.header("location"), "/tasks/dashboard?status=failed");
        answer.header("set-cookie").to_owned()
    };

    let plain = sign_in(&[]).await;
    assert!(plain.starts_with("tf_session="), "{plain}");
    assert!(
        plain.ends_with("; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"),
        "{plain}"
    );
    for https in [
        ("x-forwarded-proto", "https"),
        ("origin", "https://site.example"),
    ] {
        let safe = sign_in(&[https]).await;
        assert!(safe.starts_with("__Host-tf_session="), "{safe}");
        assert!(
            safe.ends_with("; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax; Secure"),
            "{safe}"
        );
        let pair = safe.split(';').next().unwrap();
        assert_eq!(
            site.ask(Method::GET, "/tasks", &[("cookie", pair)])
                .await
                .status,
            200
        );
    }
    assert_ne!(
        sign_in(&[]).await,
        plain,
        "each sign-in begins a session of its own"
    );
}

#[tokio::test]
async fn where_https_is_certain_a_cookie_that_anybody_near_can_set_opens_nothing() {
    let https = |admin: TaskAdmin| Router::new().nest("/tasks", people(admin).https().routes());
    let said = ("x-forwarded-proto", "https");
    for (site, headers) in [
        (Site::closed().await, vec![said]),
        (Site::with(https).await, vec![]),
    ] {
        let form = [("username", "ada"), ("password", "secret")];
        let answer = site.post_form("/tasks/auth/login", &headers, &form).await;
        let (_, value) = answer.header("set-cookie").split_once('=').unwrap();
        let (value, _) = value.split_once(';').unwrap();

        for (name, status) in [("__Host-tf_session", 200), ("tf_session", 401)] {
            let cookie = format!("{name}={value}");
            let mut headers = headers.clone();
            headers.push(("cookie", &cookie));
            let answer = site.ask(Method::GET, "/tasks", &headers).await;
            assert_eq!(answer.status, status, "{name}");
        }
    }
}

#[tokio::test]
async fn a_button_of_a_page_whose_session_is_over_leads_to_the_sign_in_and_back() {
    let site = Site::closed().await;
    let cookie = site.sign_in("ada").await;
    site.clock.advance(Duration::from_secs(3_600));
    let press = async |path: &str, referer: &str| {
        let headers = [
            ("cookie", &*cookie),
            ("accept", "text/html,*/*;q=0.8"),
            ("referer", referer),
            SAME,
        ];
        site.post_form(path, &headers, &[("csrf", "x")]).await
    };

    for (referer, location) in [
        (
            "http://site.example/tasks/dashboard/schedules?a=b",
            "/tasks/auth/login?next=%2Ftasks%2Fdashboard%2Fschedules%3Fa%3Db",
        ),
        ("http://site.example/elsewhere", "/tasks/auth/login"),
        ("", "/tasks/auth/login"),
    ] {
        for path in ["/tasks/dashboard/schedules/pause", "/tasks/auth/logout"] {
            let answer = press(path, referer).await;
            assert_eq!(answer.status, 303, "{path}");
            assert_eq!(answer.header("location"), location, "{path} from {referer}");
        }
    }
    let script = [("cookie", &*cookie), ("accept", "application/json"), SAME];
    let path = "/tasks/dashboard/schedules/pause";
    assert_eq!(site.post_form(path, &script, &[]).await.status, 401);
}

#[tokio::test]
async fn what_is_not_there_is_told_to_those_who_are_signed_in_and_to_nobody_else() {
    let site = Site::closed().await;
    let auth = ("authorization", ADA);
    let html = ("accept", "text/html");

    for path in ["/tasks/a/b", "/tasks/dashboard/nothing", "/tasks/auth/x/y"] {
        let detail = site.ask(Method::GET, path, &[auth]).await.detail(404);
        assert_eq!(detail, format!("there is nothing at {path}"));
        site.ask(Method::POST, path, &[auth]).await.detail(404);
        assert_eq!(site.get(path).await.status, 401, "{path}");
        assert_eq!(site.post(path).await.status, 401, "{path}");
        assert_eq!(site.page(path).await.status, 303, "{path}");
    }
    let slash = site
        .ask(
            Method::GET,
            "/tasks/dashboard/schedules/?q=x",
            &[auth, html],
        )
        .await;
    assert_eq!(slash.header("location"), "/tasks/dashboard/schedules?q=x");
    let page = site
        .ask(Method::GET, "/tasks/dashboard/n%3Cb%3E?q=x", &[auth, html])
        .await;
    assert_eq!(page.status, 404);
    assert!(page.body.contains("<h1>Not here</h1>"), "{}", page.body);
    assert!(
        page.body
            .contains("there is nothing at /tasks/dashboard/n%3Cb%3E<")
    );
}

#[tokio::test]
async fn a_browser_is_shown_a_page_where_a_program_gets_the_json_of_an_error() {
    let site = Site::closed().await;
    let auth = ("authorization", ADA);
    let html = ("accept", "text/html,*/*");
    let unknown = "01993f8a-41c2-7b1e-9d0a-5a2f1c9e7d10";
    let no_task = format!(
        "there is no task {unknown}: it was never added here, or it ended long ago and was deleted"
    );

    for (path, status, detail) in [
        (format!("/tasks/{unknown}"), 404, &*no_task),
        (format!("/tasks/dashboard/t/{unknown}"), 404, &*no_task),
        (
            "/tasks/undefined".to_owned(),
            404,
            "there is no task \"undefined\": that is no id of one",
        ),
        (
            "/tasks/bulk-retry".to_owned(),
            405,
            "GET is not possible here",
        ),
    ] {
        let page = site.ask(Method::GET, &path, &[auth, html]).await;
        assert_eq!(page.status, status, "{path}");
        assert_eq!(
            page.header("content-type"),
            "text/html; charset=utf-8",
            "{path}: {}",
            page.body
        );
        assert!(page.body.contains("<h1>Not here</h1>"), "{path}");
        let shown = detail.replace('"', "&#34;");
        assert!(page.body.contains(&shown), "{path}: {}", page.body);
        assert!(page.body.contains("href=\"/tasks/dashboard\">All tasks<"));

        if !path.contains("/t/") {
            let json = site.ask(Method::GET, &path, &[auth]).await;
            assert_eq!(json.detail(status), detail, "{path}");
        }
    }
}

#[tokio::test]
async fn at_the_root_the_routes_leave_the_other_paths_to_the_service() {
    let own = || Router::new().route("/own", axum::routing::get(async || "own"));
    let plain = Site::with(|admin| own().merge(people(admin).at("/"))).await;
    let with_fallback = Site::with(|admin| {
        own()
            .fallback(async || "the service's own")
            .merge(people(admin).at("/"))
    })
    .await;

    for site in [&plain, &with_fallback] {
        assert_eq!(site.get("/own").await.body, "own");
        assert_eq!(site.get("/dashboard").await.status, 401);
        assert_eq!(site.post("/dashboard").await.status, 401, "no such method");
    }
    assert_eq!(plain.get("/nothing/here").await.status, 404);
    assert_eq!(
        with_fallback.get("/nothing/here").await.body,
        "the service's own"
    );
}

#[tokio::test]
async fn a_wrong_method_is_refused_with_those_that_are_possible() {
    let site = Site::closed().await;
    let auth = ("authorization", ADA);

    for (path, allowed) in [
        ("/tasks/bulk-retry", "POST"),
        ("/tasks/auth/logout", "POST"),
        ("/tasks/metrics", "GET,HEAD"),
        ("/tasks/schedules", "GET,HEAD,POST,DELETE"),
    ] {
        let answer = site.ask(Method::PUT, path, &[auth]).await;
        assert_eq!(answer.header("allow"), allowed, "{path}");
        answer.detail(405);
    }
}

#[tokio::test]
async fn a_program_signs_in_with_json() {
    let site = Site::closed().await;

    let right = json!({ "username": "ada", "password": "secret" });
    let answer = site.post_json("/tasks/auth/login", &right).await;
    assert_eq!(
        answer.json(),
        json!({ "username": "ada", "expires_at": "2026-11-21T23:26:40+00:00" })
    );
    assert!(answer.header("set-cookie").starts_with("tf_session="));

    for wrong in [("ada", "x"), ("eve", "secret"), ("", "")] {
        let wrong = json!({ "username": wrong.0, "password": wrong.1 });
        let answer = site.post_json("/tasks/auth/login", &wrong).await;
        assert_eq!(answer.header("set-cookie"), "");
        assert_eq!(answer.detail(401), "wrong user name or password");
    }
    site.post_json("/tasks/auth/login", &json!({ "username": "ada" }))
        .await
        .detail(422);
    site.post("/tasks/auth/login").await.detail(415);
}

#[tokio::test]
async fn a_wrong_password_shows_the_form_again_and_the_sixth_one_has_to_wait() {
    let site = Site::closed().await;
    let try_it = async |password: &str| {
        let form = [
            ("username", "ada"),
            ("password", password),
            ("next", "/tasks/dashboard?limit=9"),
        ];
        site.post_form("/tasks/auth/login", &[], &form).await
    };
    for _ in 0..5 {
        let answer = try_it("wrong").await;
        assert_eq!(answer.status, 401);
        assert!(answer.body.contains("wrong user name or password"));
        assert!(answer.body.contains("value=\"/tasks/dashboard?limit=9\""));
        assert!(answer.body.contains("value=\"ada\"") && !answer.body.contains("value=\"wrong\""));
    }

    let braked = try_it("secret").await;
    assert_eq!(
        (braked.status.as_u16(), braked.header("retry-after")),
        (429, "61")
    );
    let basic = site
        .ask(Method::GET, "/tasks", &[("authorization", ADA)])
        .await;
    assert!(basic.detail(429).contains("too many wrong passwords"));
    site.clock.advance(Duration::from_secs(60));
    assert_eq!(try_it("secret").await.status, 303);
}

#[tokio::test]
async fn a_sign_in_form_that_is_not_filled_in_is_shown_again_and_says_what_is_missing() {
    let site = Site::closed().await;
    let next = ("next", "/tasks/dashboard?limit=9");
    for (form, why) in [
        (vec![next, ("username", "ada")], "the password is missing"),
        (
            vec![next, ("username", "ada"), ("password", "")],
            "the password is missing",
        ),
        (
            vec![next, ("password", "secret")],
            "the user name is missing",
        ),
    ] {
        let answer = site.post_form("/tasks/auth/login", &[], &form).await;

        assert_eq!(answer.status, 422, "{form:?}");
        assert!(answer.body.contains(why), "{}", answer.body);
        assert!(answer.body.contains("value=\"/tasks/dashboard?limit=9\""));
        let has_name = answer.body.contains("value=\"ada\"");
        assert_eq!(has_name, form.contains(&("username", "ada")));
    }
}

/// Somebody who connects from `peer` with this header tries to sign in as ada.
async fn try_from(site: &Site, peer: &str, forwarded_for: &str, password: &str) -> u16 {
    let headers = [
        ("content-type", "application/x-www-form-urlencoded"),
        ("x-forwarded-for", forwarded_for),
    ];
    let form = format!("username=ada&password={password}");
    let mut request = request(Method::POST, "/tasks/auth/login", &headers, &form);
    let peer = SocketAddr::new(peer.parse().unwrap(), 61_000);
    request.extensions_mut().insert(ConnectInfo(peer));
    site.send(request).await.status.as_u16()
}

async fn behind_proxies() -> Site {
    let mount = |admin: TaskAdmin| {
        let admin = people(admin).trusted_proxies(["10.0.0.7", "10.1.0.0/16"]);
        Router::new().nest("/tasks", admin.routes())
    };
    Site::with(mount).await
}

#[tokio::test]
async fn behind_a_trusted_proxy_who_guesses_keeps_nobody_else_from_signing_in() {
    let site = behind_proxies().await;
    let guess = async |n: u8, password: &str| {
        // The proxy adds the address to whatever was sent, and a second one may stand before it.
        let sent = format!("198.51.100.{n}, 203.0.113.5");
        match n % 2 {
            0 => try_from(&site, "10.0.0.7", &sent, password).await,
            _ => try_from(&site, "10.0.0.7", &format!("{sent}, 10.1.0.{n}"), password).await,
        }
    };
    for n in 0..5 {
        assert_eq!(guess(n, "wrong").await, 401);
    }

    assert_eq!(guess(5, "wrong").await, 429);
    assert_eq!(guess(6, "secret").await, 429);
    for other in ["203.0.113.6", "203.0.113.6:61000", "[2001:db8::5]:443", ""] {
        assert_eq!(
            try_from(&site, "10.0.0.7", other, "secret").await,
            303,
            "{other}"
        );
    }
}

#[tokio::test]
async fn what_somebody_else_says_of_an_address_counts_for_nothing() {
    let site = behind_proxies().await;
    let plain = Site::closed().await; // trusts nobody
    for site in [&site, &plain] {
        for n in 0..5 {
            let spoofed = format!("203.0.113.{n}");
            assert_eq!(try_from(site, "10.0.0.8", &spoofed, "wrong").await, 401);
        }

        assert_eq!(
            try_from(site, "10.0.0.8", "203.0.113.6", "secret").await,
            429
        );
        assert_eq!(
            try_from(site, "10.0.0.7", "203.0.113.0", "secret").await,
            303
        );
    }
    // Nobody knows who connects: all count as one, whatever they send.
    let guess = async |n: u8, password: &str| {
        let form = [("username", "bob"), ("password", password)];
        let said = format!("203.0.113.{n}");
        let headers = [("x-forwarded-for", &*said)];
        let answer = site.post_form("/tasks/auth/login", &headers, &form).await;
        answer.status.as_u16()
    };
    for n in 0..5 {
        assert_eq!(guess(n, "wrong").await, 401);
    }
    assert_eq!(guess(6, "secret").await, 429);
}

#[tokio::test]
async fn where_nobody_has_to_sign_in_passwords_are_neither_judged_nor_counted() {
    let site = Site::closed().await;
    let wrong = ("authorization", "Basic YWRhOndyb25n");
    let right = ("authorization", ADA);
    let form = [("username", "ada"), ("password", "secret")];

    for _ in 0..10 {
        for path in ["/tasks/health", "/tasks/auth/login"] {
            assert_eq!(site.ask(Method::GET, path, &[wrong]).await.status, 200);
        }
        let file = site.page("/tasks/auth/login").await.attribute("src");
        assert_eq!(site.ask(Method::GET, &file, &[wrong]).await.status, 200);
    }
    assert_eq!(site.ask(Method::GET, "/tasks", &[right]).await.status, 200);
    for _ in 0..10 {
        let answer = site.post_form("/tasks/auth/login", &[wrong], &form).await;
        assert_eq!(answer.status, 303, "by the form");
    }
    let cookie = site.sign_in("ada").await;
    let door = async |name: &str, value: &str| {
        let headers = [(name, value)];
        let answer = site.ask(Method::GET, "/tasks/auth/login", &headers).await;
        answer.status.as_u16()
    };
    assert_eq!(door("cookie", &cookie).await, 303, "a session is known");
    assert_eq!(door(right.0, right.1).await, 200, "and nothing else");
}

#[tokio::test]
async fn a_sign_in_leads_nowhere_else() {
    let site = Site::closed().await;
    for next in [
        "//evil.example",
        "https://evil.example/tasks/dashboard",
        "/\\evil.example",
        "/elsewhere",
        "/tasks/dashboard/../../elsewhere",
        "/tasks/dashboard/%2e%2E/../elsewhere",
        "/tasks/dashboard/.%2e/%2e./elsewhere", // a browser reads them as dots
        "javascript:alert(1)",
        "/tasks/dashboard\r\nx: y",
    ] {
        let form = [("username", "ada"), ("password", "secret"), ("next", next)];
        let answer = site.post_form("/tasks/auth/login", &[], &form).await;
        assert_eq!(answer.header("location"), "/tasks/dashboard", "{next}");
    }
}

#[tokio::test]
async fn another_site_cannot_sign_somebody_in() {
    let site = Site::closed().await;
    let form = [("username", "ada"), ("password", "secret")];

    let answer = site
        .post_form(
            "/tasks/auth/login",
            &[("sec-fetch-site", "cross-site")],
            &form,
        )
        .await;

    assert_eq!(answer.status, 403);
    assert_eq!(answer.header("set-cookie"), "");
}

#[tokio::test]
async fn a_session_ends_with_its_time_and_with_the_sign_out() {
    let site = Site::closed().await;
    let (one, two) = (site.sign_in("ada").await, site.sign_in("ada").await);
    let get = async |cookie: &str| {
        site.ask(Method::GET, "/tasks", &[("cookie", cookie)])
            .await
            .status
            .as_u16()
    };

    let page = site
        .ask(Method::GET, "/tasks/dashboard", &[("cookie", &one)])
        .await;
    let form = [("csrf", &*page.csrf())];
    let answer = site
        .post_form("/tasks/auth/logout", &[("cookie", &one), SAME], &form)
        .await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("location")),
        (303, "/tasks/auth/login")
    );
    assert!(
        answer
            .headers
            .get_all("set-cookie")
            .iter()
            .all(|cookie| { cookie.to_str().unwrap().contains("Max-Age=0") })
    );
    assert_eq!((get(&one).await, get(&two).await), (401, 200));

    site.clock.advance(Duration::from_secs(3_600));
    assert_eq!(get(&two).await, 401);
}

#[tokio::test]
async fn signing_out_is_no_link() {
    let site = Site::closed().await;
    let cookie = site.sign_in("ada").await;

    let answer = site
        .ask(Method::GET, "/tasks/auth/logout", &[("cookie", &cookie)])
        .await;
    assert_eq!(answer.status, 405);
    let form = site
        .post_form(
            "/tasks/auth/logout",
            &[("cookie", &cookie), SAME],
            &[("csrf", "x")],
        )
        .await;
    assert_eq!(form.status, 403);

    assert_eq!(
        site.ask(Method::GET, "/tasks", &[("cookie", &cookie)])
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn without_users_nothing_is_open() {
    let site = Site::with(|admin| Router::new().nest("/tasks", admin.routes())).await;

    assert_eq!(site.get("/tasks").await.status, 401);
    assert_eq!(site.get("/tasks/dashboard/stream").await.status, 401);
    for password in ["", "admin", "password"] {
        let form = json!({ "username": "admin", "password": password });
        assert_eq!(site.post_json("/tasks/auth/login", &form).await.status, 401);
    }
}

#[tokio::test]
async fn a_session_counts_on_every_instance_that_has_the_secret() {
    let secret = "the same thirty-two bytes for all of them";
    let with =
        |admin: TaskAdmin| Router::new().nest("/tasks", people(admin).secret(secret).routes());
    let (one, two) = (Site::with(with).await, Site::with(with).await);
    let cookie = one.sign_in("ada").await;

    assert_eq!(
        two.ask(Method::GET, "/tasks", &[("cookie", &cookie)])
            .await
            .status,
        200
    );
    let other = Site::closed().await;
    assert_eq!(
        other
            .ask(Method::GET, "/tasks", &[("cookie", &cookie)])
            .await
            .status,
        401
    );
}

#[tokio::test]
async fn where_nobody_signs_in_a_form_counts_on_every_instance_that_has_the_secret() {
    let secret = "the same thirty-two bytes for all of them";
    let with = |admin: TaskAdmin| {
        let routes = admin.insecure_no_auth().secret(secret).routes();
        Router::new().nest("/tasks", routes)
    };
    let (one, two) = (Site::with(with).await, Site::with(with).await);
    let id = two.ended(TaskStatus::Failed).await;
    let path = format!("/tasks/dashboard/t/{id}/retry");
    let retry = async |csrf: &str| two.post_form(&path, &[SAME], &[("csrf", csrf)]).await;

    let other = Site::open().await;
    let foreign = other.page("/tasks/dashboard").await.csrf();
    assert_eq!(retry(&foreign).await.status, 403);

    let csrf = one.page("/tasks/dashboard").await.csrf();
    assert_eq!(retry(&csrf).await.status, 303);
}

#[tokio::test]
async fn odd_headers_are_refused_and_not_fatal() {
    let site = Site::closed().await;
    let long = format!("tf_session={}", "A".repeat(20_000));
    for (name, value) in [
        ("cookie", "tf_session"),
        ("cookie", ";;;=;"),
        ("cookie", &*long),
        ("authorization", ""),
        ("authorization", "Basic"),
        ("authorization", "Basic //8="),
    ] {
        assert_eq!(
            site.ask(Method::GET, "/tasks", &[(name, value)])
                .await
                .status,
            401,
            "{name}: {value:.40}"
        );
    }
    let mut bytes = request(Method::GET, "/tasks", &[], "");
    let value = axum::http::HeaderValue::from_bytes(b"Basic \xff\xfe").unwrap();
    bytes.headers_mut().insert("authorization", value);
    assert_eq!(site.send(bytes).await.status, 401);
}
