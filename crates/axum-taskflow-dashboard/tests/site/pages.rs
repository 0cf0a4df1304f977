//! The pages as browsers without a script meet them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use axum::{Router, http::Method};
use axum_taskflow_core::{
    FailureKind, FailureReport, Progress, Schedule, Task, TaskId, TaskStatus, Timestamp,
};
use axum_taskflow_dashboard::TaskAdmin;

use crate::site::{Answer, START, Site, flaky, greet, people, soon, stays, unescape};

pub(crate) fn row_of(page: &Answer, id: TaskId) -> String {
    let start = format!("<tr id=\"t-{id}\"");
    let (_, rest) = page
        .body
        .split_once(&start)
        .unwrap_or_else(|| panic!("no row of {id}"));
    unescape(rest.split("</tr>").next().unwrap())
}

#[tokio::test]
async fn each_row_shows_what_its_task_is_doing() {
    let site = Site::open().await;
    let ok = site.ended(TaskStatus::Success).await;
    let failed = site.ended(TaskStatus::Failed).await;
    let cancelled = site.ended(TaskStatus::Cancelled).await;
    let waiting = site.waiting().await;
    let running = site.running().await;
    site.until(running, |task| task.progress.is_some()).await;
    let unknown = site.stored("gone", |_| ()).await;
    let retrying = site
        .stored("greet", |task| {
            task.life.attempt = 1;
            task.life.run_at = START.saturating_add(Duration::from_secs(20));
            task.life.error = Some(FailureReport::new(FailureKind::Error, "try again").into());
        })
        .await;
    let held = site
        .stored("greet", |task| {
            task.life.run_at = Timestamp::MAX;
            task.life.error = Some(FailureReport::new(FailureKind::Held, "cannot be read").into());
        })
        .await;

    let page = site.page("/tasks/dashboard").await;

    for (id, parts) in [
        (ok, ["data-s=\"success\"", "[\"ada\"]", "1</span> / 1"]),
        (failed, ["data-s=\"failed\"", "err\">no<", "/retry\""]),
        (
            cancelled,
            [
                "data-s=\"cancelled\"",
                "cancelled before it ran",
                "/retry\"",
            ],
        ),
        (
            waiting,
            ["data-s=\"scheduled\"", "runs in 1 h", "/cancel\""],
        ),
        (
            running,
            ["data-s=\"running\"", "42 %", "data-since=\"1795300000000\""],
        ),
        (
            unknown,
            [
                "data-s=\"held\"",
                "no running instance knows a function called gone",
                "/cancel\"",
            ],
        ),
        (
            retrying,
            ["data-s=\"retrying\"", "runs in 20 s", "try again"],
        ),
        (held, ["data-s=\"held\"", "cannot be read", "/cancel\""]),
    ] {
        let row = row_of(&page, id);
        for part in parts {
            assert!(row.contains(part), "{part} is missing in {row}");
        }
    }
    assert!(
        !row_of(&page, ok).contains("formaction"),
        "nothing can be done with what succeeded"
    );
}

#[tokio::test]
async fn tabs_count_and_filter() {
    let site = Site::open().await;
    site.ended(TaskStatus::Success).await;
    site.ended(TaskStatus::Success).await;
    let failed = site.ended(TaskStatus::Failed).await;

    let all = site.page("/tasks/dashboard").await;
    for (word, n) in [
        ("all", "3"),
        ("success", "2"),
        ("failed", "1"),
        ("pending", "0"),
    ] {
        assert!(
            all.body.contains(&format!("data-count=\"{word}\">{n}</b>")),
            "{word}"
        );
    }
    let page = site
        .page("/tasks/dashboard?status=failed&func_name=fails")
        .await;
    assert_eq!(page.body.matches("<tr id=").count(), 1);
    row_of(&page, failed);
    assert!(page.body.contains("Remove the filter function fails"));
    let none = site
        .page("/tasks/dashboard?status=success&func_name=fails")
        .await;
    assert!(none.body.contains("Nothing fits."));
    let tag = site.page("/tasks/dashboard?tag=a%3Db").await;
    assert!(!tag.body.contains("data-count"), "counters know no tags");
    let request = site.page("/tasks/dashboard?tracking_id=r-1").await;
    assert!(request.body.contains("Remove the filter tracking id r-1"));
    assert!(!request.body.contains("data-count"), "nor requests");
}

#[tokio::test]
async fn older_leads_through_all_tasks() {
    let site = Site::open().await;
    let names = (0..120).map(|n| n.to_string());
    let later = Duration::from_secs(60);
    let ids = site
        .manager
        .add_tasks(greet, names)
        .delay_by(later)
        .await
        .unwrap();

    let mut seen = Vec::new();
    let mut path = "/tasks/dashboard?status=pending".to_owned();
    loop {
        let page = site.page(&path).await;
        let rows = page
            .body
            .split("<tr id=\"t-")
            .skip(1)
            .map(|row| row[..36].to_owned());
        seen.extend(rows);
        let Some((_, rest)) = page.body.split_once("id=\"older\" rel=\"next\" href=\"") else {
            break;
        };
        path = unescape(rest.split('"').next().unwrap());
    }

    let expected: Vec<String> = ids.iter().rev().map(TaskId::to_string).collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_search_leads_to_an_address_of_its_own() {
    let site = Site::open().await;
    let id = site.ended(TaskStatus::Success).await;
    let text = id.to_string();
    for (q, location) in [
        (&*text, format!("/tasks/dashboard/t/{id}")),
        (&text[..18], format!("/tasks/dashboard/t/{id}")),
        ("greet", "/tasks/dashboard?func_name=greet".to_owned()),
        ("GREE", "/tasks/dashboard?func_name=greet".to_owned()),
        ("plan=pro", "/tasks/dashboard?tag=plan%3Dpro".to_owned()),
        ("%20", "/tasks/dashboard".to_owned()),
    ] {
        let page = site.page(&format!("/tasks/dashboard?q={q}")).await;
        assert_eq!(
            (page.status.as_u16(), page.header("location")),
            (303, &*location),
            "{q}"
        );
    }

    let nothing = site.page("/tasks/dashboard?q=%3Cb%3Ex").await;
    assert!(
        nothing.body.contains("<b>&#60;b&#62;x</b>") && nothing.body.contains("func_name=greet")
    );
    let two = site.page("/tasks/dashboard?q=s").await;
    assert!(two.body.contains("func_name=fails") && two.body.contains("func_name=stays"));
    assert_eq!(
        site.page(&format!("/tasks/dashboard?q={}", "x".repeat(600)))
            .await
            .status,
        422
    );
}

#[tokio::test]
async fn a_function_is_found_however_many_there_are() {
    let site = Site::open().await;
    for n in 0..250 {
        site.stored(&format!("job_{n:03}"), |_| ()).await;
    }

    for q in ["job_249", "B_249"] {
        let page = site.page(&format!("/tasks/dashboard?q={q}")).await;
        let found = "/tasks/dashboard?func_name=job_249";
        assert_eq!(page.header("location"), found, "{q}");
    }
    // What the box proposes has a bound.
    let page = site.page("/tasks/dashboard").await;
    assert_eq!(page.body.matches("<option").count(), 200);
}

#[tokio::test]
async fn older_leads_through_a_part_of_the_time_and_not_out_of_it() {
    let site = Site::open().await;
    let before = site.waiting().await;
    let (first, second) = (site.waiting().await, site.waiting().await);

    let path = format!("/tasks/dashboard?after={before}&limit=1");
    let page = site.page(&path).await;
    let (_, rest) = page.body.split_once("id=\"older\"").unwrap();
    let older = unescape(
        rest.split("href=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap(),
    );
    let next = site.page(&older).await;

    assert!(page.body.contains(&format!("id=\"t-{second}\"")));
    assert!(next.body.contains(&format!("id=\"t-{first}\"")));
    assert!(!next.body.contains("id=\"older\""), "{older}");
}

#[tokio::test]
async fn a_task_page_tells_everything() {
    let site = Site::open().await;
    let failed = site.ended(TaskStatus::Failed).await;
    let retried = site.manager.retry(failed).await.unwrap();
    let ok = site
        .manager
        .add_task(greet, "ada".to_owned())
        .tag("k", "a&b")
        .tracking_id("r&1")
        .idempotency_key("once");
    let ok = ok.await.unwrap();
    let _: String = soon(site.manager.wait(ok)).await.unwrap();

    let page = site.page(&format!("/tasks/dashboard/t/{failed}")).await;
    for part in [
        "no\ncaused by: the cause",
        "about to fail",
        "<b class=\"warning\">warning</b> now",
        "Attempt 1: failed",
    ] {
        assert!(page.body.contains(part), "{part}");
    }
    assert_eq!(page.attribute("data-lines"), "2");
    assert!(page.body.contains("times in UTC"), "those of the log");
    assert_eq!(
        page.attribute("data-stream"),
        "",
        "what has ended does not change"
    );
    let page = site.page(&format!("/tasks/dashboard/t/{retried}")).await;
    assert!(
        page.body
            .contains(&format!("href=\"/tasks/dashboard/t/{failed}\""))
    );
    let page = site.page(&format!("/tasks/dashboard/t/{ok}")).await;
    for part in ["hello ada", "once", "k=a&b", "this one"] {
        assert!(unescape(&page.body).contains(part), "{part}");
    }
    assert!(page.body.contains("/tasks/dashboard?tag=k%3Da%26b\""));
    let request = "/tasks/dashboard?tracking_id=r%261";
    assert!(page.body.contains(&format!("href=\"{request}\"")));
    let page = site.page(request).await;
    assert_eq!(page.body.matches("<tr id=").count(), 1);
    row_of(&page, ok);
}

#[tokio::test]
async fn a_task_page_says_how_long_an_attempt_may_take() {
    let site = Site::open().await;
    let without = site.running().await;
    let limit = Duration::from_secs(90);
    let with = site.manager.add_task(stays, ()).timeout(limit);
    let with = with.await.unwrap();
    let unknown = site.stored("gone", |_| ()).await;
    let said = async |id: TaskId| {
        let page = site.page(&format!("/tasks/dashboard/t/{id}")).await;
        let (_, rest) = page.body.split_once("<dt>Timeout</dt><dd>")?;
        rest.split('<').next().map(str::to_owned)
    };

    assert_eq!(said(without).await.as_deref(), Some("none"));
    assert_eq!(said(with).await.as_deref(), Some("1 m 30 s"));
    assert_eq!(said(unknown).await, None, "its function is not known here");
}

#[tokio::test]
async fn who_copies_what_is_shown_in_part_is_told_that_it_is_the_beginning() {
    let site = Site::open().await;
    let with = async |n: usize| {
        let json = format!("[\"{}\"]", "x".repeat(n));
        let end = |task: &mut Task| {
            task.args = json.as_str().into();
            task.life.status = TaskStatus::Success;
            task.life.result = Some(json.as_str().into());
        };
        let id = site.stored("greet", end).await;
        site.page(&format!("/tasks/dashboard/t/{id}")).await
    };
    let button = |page: &Answer, from: &str| {
        let (_, rest) = page
            .body
            .split_once(&format!("data-from=\"#{from}\""))
            .unwrap();
        let (_, label) = rest.split_once('>').unwrap();
        label.split('<').next().unwrap().to_owned()
    };

    let (short, long) = (with(10).await, with(100_000).await);

    for from in ["args", "result"] {
        assert_eq!(button(&short, from), "Copy");
        assert_eq!(button(&long, from), "Copy the beginning");
    }
}

#[tokio::test]
async fn a_task_page_has_its_times_in_full() {
    let site = Site::open().await;
    let failed = site.ended(TaskStatus::Failed).await;
    let waiting = site.waiting().await;
    site.clock.advance(Duration::from_secs(90));

    let page = site.page(&format!("/tasks/dashboard/t/{failed}")).await;
    // Without what only a pointer brings up.
    let shown = page.body.replace("title=\"2026-11-21 22:26:40 UTC\"", "");
    let n = shown
        .matches("2026-11-21 22:26:40 UTC, <span class=\"muted\"><time")
        .count();
    assert_eq!(n, 4, "created, finished, added and begun");
    let page = site.page(&format!("/tasks/dashboard/t/{waiting}")).await;
    let (_, due) = page.body.split_once("<dt>Due</dt><dd>").unwrap();
    assert!(due.starts_with("2026-11-21 23:26:40 UTC, "), "{due}");
}

#[tokio::test]
async fn what_has_a_name_for_ears_is_called_what_it_shows_and_no_two_parts_are_called_alike() {
    let site = Site::open().await;
    let schedule = Schedule::new(greet, "ada".to_owned()).name("morning");
    let schedule = schedule.cron("@daily");
    site.manager.schedule(schedule).await.unwrap();
    let failed = site.ended(TaskStatus::Failed).await;
    let ok = site.ended(TaskStatus::Success).await;
    let paths = [
        "",
        "/schedules",
        &format!("/t/{failed}"),
        &format!("/t/{ok}"),
    ];
    let mut n = 0;
    for path in paths {
        let page = site.page(&format!("/tasks/dashboard{path}")).await;
        let main = page.body.split_once("<main").unwrap().1;
        // WCAG 2.5.3: who says what is written on a button presses it.
        for button in main.split("<button ").skip(1) {
            let (attributes, rest) = button.split_once('>').unwrap();
            let shown = rest.split('<').next().unwrap();
            if let Some((_, name)) = attributes.split_once("aria-label=\"") {
                let name = name.split('"').next().unwrap();
                assert!(name.contains(shown), "{shown:?} is called {name:?}");
                n += 1;
            }
        }
        let mut names = BTreeSet::new();
        for part in main
            .split(['<', '\n'])
            .filter(|tag| tag.starts_with("section") || tag.contains("role=\"region\""))
        {
            let name = part.split_once(" aria-label").unwrap().1;
            let name = name.split_once('=').unwrap().1.split('"').nth(1).unwrap();
            assert!(
                names.insert(name.to_owned()),
                "two parts are called {name} at {path}"
            );
        }
        assert!(!names.is_empty());
    }
    assert!(n >= 3, "only {n} buttons were looked at");
}

#[tokio::test]
async fn the_links_of_a_task_lead_to_all_that_have_its_tag_or_tracking_id() {
    let site = Site::open().await;
    for odd in ["a=b", r"a\", "\u{1b}[31mred", "a\u{202e}b", "\0", " a\n"] {
        let id = site
            .stored("greet", |task| {
                task.tags.insert(odd.to_owned(), odd.to_owned());
                task.tracking_id = Some(odd.into());
            })
            .await;

        let page = site.page(&format!("/tasks/dashboard/t/{id}")).await;

        for start in ["tag=", "tracking_id="] {
            let start = format!("href=\"/tasks/dashboard?{start}");
            let (_, rest) = page.body.split_once(&start).unwrap();
            let link = format!("{}{}", &start[6..], rest.split('"').next().unwrap());
            let list = site.page(&unescape(&link)).await;
            assert_eq!(list.body.matches("<tr id=").count(), 1, "{link}");
            row_of(&list, id);
        }
    }
}

#[tokio::test]
async fn all_attempts_are_told_in_order_with_the_wait_for_the_next() {
    let site = Site::open().await;
    let wait = Duration::from_secs(10);
    let add = site.manager.add_task(flaky, ()).retries(2).delay(wait);
    let id = add.jitter(0.0).await.unwrap();
    let begun =
        |n| move |task: &Task| task.life.attempt == n && task.life.status == TaskStatus::Pending;
    site.until(id, begun(1)).await;
    site.clock.advance(wait);
    site.until(id, begun(2)).await;

    let page = site.page(&format!("/tasks/dashboard/t/{id}")).await;
    let places = [
        "Added",
        "Attempt 1: failed",
        "Attempt 2: failed",
        "Next attempt",
        "runs in 10 s",
    ]
    .map(|part| page.body.rfind(part).unwrap_or_else(|| panic!("no {part}")));
    assert!(places.is_sorted(), "{places:?}");

    site.clock.advance(wait);
    site.until(id, |task| task.life.status == TaskStatus::Failed)
        .await;
    let page = site.page(&format!("/tasks/dashboard/t/{id}")).await;
    assert!(page.body.contains("Attempt 3: failed") && !page.body.contains("Next attempt"));
}

#[tokio::test]
async fn a_running_task_is_live() {
    let site = Site::open().await;
    let running = site.running().await;
    site.until(running, |task| task.progress.is_some()).await;

    let page = site.page(&format!("/tasks/dashboard/t/{running}")).await;

    assert!(page.body.contains("Attempt 1: running"));
    assert!(page.body.contains("<progress max=\"1\" value=\"0.42\""));
    let stream = page.attribute("data-stream");
    assert!(
        stream.starts_with(&format!("/tasks/dashboard/stream?id={running}&")),
        "{stream}"
    );
}

#[tokio::test]
async fn what_tasks_say_never_becomes_markup() {
    const EVIL: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>";
    let mount = |admin: TaskAdmin| {
        let admin = admin.title(EVIL).auth("<i>ada", "secret");
        Router::new().nest("/tasks", admin.routes())
    };
    let site = Site::with(mount).await;
    let evil = site
        .stored(EVIL, |task| {
            task.args = serde_json::to_string(&[EVIL, "\u{1b}[31mred"])
                .unwrap()
                .into();
            task.tags.insert(EVIL.to_owned(), EVIL.to_owned());
            let key = axum_taskflow_core::IdempotencyKey {
                key: EVIL.to_owned(),
                ttl: Duration::ZERO,
            };
            task.idempotency_key = Some(key);
            task.tracking_id = Some(EVIL.into());
            task.progress = Some(Progress {
                fraction: 0.5,
                message: EVIL.to_owned(),
            });
            task.life.status = TaskStatus::Failed;
            task.life.attempt = 1;
            task.life.finished_at = Some(START);
            let mut report =
                FailureReport::new(FailureKind::Panic, format!("{EVIL}\u{1b}[31m\u{202e}"));
            report.sources = vec![EVIL.to_owned()];
            report.place = Some(EVIL.to_owned());
            task.life.error = Some(report.into());
        })
        .await;
    let ok = site
        .stored("greet", |task| {
            task.life.status = TaskStatus::Success;
            task.life.result = Some(serde_json::to_string(EVIL).unwrap().into());
        })
        .await;
    let noisy = site
        .manager
        .add_task(crate::site::fails, EVIL.to_owned())
        .await
        .unwrap();
    site.until(noisy, |task| task.life.status == TaskStatus::Failed)
        .await;
    let cookie = {
        let form = [("username", "<i>ada"), ("password", "secret")];
        let answer = site.post_form("/tasks/auth/login", &[], &form).await;
        answer
            .header("set-cookie")
            .split(';')
            .next()
            .unwrap()
            .to_owned()
    };
    let q = form_urlencoded::byte_serialize(EVIL.as_bytes()).collect::<String>();

    for path in [
        "/tasks/dashboard".to_owned(),
        format!("/tasks/dashboard?func_name={q}&status=failed"),
        format!("/tasks/dashboard?tag={q}"),
        format!("/tasks/dashboard?tracking_id={q}"),
        "/tasks/dashboard?q=%3Cscript%3Ezzz%22".to_owned(),
        format!("/tasks/dashboard?status={q}"),
        format!("/tasks/dashboard/t/{evil}"),
        format!("/tasks/dashboard/t/{ok}"),
        format!("/tasks/dashboard/t/{noisy}"),
        format!("/tasks/dashboard/t/{q}"),
        format!("/tasks/auth/login?next={q}"),
    ] {
        let headers: &[(&str, &str)] = match path.contains("/auth/") {
            true => &[],
            false => &[("cookie", &cookie)],
        };
        let page = site.ask(Method::GET, &path, headers).await;
        assert!(
            page.header("content-type").starts_with("text/html"),
            "{path}: {}",
            page.body
        );
        for bad in [
            "<script>",
            "<img src=x",
            "<i>ada",
            "=\"\"'>",
            "\u{1b}",
            "\u{202e}",
        ] {
            let at = page.body.find(bad);
            let from_there = at.map(|at| page.body[at..].chars().take(80).collect::<String>());
            assert_eq!(from_there, None, "{bad} in {path}");
        }
        assert!(
            page.body.contains("&#60;script&#62;"),
            "{path} shows nothing of it as text"
        );
    }
}

#[tokio::test]
async fn nothing_on_a_page_is_inline_or_foreign() {
    let site = Site::open().await;
    let failed = site.ended(TaskStatus::Failed).await;
    for path in [
        "/tasks/dashboard".to_owned(),
        format!("/tasks/dashboard/t/{failed}"),
        "/tasks/dashboard?q=zzz".to_owned(),
    ] {
        let page = site.page(&path).await;
        for tag in page
            .body
            .split('<')
            .skip(1)
            .map(|rest| rest.split('>').next().unwrap())
        {
            assert!(!tag.contains(" style=") && !tag.contains(" on"), "{tag}");
            assert!(!tag.contains("//"), "a foreign address: {tag}");
        }
        assert!(!page.body.contains("<script>") && !page.body.contains("<style"));
    }
}

#[tokio::test]
async fn a_form_acts_comes_back_and_tells_once_what_it_did() {
    let site = Site::open().await;
    let failed = site.ended(TaskStatus::Failed).await;
    let list = site.page("/tasks/dashboard?status=failed").await;
    let form = [
        ("csrf", &*list.csrf()),
        ("back", "/tasks/dashboard?status=failed"),
    ];

    let answer = site
        .post_form(&format!("/tasks/dashboard/t/{failed}/retry"), &[], &form)
        .await;

    assert_eq!(
        (answer.status.as_u16(), answer.header("location")),
        (303, "/tasks/dashboard?status=failed")
    );
    let flash = answer
        .header("set-cookie")
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    let headers = [("cookie", &*flash), ("accept", "text/html")];
    let next = site.ask(Method::GET, "/tasks/dashboard", &headers).await;
    assert!(next.body.contains("Retried as a new task."));
    assert!(
        next.header("set-cookie")
            .starts_with("tf_flash=; Path=/; Max-Age=0")
    );

    let waiting = site.waiting().await;
    let back = format!("/tasks/dashboard/t/{waiting}");
    let form = [("csrf", &*list.csrf()), ("back", &back)];
    let answer = site.post_form(&format!("{back}/cancel"), &[], &form).await;
    assert_eq!(answer.header("location"), back);
    let again = site.post_form(&format!("{back}/cancel"), &[], &form).await;
    assert_eq!(again.status, 400);
    assert!(again.body.contains("Not possible any more") && again.body.contains("is cancelled"));
}

/// The fields of the form that retries all, as a browser sends them.
fn retry_all_of(page: &Answer) -> Vec<(String, String)> {
    let (_, form) = page
        .body
        .split_once("action=\"/tasks/dashboard/retry-all\"")
        .expect("a button for all");
    let form = form.split("</form>").next().unwrap();
    let inputs = form.split("<input type=\"hidden\" name=\"").skip(1);
    let fields = inputs.map(|input| {
        let (name, rest) = input.split_once("\" value=\"").unwrap();
        let value = unescape(rest.split('"').next().unwrap());
        (name.to_owned(), value)
    });
    fields.collect()
}

async fn send_all(site: &Site, fields: &[(String, String)]) -> Answer {
    let fields = fields.iter().map(|(name, value)| (&**name, &**value));
    let fields: Vec<(&str, &str)> = fields.collect();
    site.post_form("/tasks/dashboard/retry-all", &[], &fields)
        .await
}

/// What the page says after this answer.
async fn told_after(site: &Site, answer: &Answer) -> String {
    assert_eq!(answer.status, 303, "{}", answer.body);
    let flash = answer.header("set-cookie").split(';').next().unwrap();
    let headers = [("cookie", flash), ("accept", "text/html")];
    let next = answer.header("location");
    let page = site.ask(Method::GET, next, &headers).await;
    let (_, notice) = page.body.split_once("id=\"notice\">").unwrap();
    notice.split('<').next().unwrap().to_owned()
}

#[tokio::test]
async fn one_button_retries_all_that_fit_the_filter_and_nothing_else() {
    let site = Site::open().await;
    let ended = async |status: TaskStatus, plan: &str| {
        let end = |task: &mut Task| {
            task.life.status = status;
            task.life.finished_at = Some(START);
            task.tags.insert("plan".to_owned(), plan.to_owned());
        };
        site.stored("stays", end).await
    };
    let fitting = [
        ended(TaskStatus::Failed, "a&b").await,
        ended(TaskStatus::Failed, "a&b").await,
    ];
    ended(TaskStatus::Failed, "other").await;
    ended(TaskStatus::Interrupted, "a&b").await;
    let path = "/tasks/dashboard?status=failed&func_name=stays&tag=plan%3Da%26b";
    let page = site.page(path).await;
    let fields = retry_all_of(&page);

    let answer = send_all(&site, &fields).await;

    assert_eq!(unescape(answer.header("location")), path);
    assert_eq!(
        told_after(&site, &answer).await,
        "Retried 2 tasks as new ones."
    );
    let tasks = site.get("/tasks").await.json();
    let tasks = tasks.as_array().unwrap().iter();
    let retries = tasks.filter(|task| task["source"] == "retry").count();
    assert_eq!(retries, 2);
    let audit = site.manager.audit(None, 10).await.unwrap();
    assert_eq!((audit.len(), &*audit[0].action), (1, "bulk_retry"));
    assert_eq!(audit[0].detail["tag"], "plan=a&b");
    assert_eq!(audit[0].detail["dispatched"], 2);
    let again = send_all(&site, &fields).await;
    assert_eq!(
        told_after(&site, &again).await,
        "Retried 0 tasks as new ones, and left out 2 that cannot be retried or have been."
    );
    for id in fitting {
        row_of(&page, id);
    }
}

#[tokio::test]
async fn the_button_for_all_says_how_many_and_stands_only_where_it_can_be_used() {
    let site = Site::open().await;
    for path in ["?status=failed", "?status=interrupted"] {
        let page = site.page(&format!("/tasks/dashboard{path}")).await;
        assert!(!page.body.contains("retry-all"), "{path}: there is nothing");
    }
    for _ in 0..2 {
        site.ended(TaskStatus::Failed).await;
        site.ended(TaskStatus::Success).await;
        site.ended(TaskStatus::Cancelled).await;
    }
    let page = site.page("/tasks/dashboard?status=failed").await;
    assert!(
        page.body
            .contains("Retries 2 failed tasks, at most 10,000 at once.")
    );
    let some = site.page("/tasks/dashboard?status=failed&limit=1").await;
    let (_, rest) = some.body.split_once("id=\"older\"").unwrap();
    let (_, rest) = rest.split_once("href=\"").unwrap();
    let older = site.page(&unescape(rest.split('"').next().unwrap())).await;
    assert!(
        older
            .body
            .contains("the failed tasks on this page and all older ones")
    );
    let fields = retry_all_of(&older);
    assert!(
        fields.iter().any(|(name, _)| name == "before"),
        "{fields:?}"
    );
    for path in [
        "",
        "?status=success",
        "?status=cancelled",
        "?status=pending",
    ] {
        let page = site.page(&format!("/tasks/dashboard{path}")).await;
        assert!(!page.body.contains("retry-all"), "{path}");
    }
    let csrf = page.csrf();
    for status in ["", "success", "cancelled", "running", "nonsense"] {
        let form = [("csrf", &*csrf), ("status", status)];
        let path = "/tasks/dashboard/retry-all";
        let answer = site.post_form(path, &[], &form).await;
        assert_eq!(answer.status, 422, "{status}: {}", answer.body);
    }
    let form = [("status", "failed")];
    let forged = site.post_form("/tasks/dashboard/retry-all", &[], &form);
    assert_eq!(forged.await.status, 403);
    assert!(site.actors().await.is_empty());
}

#[tokio::test]
async fn who_may_only_look_has_no_button_for_all_and_cannot_press_it() {
    let site = Site::closed().await;
    site.ended(TaskStatus::Failed).await;
    let (ada, bob) = (site.sign_in("ada").await, site.sign_in("bob").await);
    let page = async |cookie: &str| {
        let headers = [("cookie", cookie), ("accept", "text/html")];
        let path = "/tasks/dashboard?status=failed";
        site.ask(Method::GET, path, &headers).await
    };

    let (hers, his) = (page(&ada).await, page(&bob).await);
    assert!(hers.body.contains("retry-all") && !his.body.contains("retry-all"));
    let form = [("csrf", &*his.csrf()), ("status", "failed")];
    let headers = [("cookie", &*bob), ("sec-fetch-site", "same-origin")];
    let path = "/tasks/dashboard/retry-all";
    let refused = site.post_form(path, &headers, &form).await;
    assert_eq!(refused.status, 403);
    assert!(site.actors().await.is_empty());
}

#[tokio::test]
async fn a_retry_of_all_leads_on_to_what_is_beyond_its_bound() {
    let site = Site::open().await;
    let mut ids = Vec::new();
    for _ in 0..10_003 {
        // Of a function that nobody knows: each is looked at and left out, which is quick.
        let id = site.stored("gone", |task| {
            task.life.status = TaskStatus::Failed;
            task.life.finished_at = Some(START);
        });
        ids.push(id.await);
    }
    let page = site.page("/tasks/dashboard?status=failed").await;

    let answer = send_all(&site, &retry_all_of(&page)).await;

    let next = unescape(answer.header("location"));
    assert_eq!(
        next,
        format!("/tasks/dashboard?status=failed&before={}", ids[3])
    );
    let told = told_after(&site, &answer).await;
    assert!(told.contains("left out 10000"), "{told}");
    assert!(
        told.ends_with("Older ones are left: here they are."),
        "{told}"
    );
    let rest = site.page(&next).await;
    let answer = send_all(&site, &retry_all_of(&rest)).await;
    let told = told_after(&site, &answer).await;
    assert!(
        told.contains("left out 3 ") && !told.contains("left:"),
        "{told}"
    );
}

#[tokio::test]
async fn a_retry_of_all_that_the_store_ends_says_how_far_it_came() {
    let site = Site::open().await;
    site.ended(TaskStatus::Failed).await;
    let fields = retry_all_of(&site.page("/tasks/dashboard?status=failed").await);
    site.backend
        .lists_left
        .store(0, std::sync::atomic::Ordering::SeqCst);

    let answer = send_all(&site, &fields).await;

    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("0 were retried by then"));
}

#[tokio::test(start_paused = true)]
async fn the_page_says_so_if_the_instance_that_runs_a_task_does_not_answer() {
    let site = Site::open().await;
    let running = site.running_elsewhere().await;
    let csrf = site.page("/tasks/dashboard").await.csrf();
    let path = format!("/tasks/dashboard/t/{running}/cancel");
    let said = "Asked to stop, but the process that runs it has not answered yet.";

    let json = [("accept", "application/json")];
    let form = [("csrf", &*csrf), ("back", "/tasks/dashboard")];
    let answer = site.post_form(&path, &json, &form).await.json();
    assert_eq!(answer["detail"], said);

    let answer = site.post_form(&path, &[], &form).await;
    let flash = answer.header("set-cookie").split(';').next().unwrap();
    let headers = [("cookie", flash), ("accept", "text/html")];
    let next = site.ask(Method::GET, "/tasks/dashboard", &headers).await;
    assert!(next.body.contains(said));
}

#[tokio::test]
async fn the_script_gets_the_same_answers_in_json() {
    let site = Site::open().await;
    let failed = site.ended(TaskStatus::Failed).await;
    let csrf = site.page("/tasks/dashboard").await.csrf();
    let json = [("accept", "application/json")];
    let path = format!("/tasks/dashboard/t/{failed}/retry");

    let answer = site
        .post_form(&path, &json, &[("csrf", &csrf)])
        .await
        .json();
    assert_eq!(answer["detail"], "Retried as a new task.");
    assert!(
        answer["href"]
            .as_str()
            .unwrap()
            .starts_with("/tasks/dashboard/t/")
    );
    site.post_form(&path, &json, &[]).await.detail(403);
    let wrong = format!("/tasks/dashboard/t/{failed}/cancel");
    site.post_form(&wrong, &json, &[("csrf", &csrf)])
        .await
        .detail(400);
}

#[tokio::test]
async fn a_theme_is_chosen_once_and_printed_by_the_server() {
    let site = Site::open().await;
    let page = site.page("/tasks/dashboard").await;
    assert!(page.body.contains("<html lang=\"en\">"));
    let csrf = page.csrf();
    for theme in ["dark", "light"] {
        let form = [
            ("csrf", &*csrf),
            ("theme", theme),
            ("back", "/tasks/dashboard?limit=5"),
        ];
        let answer = site.post_form("/tasks/dashboard/prefs", &[], &form).await;
        assert_eq!(answer.header("location"), "/tasks/dashboard?limit=5");
        let cookie = answer.header("set-cookie").split(';').next().unwrap();
        let page = site
            .ask(Method::GET, "/tasks/dashboard", &[("cookie", cookie)])
            .await;
        assert!(page.body.contains(&format!("data-theme=\"{theme}\"")));
    }
    let odd = site
        .ask(
            Method::GET,
            "/tasks/dashboard",
            &[("cookie", "tf_theme=\"><b>")],
        )
        .await;
    assert!(odd.body.contains("<html lang=\"en\">"));
}

#[tokio::test]
async fn empty_and_wrong_addresses_have_a_page_of_their_own() {
    let site = Site::open().await;

    assert!(
        site.page("/tasks/dashboard")
            .await
            .body
            .contains("No tasks yet.")
    );
    let gone = site
        .page("/tasks/dashboard/t/01993f8a-41c2-7b1e-9d0a-5a2f1c9e7d10")
        .await;
    assert_eq!(gone.status, 404);
    assert!(gone.body.contains("Not here") && gone.body.contains("href=\"/tasks/dashboard\""));
    for wrong in ["before=x", "status=x", "limit=0", "limit=100000"] {
        let page = site.page(&format!("/tasks/dashboard?{wrong}")).await;
        assert_eq!(page.status, 422, "{wrong}");
        assert!(page.body.contains("This address cannot be read"));
    }
}

#[tokio::test]
async fn every_link_works_wherever_the_routes_are_mounted() {
    type Mount = fn(TaskAdmin) -> Router;
    let mounts: [(&str, &str, Mount); 7] = [
        ("/tasks", "/tasks", |admin| {
            Router::new().nest("/tasks", admin.routes())
        }),
        ("/a/b/tasks", "/a/b/tasks", |admin| {
            Router::new().nest("/a/b/tasks", admin.routes())
        }),
        ("/acme/tasks", "/acme/tasks", |admin| {
            Router::new().nest("/{tenant}/tasks", admin.routes())
        }),
        ("", "", |admin| Router::new().merge(admin.routes())),
        ("", "", |admin| admin.at("/")),
        ("/ops/tasks", "/ops/tasks", |admin| {
            Router::new().merge(admin.at("/ops/tasks/"))
        }),
        ("/tasks", "/public/x", |admin| {
            Router::new().nest("/tasks", admin.public_path("/public/x/").routes())
        }),
    ];
    for (inner, base, mount) in mounts {
        let site = Site::with(|admin| mount(people(admin))).await;
        let id = site.ended(TaskStatus::Failed).await;
        let auth = ("authorization", "Basic YWRhOnNlY3JldA==");
        let html = ("accept", "text/html");
        let outside = site
            .ask(Method::GET, &format!("{inner}/dashboard"), &[html])
            .await;
        assert_eq!(
            outside.header("location"),
            format!("{base}/auth/login"),
            "{inner}"
        );
        let root = if inner.is_empty() { "/" } else { inner };
        let home = site.ask(Method::GET, root, &[auth, html]).await;
        assert_eq!(home.header("location"), format!("{base}/dashboard"));
        let list = site
            .ask(
                Method::GET,
                &format!("{root}?limit=1&status=failed"),
                &[auth],
            )
            .await;
        assert_eq!(list.status, 200);

        for path in ["/dashboard".to_owned(), format!("/dashboard/t/{id}")] {
            let page = site
                .ask(Method::GET, &format!("{inner}{path}"), &[auth, html])
                .await;
            assert_eq!(page.status, 200, "{inner}{path}");
            let mut links = BTreeMap::new();
            for name in ["href", "src", "action", "formaction", "data-stream"] {
                for part in page.body.split(&format!(" {name}=\"")).skip(1) {
                    links.insert(unescape(part.split('"').next().unwrap()), name);
                }
            }
            assert!(links.len() > 5);
            for (link, name) in links
                .iter()
                .filter(|(link, _)| !link.is_empty() && !link.starts_with('#'))
            {
                assert!(
                    link.starts_with(&format!("{base}/")) && !link.contains("//"),
                    "{name}={link} at {inner}"
                );
                // Below the public path the proxy puts the inner one.
                let target = format!("{inner}{}", &link[base.len()..]);
                if !["action", "formaction", "data-stream"].contains(name) {
                    let answer = site.ask(Method::GET, &target, &[auth, html]).await;
                    assert_eq!(answer.status, 200, "{link} at {inner}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_mount_answers_with_and_without_a_slash_at_its_end() {
    let site = Site::with(|admin| Router::new().merge(admin.insecure_no_auth().at("/tasks"))).await;

    for path in ["/tasks", "/tasks/"] {
        let answer = site.get(path).await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.body),
            (200, "[]"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn assets_may_be_kept_for_ever_and_only_under_their_own_name() {
    let site = Site::closed().await;
    let login = site.page("/tasks/auth/login").await;
    let (_, rest) = login.body.split_once("rel=\"stylesheet\" href=\"").unwrap();
    let style = rest.split('"').next().unwrap();

    let answer = site.get(style).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "text/css; charset=utf-8");
    assert_eq!(
        answer.header("cache-control"),
        "public, max-age=31536000, immutable"
    );
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    for wrong in [
        "app.css",
        "..%2F..%2FCargo.toml",
        "app.0000000000000000.css",
        "%FF",
    ] {
        assert_eq!(
            site.get(&format!("/tasks/dashboard/assets/{wrong}"))
                .await
                .status,
            404,
            "{wrong}"
        );
    }
}

#[tokio::test]
async fn a_page_of_fifty_tasks_is_small() {
    let site = Site::open().await;
    let names = (0..60).map(|n| format!("user{n}@example.org"));
    site.manager
        .add_tasks(greet, names)
        .delay_by(Duration::from_secs(60))
        .await
        .unwrap();

    let page = site.page("/tasks/dashboard").await;
    assert_eq!(page.body.matches("<tr id=").count(), 50);
    assert!(page.body.len() < 60_000, "{} bytes", page.body.len());
    assert!(page.body.matches('<').count() / 2 < 1_500);
}
