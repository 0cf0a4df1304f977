//! The pages of schedules, and of leaders and locks.

use std::time::Duration;

use axum::http::Method;
use axum_taskflow_core::{HoldKind, Schedule};

use crate::{
    live::Live,
    site::{Answer, Site, greet, soon, unescape},
};

const SAME: (&str, &str) = ("sec-fetch-site", "same-origin");

/// What the page prints between this opening and that end.
fn between<'a>(page: &'a Answer, start: &str, end: &str) -> &'a str {
    let (_, rest) = page
        .body
        .split_once(start)
        .unwrap_or_else(|| panic!("no {start} in {}", page.body));
    rest.split(end).next().unwrap()
}

fn row_of(page: &Answer, name: &str) -> String {
    let row = between(page, &format!("<li data-name=\"{name}\""), "\n</li>");
    unescape(row)
}

async fn with_a_schedule() -> Site {
    let site = Site::open().await;
    let schedule = Schedule::new(greet, "ada".to_owned())
        .name("morning")
        .cron("0 9 * * Mon-Fri")
        .zone("Europe/Berlin");
    site.manager.schedule(schedule).await.unwrap();
    site
}

#[tokio::test]
async fn pages_without_anything_say_what_would_be_there() {
    let site = Site::open().await;

    let schedules = site.page("/tasks/dashboard/schedules").await;
    let holders = site.page("/tasks/dashboard/holders").await;

    assert_eq!(
        (schedules.status.as_u16(), holders.status.as_u16()),
        (200, 200)
    );
    assert!(schedules.body.contains("No schedules yet.") && schedules.body.contains("0 schedules"));
    assert!(holders.body.contains("Nobody holds anything.") && holders.body.contains("0 held"));
    for (page, here) in [(&schedules, "schedules"), (&holders, "holders")] {
        let current = format!("/tasks/dashboard/{here}\" aria-current=\"page\"");
        assert!(page.body.contains(&current), "{}", page.body);
        assert_eq!(page.body.matches("aria-current").count(), 1);
    }
}

#[tokio::test]
async fn a_schedule_is_shown_paused_resumed_run_and_deleted_by_form() {
    let site = with_a_schedule().await;
    let page = async || site.page("/tasks/dashboard/schedules").await;
    let first = page().await;
    let csrf = first.csrf();
    let act = async |verb: &str, name: &str| {
        let form = [
            ("csrf", &*csrf),
            ("back", "/tasks/dashboard/schedules"),
            ("name", name),
        ];
        let path = format!("/tasks/dashboard/schedules/{verb}");
        site.post_form(&path, &[], &form).await
    };

    let row = row_of(&first, "morning");
    for part in [
        "data-s=\"active\"",
        "/tasks/dashboard?tag=schedule%3Dmorning\"",
        "greet",
        "0 9 * * Mon-Fri",
        "Europe/Berlin",
        "[\"ada\"]",
        "by hand",
    ] {
        assert!(row.contains(part), "{part} in {row}");
    }
    let next = between(&first, "<h2>Next</h2>", "</ul>");
    assert_eq!(next.matches("<li>").count(), 5, "{next}");

    let paused = act("pause", "morning").await;
    assert_eq!(
        (paused.status.as_u16(), paused.header("location")),
        (303, "/tasks/dashboard/schedules")
    );
    let row = row_of(&page().await, "morning");
    assert!(
        row.contains("data-s=\"paused\"") && row.contains("by anonymous"),
        "{row}"
    );
    assert!(
        row.contains("/resume\"") && !row.contains("/pause\""),
        "{row}"
    );

    assert_eq!(act("resume", "morning").await.status, 303);
    let row = row_of(&page().await, "morning");
    assert!(
        row.contains("data-s=\"active\"") && !row.contains("by anonymous"),
        "{row}"
    );

    let ran = act("run", "morning").await;
    let flash = ran.header("set-cookie").split(';').next().unwrap();
    let headers = [("cookie", flash), ("accept", "text/html")];
    let told = site
        .ask(Method::GET, "/tasks/dashboard/schedules", &headers)
        .await;
    assert!(told.body.contains("Added a task"), "{}", told.body);
    let totals = "In all 1 fired, 0 left out, 0 missed";
    assert!(row_of(&told, "morning").contains(totals), "{}", told.body);
    let tasks = site.get("/tasks?tag=schedule%3Dmorning").await.ids();
    assert_eq!(tasks.len(), 1);

    assert_eq!(act("delete", "morning").await.status, 303);
    assert!(page().await.body.contains("No schedules yet."));
    for verb in ["pause", "resume", "run", "delete"] {
        let unknown = act(verb, "morning").await;
        assert_eq!(unknown.status, 404, "{verb}");
        assert!(
            unknown.body.contains("morning") && unknown.header("content-type").contains("html")
        );
        let path = format!("/tasks/dashboard/schedules/{verb}");
        let nameless = site.post_form(&path, &[], &[("csrf", &csrf)]).await;
        assert_eq!(nameless.status, 422, "{verb}");
    }
    let actions: Vec<String> = site.actors().await.into_iter().map(|it| it.1).collect();
    let wanted = [
        "delete_schedule",
        "run_schedule",
        "resume_schedule",
        "pause_schedule",
    ];
    assert_eq!(actions, wanted);
}

#[tokio::test]
async fn what_became_of_past_times_is_shown_with_their_tasks() {
    let site = Site::open().await;
    let every = Schedule::new(greet, "ada".to_owned())
        .name("often")
        .every(Duration::from_secs(90));
    site.manager.schedule(every).await.unwrap();
    let page = site.page("/tasks/dashboard/schedules").await;
    let row = row_of(&page, "often");
    assert!(row.contains(">every 1m30s<"), "{row}");
    site.clock.advance(Duration::from_secs(91));

    let last = soon(async {
        loop {
            let page = site.page("/tasks/dashboard/schedules").await;
            if page.body.contains("<h2>Last</h2>") {
                return between(&page, "<h2>Last</h2>", "</ul>").to_owned();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;

    let tasks = site.get("/tasks?tag=schedule%3Doften").await.ids();
    let link = format!("<a href=\"/tasks/dashboard/t/{}\">fired</a>", tasks[0]);
    assert!(last.contains(&link), "{last}");
}

#[tokio::test]
async fn holders_are_shown_and_released_by_form() {
    let site = Site::open().await;
    let guard = site.manager.lock("report:42").acquire().await.unwrap();
    let page = site.page("/tasks/dashboard/holders").await;
    let csrf = page.csrf();
    let release = async |kind: &str, name: &str| {
        let form = [
            ("csrf", &*csrf),
            ("back", "/tasks/dashboard/holders"),
            ("kind", kind),
            ("name", name),
        ];
        let path = "/tasks/dashboard/holders/release";
        site.post_form(path, &[], &form).await
    };

    let row = row_of(&page, "report:42");
    let epoch = format!("epoch {}", guard.epoch());
    for part in [
        "data-kind=\"lock\"",
        "data-s=\"alive\"",
        "(this one)",
        "has the lock",
        &epoch,
    ] {
        assert!(row.contains(part), "{part} in {row}");
    }

    assert_eq!(release("door", "report:42").await.status, 422);
    assert_eq!(release("leader", "report:42").await.status, 404);
    assert_eq!(release("lock", "report:42").await.status, 303);
    soon(guard.lost()).await;
    let page = site.page("/tasks/dashboard/holders").await;
    assert!(page.body.contains("Nobody holds anything."));
    assert_eq!(release("lock", "report:42").await.status, 404);
    let audit = site.manager.audit(None, 10).await.unwrap();
    assert_eq!(audit.len(), 1);
    assert_eq!(audit[0].action, "release");
}

#[tokio::test]
async fn who_may_only_look_has_no_buttons_and_forms_of_others_are_refused() {
    let site = Site::closed().await;
    let schedule = Schedule::new(greet, "ada".to_owned())
        .name("morning")
        .cron("@daily");
    site.manager.schedule(schedule).await.unwrap();
    let _guard = site.manager.lock("report").acquire().await.unwrap();
    let (ada, bob) = (site.sign_in("ada").await, site.sign_in("bob").await);
    let page = async |cookie: &str, path: &str| {
        let headers = [("cookie", cookie), ("accept", "text/html")];
        let path = format!("/tasks/dashboard/{path}");
        site.ask(Method::GET, &path, &headers).await
    };

    for (path, acts) in [
        (
            "schedules",
            &["schedules/pause", "schedules/run", "schedules/delete"][..],
        ),
        ("holders", &["holders/release"]),
    ] {
        let (hers, his) = (page(&ada, path).await, page(&bob, path).await);
        let stranger = page("", path).await;
        assert_eq!(stranger.status, 303, "a stranger is led to the sign-in");
        for act in acts {
            assert!(hers.body.contains(&format!("/tasks/dashboard/{act}\"")));
            assert!(!his.body.contains(&format!("/tasks/dashboard/{act}\"")));
            let path = format!("/tasks/dashboard/{act}");
            let form = [
                ("csrf", &*his.csrf()),
                ("name", "morning"),
                ("kind", "lock"),
            ];
            let refused = site
                .post_form(&path, &[("cookie", &bob), SAME], &form)
                .await;
            assert_eq!(refused.status, 403, "{act}: may only look");
            let forged = site
                .post_form(&path, &[("cookie", &ada), SAME], &form)
                .await;
            assert_eq!(forged.status, 403, "{act}: another's token");
        }
    }
    assert!(site.actors().await.is_empty());
    let left = site.manager.holders().await.unwrap();
    assert_eq!((left.len(), left[0].kind), (1, HoldKind::Lock));
    assert_eq!(site.manager.schedules().await.unwrap().len(), 1);
}

#[tokio::test]
async fn names_are_text_and_come_back_from_forms_as_they_were() {
    let site = Site::open().await;
    let odd = "<b>\"a\" & 'b'</b>";
    let schedule = Schedule::new(greet, "ada".to_owned())
        .name(odd)
        .cron("@daily");
    site.manager.schedule(schedule).await.unwrap();
    let guard = site.manager.lock(odd).acquire().await.unwrap();

    for (path, act, kind) in [
        ("/tasks/dashboard/schedules", "pause", ""),
        ("/tasks/dashboard/holders", "release", "lock"),
    ] {
        let page = site.page(path).await;
        assert!(!page.body.contains("<b>\"a\"") && !page.body.contains("<b>&#34;"));
        let value = between(&page, "name=\"name\" value=\"", "\"");
        assert_eq!(unescape(value), odd);
        let form = [("csrf", &*page.csrf()), ("name", odd), ("kind", kind)];
        let done = site.post_form(&format!("{path}/{act}"), &[], &form).await;
        assert_eq!(done.status, 303, "{}", done.body);
    }
    soon(guard.lost()).await;
    assert!(site.manager.schedules().await.unwrap()[0].paused.is_some());
}

#[tokio::test]
async fn of_very_many_the_first_200_are_shown_and_the_others_counted() {
    let site = Site::open().await;
    let mut guards = Vec::new();
    for n in 0..203 {
        let name = format!("no:{n:03}");
        let lock = site.manager.lock(&*name);
        guards.push(lock.acquire().await.unwrap());
        let schedule = Schedule::new(greet, "ada".to_owned());
        let schedule = schedule.name(&name).cron("0 9 * * *");
        site.manager.schedule(schedule).await.unwrap();
    }

    for (page, told) in [
        ("schedules", "203 schedules, and 3 of them are not shown"),
        ("holders", "203 held, and 3 of them are not shown"),
    ] {
        let page = site.page(&format!("/tasks/dashboard/{page}")).await;
        assert!(page.body.contains(told), "{told}");
        assert_eq!(page.body.matches("<li data-name=").count(), 200);
        assert!(page.body.contains("no:199") && !page.body.contains("no:200"));
    }
    for guard in guards {
        guard.release().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_live_page_is_told_to_read_itself_anew_when_it_would_show_something_else() {
    let site = with_a_schedule().await;
    let mut schedules = Live::of_page(&site, "/tasks/dashboard/schedules").await;
    let mut holders = Live::of_page(&site, "/tasks/dashboard/holders").await;
    for live in [&mut schedules, &mut holders] {
        // The first beat comes with the first look.
        for wanted in ["hello", "hb", "hb"] {
            let event = live.next().await.unwrap().event;
            assert_eq!(event, wanted, "within three looks");
        }
    }

    site.manager.pause_schedule("morning", "ada").await.unwrap();
    schedules.until("reset").await;
    let silence = schedules.next().await.unwrap().event;
    assert_eq!(silence, "hb", "it is told twice");
    let guard = site.manager.lock("report:42").acquire().await.unwrap();
    holders.until("reset").await;
    guard.release().await.unwrap();
    holders.until("reset").await;
}

#[tokio::test(start_paused = true)]
async fn what_changed_before_the_stream_of_a_page_was_there_is_told_by_it() {
    let site = with_a_schedule().await;
    let page = site.page("/tasks/dashboard/schedules").await;

    site.manager.pause_schedule("morning", "ada").await.unwrap();

    let mut live = Live::open(&site, &page.attribute("data-stream"), &[]).await;
    live.until("reset").await;
    site.get("/tasks/dashboard/stream?page=tasks")
        .await
        .detail(422);
}

#[tokio::test(start_paused = true)]
async fn a_page_of_one_instance_is_kept_live_by_another_one_that_knows_other_functions() {
    let site = with_a_schedule().await;
    let other = site.beside().await;
    let page = site.page("/tasks/dashboard/schedules").await;

    let mut live = Live::open(&other, &page.attribute("data-stream"), &[]).await;

    for wanted in ["hello", "hb", "hb"] {
        let event = live.next().await.unwrap().event;
        assert_eq!(event, wanted, "it would be read anew again and again");
    }
}
