//! The other instances: how they are, and what they can run.

use std::{sync::atomic::Ordering, time::Duration};

use axum::http::Method;
use axum_taskflow_core::{
    FailureKind, FailureReport, IdSource, Instance, InstanceId, Role, TaskId, TaskStatus, Timestamp,
};
use serde_json::{Value, json};

use crate::{
    live::Live,
    site::{Answer, START, Site, unescape},
};

const LATER: Timestamp = Timestamp::from_unix_ms(START.as_unix_ms() + 6_000);

fn knows(names: &'static [&str]) -> impl FnOnce(&mut Instance) {
    move |instance| instance.functions = names.iter().map(|name| (*name).into()).collect()
}

fn row_of(page: &Answer, id: InstanceId) -> String {
    let (_, rest) = page
        .body
        .split_once(&format!("<li data-id=\"{id}\""))
        .unwrap_or_else(|| panic!("no row of {id}"));
    unescape(rest.split("</li>").next().unwrap())
}

#[tokio::test]
async fn each_instance_says_who_it_is_and_how_it_is() {
    let site = Site::open().await;
    site.clock.advance(Duration::from_secs(6));
    let me = site.manager.instance();
    site.backend.beat_now(me.id, LATER).await;
    let well = site.joined(LATER, |instance| {
        instance.pid = 7;
        instance.version = "1.4.2".to_owned();
        instance.role = Role::Worker;
        instance.functions = ["send_email".into()].into();
    });
    let well = well.await;
    let silent = site.joined(START, |_| ()).await;
    let dead = site.joined(LATER, |_| ()).await;
    site.backend.supersede_now(dead).await;

    let list = site.get("/tasks/instances").await.json();

    let of = |id: InstanceId| -> Value {
        let id = json!(id.to_string());
        let mut all = list.as_array().unwrap().iter();
        all.find(|one| one["id"] == id).unwrap().clone()
    };
    assert_eq!(list.as_array().unwrap().len(), 4);
    assert_eq!(
        of(well),
        json!({
            "id": well.to_string(), "host": "host-b", "pid": 7, "version": "1.4.2", "role": "worker",
            "functions": ["send_email"], "started_at": "2026-11-21T22:26:46+00:00",
            "beat_at": "2026-11-21T22:26:46+00:00", "state": "alive", "is_here": false,
        })
    );
    let here = of(me.id);
    assert_eq!(
        (&here["is_here"], &here["state"], &here["pid"]),
        (&json!(true), &json!("alive"), &json!(std::process::id()))
    );
    assert!(
        here["functions"]
            .as_array()
            .unwrap()
            .contains(&json!("greet"))
    );
    assert_eq!(of(silent)["state"], "unresponsive");
    assert_eq!(of(dead)["state"], "dead");
}

#[tokio::test]
async fn an_instance_is_unresponsive_after_more_than_five_seconds() {
    let site = Site::open().await;
    let id = site.joined(START, |_| ()).await;
    for (later_ms, state) in [(5_000, "alive"), (1, "unresponsive")] {
        site.clock.advance(Duration::from_millis(later_ms));

        let list = site.get("/tasks/instances").await.json();

        let mut all = list.as_array().unwrap().iter();
        let one = all.find(|one| one["id"] == json!(id.to_string())).unwrap();
        assert_eq!(one["state"], state);
    }
}

#[tokio::test]
async fn who_may_look_sees_the_instances_and_nobody_else() {
    let site = Site::closed().await;
    let bob = ("authorization", "Basic Ym9iOnNlY3JldA==");

    let answer = site.ask(Method::GET, "/tasks/instances", &[bob]).await;

    assert_eq!(answer.status, 200);
    site.get("/tasks/instances").await.detail(401);
}

#[tokio::test]
async fn the_page_shows_the_instances_with_those_first_that_are_not_well() {
    let site = Site::open().await;
    site.clock.advance(Duration::from_secs(6));
    site.backend
        .beat_now(site.manager.instance().id, LATER)
        .await;
    let evil = site.joined(LATER, |instance| {
        instance.host = "<script>alert(1)</script>".to_owned();
        instance.version = "<b>2".to_owned();
        instance.role = Role::Web;
    });
    let evil = evil.await;
    for _ in 0..60 {
        site.joined(LATER, |_| ()).await;
    }
    let silent = site.joined(START, |_| ()).await;
    let dead = site.joined(LATER, |_| ()).await;
    site.backend.supersede_now(dead).await;

    let page = site.page("/tasks/dashboard").await;

    let here = row_of(&page, site.manager.instance().id);
    assert!(here.contains("this one") && here.contains("adds and runs tasks · 4 functions"));
    assert!(here.contains("started <time") && !here.contains("last seen"));
    let row = row_of(&page, evil);
    assert!(row.contains("adds tasks · version <b>2"), "{row}");
    assert!(!row.contains("this one") && !page.body.contains("<script>alert"));
    let first = [silent, dead].map(|id| page.body.find(&format!("data-id=\"{id}\"")).unwrap());
    let other = page.body.find("data-s=\"alive\"").unwrap();
    assert!(first[0] < first[1] && first[1] < other);
    let row = row_of(&page, silent);
    assert!(row.contains("data-s=\"unresponsive\"") && row.contains("last seen <time"));
    assert!(row.contains("6 s ago"), "{row}");
    assert!(page.body.contains("62 alive, 1 unresponsive, 1 dead"));
    assert_eq!(page.body.matches("<li data-id=").count(), 50);
    assert!(page.body.contains("and 14 more"));
}

#[tokio::test]
async fn the_head_of_the_list_says_which_instances_are_not_well_and_nothing_while_all_are() {
    let site = Site::open().await;
    let page = site.page("/tasks/dashboard").await;
    assert!(!page.body.contains("id=\"unwell\""));

    site.clock.advance(Duration::from_secs(6));
    site.backend
        .beat_now(site.manager.instance().id, LATER)
        .await;
    site.joined(START, |_| ()).await;
    let page = site.page("/tasks/dashboard").await;
    let said = |page: &Answer| {
        let (_, rest) = page.body.split_once("id=\"unwell\"").unwrap();
        assert!(rest.starts_with(" href=\"#instances\""));
        let rest = rest.split_once("</svg>").unwrap().1;
        rest.split('<').next().unwrap().to_owned()
    };
    assert_eq!(said(&page), "1 instance unresponsive");
    for _ in 0..2 {
        let dead = site.joined(LATER, |_| ()).await;
        site.backend.supersede_now(dead).await;
    }
    let page = site.page("/tasks/dashboard").await;
    assert_eq!(said(&page), "2 instances dead, 1 instance unresponsive");
    assert!(page.body.contains("class=\"state s-dead\" id=\"unwell\""));
}

#[tokio::test]
async fn a_task_page_says_which_process_ran_it_and_how_that_one_is() {
    let site = Site::open().await;
    let here = site.running().await;
    let elsewhere = site.running_elsewhere().await;
    let gone = site
        .stored("greet", |task| {
            task.life.status = TaskStatus::Interrupted;
            task.life.instance = Some(IdSource::default().instance(START));
        })
        .await;
    let runner = async |id: TaskId| {
        let page = site.page(&format!("/tasks/dashboard/t/{id}")).await;
        let (_, rest) = page.body.split_once("<dt>Instance</dt>").unwrap();
        unescape(rest.split("</dd>").next().unwrap())
    };

    let me = site.manager.instance();
    let said = runner(here).await;
    let wanted = format!("process {} (this one)", me.pid);
    assert!(
        said.contains(&wanted) && said.contains(&me.id.to_string()),
        "{said}"
    );
    let said = runner(elsewhere).await;
    assert!(said.contains("host-b, process"), "{said}");
    assert!(!said.contains("data-s="), "it is well: {said}");
    site.clock.advance(Duration::from_secs(6));
    let said = runner(elsewhere).await;
    assert!(said.contains("data-s=\"unresponsive\""), "{said}");
    let said = runner(gone).await;
    assert!(said.contains("mono") && !said.contains("process"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_live_page_is_told_when_instances_come_and_go_and_nothing_while_they_do_not() {
    let site = Site::open().await;
    let mut live = Live::of_page(&site, "/tasks/dashboard").await;
    let me = site.manager.instance().id.to_string();
    let told = live.until("instances").await;
    assert_eq!(told.data, json!({ "n": 1, "s": { &*me: "alive" } }));
    live.until("counts").await;
    let silence = live.next().await.unwrap().event;
    assert_eq!(silence, "hb", "three looks, and nothing new");

    let other = site.joined(START, |_| ()).await;
    let told = live.until("instances").await;
    assert_eq!(
        told.data,
        json!({ "n": 2, "s": { &*me: "alive", other.to_string(): "alive" } })
    );

    site.backend.supersede_now(other).await;
    assert_eq!(
        live.until("instances").await.data["s"][other.to_string()],
        "dead"
    );
}

#[tokio::test]
async fn a_task_is_held_only_if_no_living_instance_that_runs_tasks_knows_its_function() {
    let site = Site::open().await;
    let dead = site.joined(START, knows(&["of_the_dead"])).await;
    site.backend.supersede_now(dead).await;
    site.joined(START, |instance| {
        knows(&["of_the_web"])(instance);
        instance.role = Role::Web;
    })
    .await;
    let other = site.joined(START, knows(&["of_the_other"])).await;
    let report = |kind| Some(FailureReport::new(kind, "why").into());
    let unknown = |name: &str| {
        json!(format!(
            "no running instance knows a function called {name}"
        ))
    };

    for (id, held_reason) in [
        (site.stored("of_nobody", |_| ()).await, unknown("of_nobody")),
        (
            site.stored("of_the_dead", |_| ()).await,
            unknown("of_the_dead"),
        ),
        (
            site.stored("of_the_web", |_| ()).await,
            unknown("of_the_web"),
        ),
        (site.stored("of_the_other", |_| ()).await, json!(null)),
        (
            // It came to know the function after it had said what it knows.
            site.stored("new", |task| task.life.owner = Some(other))
                .await,
            json!(null),
        ),
        (
            site.stored("again", |task| task.life.error = report(FailureKind::Error))
                .await,
            unknown("again"),
        ),
        (
            site.stored("of_nobody", |task| {
                task.life.error = report(FailureKind::Held);
            })
            .await,
            json!("why"),
        ),
        (
            // As a store shows what a newer program wrote.
            site.stored("of_nobody", |task| {
                task.life.error = report(FailureKind::Unreadable);
            })
            .await,
            json!("why"),
        ),
        (site.waiting().await, json!(null)),
    ] {
        let task = site.get(&format!("/tasks/{id}")).await.json();
        assert_eq!(task["held_reason"], held_reason, "{}", task["func_name"]);
        let list = site.get("/tasks").await.json();
        let mut listed = list.as_array().unwrap().iter();
        let listed = listed.find(|one| one["task_id"] == json!(id)).unwrap();
        assert_eq!(listed["held_reason"], held_reason, "{}", task["func_name"]);

        let page = site.page(&format!("/tasks/dashboard/t/{id}")).await;
        let list = site.page("/tasks/dashboard").await;
        for html in [unescape(&page.body), crate::pages::row_of(&list, id)] {
            assert_eq!(html.contains("s-held"), !held_reason.is_null(), "{html}");
            assert!(html.contains(held_reason.as_str().unwrap_or_default()));
        }
        assert_eq!(page.body.contains("Why it waits"), !held_reason.is_null());
    }
}

#[tokio::test]
async fn a_live_row_is_held_only_if_nobody_can_run_it() {
    let site = Site::open().await;
    site.joined(START, knows(&["of_the_other"])).await;
    let (known, unknown) = (
        site.stored("of_the_other", |_| ()).await,
        site.stored("of_nobody", |_| ()).await,
    );
    for (id, state) in [(known, "pending"), (unknown, "held")] {
        let path = format!("/tasks/dashboard/stream?id={id}");
        let (delta, _) = Live::open(&site, &path, &[]).await.change_of(id).await;
        assert_eq!(delta["s"], state);
    }
}

#[tokio::test(start_paused = true)]
async fn a_live_page_is_told_what_other_instances_do_and_nothing_while_they_do_nothing() {
    let site = Site::open().await;
    let (early, late) = (site.running().await, site.running().await);
    site.joined(START, |_| ()).await;
    let page = format!("/tasks/dashboard/t/{late}");
    let mut list = Live::of_page(&site, "/tasks/dashboard").await;
    let mut task = Live::of_page(&site, &page).await;
    for live in [&mut list, &mut task] {
        while live.next().await.unwrap().event != "hb" {} // all is told
    }

    site.taken(early).await;
    assert_eq!(list.change_of(early).await.0["s"], "interrupted");
    site.taken(late).await;
    for live in [&mut list, &mut task] {
        let (delta, _) = live.change_of(late).await;
        assert_eq!(delta["s"], "interrupted");
    }
    site.clock.advance(Duration::from_millis(1)); // within one, ids of two processes have no order
    site.stored("greet", |_| ()).await;
    assert_eq!(list.until("tasks").await.data, json!({ "n": 1 }));

    for live in [&mut list, &mut task] {
        let mut event = live.next().await.unwrap().event;
        if event == "counts" {
            event = live.next().await.unwrap().event;
        }
        assert_eq!(event, "hb");
    }
}

#[tokio::test]
async fn a_request_asks_for_the_instances_once_and_only_if_it_needs_to() {
    let site = Site::open().await;
    site.waiting().await;
    site.running().await;
    let asked = async |path: &str| {
        let before = site.backend.n_instances.load(Ordering::SeqCst);
        assert_eq!(site.get(path).await.status, 200);
        site.backend.n_instances.load(Ordering::SeqCst) - before
    };
    assert_eq!(asked("/tasks").await, 0);

    for _ in 0..20 {
        site.stored("of_nobody", |_| ()).await;
    }
    assert_eq!(asked("/tasks").await, 1);
    assert_eq!(asked("/tasks?func_name=greet").await, 0);
    assert_eq!(asked("/tasks/dashboard").await, 1);
    let elsewhere = site.running_elsewhere().await;
    assert_eq!(asked(&format!("/tasks/dashboard/t/{elsewhere}")).await, 1);
}
