//! The routes for programs.

use std::{collections::HashSet, sync::atomic::Ordering, time::Duration};

use axum::http::Method;
use axum_taskflow_core::{
    FailureKind, FailureReport, Schedule, Task, TaskContext, TaskId, TaskStatus, Timestamp,
};
use serde_json::json;

use crate::site::{START, Site, greet, request, soon};

#[tokio::test]
async fn a_task_has_the_fields_of_fastapi_taskflow_and_ours_beside_them() {
    let site = Site::open().await;
    let id = site
        .manager
        .add_task(greet, "ada".to_owned())
        .tag("plan", "pro")
        .priority(7)
        .idempotency_key("once")
        .tracking_id("r-1")
        .await
        .unwrap();
    let _: String = soon(site.manager.wait(id)).await.unwrap();

    let task = site.get(&format!("/tasks/{id}")).await.json();

    let instance = site.manager.instance().id.to_string();
    assert_eq!(
        task,
        json!({
            "task_id": id, "func_name": "greet", "status": "success",
            "created_at": "2026-11-21T22:26:40+00:00", "start_time": "2026-11-21T22:26:40+00:00",
            "end_time": "2026-11-21T22:26:40+00:00", "duration": 0.0, "retries_used": 0, "error": null,
            "logs": [], "stacktrace": null, "tags": { "plan": "pro" }, "source": "manual", "priority": 7,
            "executor": "async", "queue": "default",
            "run_at": "2026-11-21T22:26:40+00:00", "attempt": 1, "crashes": 0, "held_reason": null,
            "result": "hello ada", "progress": null,
            "instance": instance, "idempotency_key": "once", "tracking_id": "r-1",
        })
    );
}

#[tokio::test]
async fn each_task_of_a_list_has_its_own_lines_and_one_answer_at_most_8_mib_of_them() {
    async fn tells(context: TaskContext, who: usize, len: usize) {
        for _ in 0..100 {
            context.log(format!("<{who}> {}", "x".repeat(len)));
        }
    }
    let site = Site::open().await;
    let listed = async |len: usize| {
        for who in 0..20 {
            let id = site.manager.add_task(tells, (who, len)).await.unwrap();
            let _: () = soon(site.manager.wait(id)).await.unwrap();
        }
        let list = site.get("/tasks?limit=20").await.json();
        let lines = list.as_array().unwrap().iter().map(|task| {
            let lines = task["logs"].as_array().unwrap().iter();
            lines
                .map(|line| line.as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        });
        lines.collect::<Vec<_>>()
    };

    let short = listed(1).await;
    for (lines, who) in short.iter().zip((0..20).rev()) {
        assert_eq!(lines.len(), 100);
        assert!(
            lines
                .iter()
                .all(|line| line.ends_with(&format!("<{who}> x"))),
            "{lines:?}"
        );
    }

    let long = listed(8_000).await;
    let n_lines: Vec<usize> = long.iter().map(Vec::len).collect();
    assert_eq!(n_lines[..10], [100; 10]);
    assert_eq!(n_lines[11..], [0; 9], "the newest come first");
    let bytes: usize = long.iter().flatten().map(String::len).sum();
    let with_their_times = (8 << 20) - 10_000..(8 << 20) + 200_000;
    assert!(with_their_times.contains(&bytes), "{bytes}");
}

#[tokio::test]
async fn a_failed_task_has_its_error_its_causes_and_its_logs() {
    let site = Site::open().await;
    let id = site.ended(TaskStatus::Failed).await;

    for task in [
        site.get(&format!("/tasks/{id}")).await.json(),
        site.get("/tasks").await.json()[0].clone(),
    ] {
        assert_eq!(task["status"], "failed");
        assert_eq!(task["error"], "no");
        assert_eq!(task["stacktrace"], "no\ncaused by: the cause");
        assert_eq!(
            task["logs"],
            json!([
                "2026-11-21T22:26:40Z about to fail",
                "2026-11-21T22:26:40Z now"
            ])
        );
    }
}

#[tokio::test]
async fn following_the_links_gives_every_task_once_newest_first() {
    let site = Site::open().await;
    let names = (0..250).map(|n| n.to_string());
    let later = Duration::from_secs(60);
    let mut ids = site
        .manager
        .add_tasks(greet, names)
        .delay_by(later)
        .await
        .unwrap();
    ids.reverse();
    let first = site.get("/tasks").await;
    assert_eq!(first.ids().len(), 100, "the default");

    let mut found = Vec::new();
    let mut next = Some("/tasks?limit=70&func_name=greet&status=pending".to_owned());
    let mut pages = 0;
    while let Some(path) = next {
        let answer = site.get(&path).await;
        found.extend(answer.ids());
        pages += 1;
        let link = answer.header("link");
        next = link
            .strip_suffix(">; rel=\"next\"")
            .map(|link| link[1..].to_owned());
    }

    assert_eq!(pages, 4);
    assert_eq!(found, ids.iter().map(TaskId::to_string).collect::<Vec<_>>());
}

#[tokio::test]
async fn each_filter_gives_its_own_tasks() {
    let site = Site::open().await;
    let ok = site.ended(TaskStatus::Success).await.to_string();
    let failed = site.ended(TaskStatus::Failed).await.to_string();
    let tagged = site
        .manager
        .add_task(greet, "x".to_owned())
        .tag("tenant", "a=b")
        .tracking_id("a#b");
    let tagged = tagged
        .delay_by(Duration::from_secs(9))
        .await
        .unwrap()
        .to_string();

    for (query, expected) in [
        ("", vec![&tagged, &failed, &ok]),
        ("status=failed", vec![&failed]),
        ("status=rejected", vec![]),
        ("func_name=greet", vec![&tagged, &ok]),
        ("func_name=gree", vec![]),
        ("func_name=greet&status=success", vec![&ok]),
        ("tag=tenant", vec![&tagged]),
        ("tag=tenant%3Da%3Db", vec![&tagged]),
        ("tag=tenant%3Dc", vec![]),
        ("tracking_id=a%23b", vec![&tagged]),
        (
            "tracking_id=a%23b&tag=tenant&func_name=greet",
            vec![&tagged],
        ),
        ("tracking_id=a%23b&tag=plan", vec![]),
        ("tracking_id=a%23b&status=failed", vec![]),
        ("tracking_id=a", vec![]),
        ("limit=1", vec![&tagged]),
        (&format!("before={failed}"), vec![&ok]),
        (&format!("after={failed}"), vec![&tagged]),
        ("before=2026-11-21T22:26:40Z", vec![]),
        (
            "after=2026-11-21T23:26:40%2B01:00",
            vec![&tagged, &failed, &ok],
        ),
    ] {
        let ids = site.get(&format!("/tasks?{query}")).await.ids();
        assert_eq!(ids.iter().collect::<Vec<_>>(), expected, "{query}");
    }
}

#[tokio::test]
async fn a_wrong_parameter_is_named() {
    let site = Site::open().await;
    for (query, name) in [
        ("limit=0", "limit"),
        ("limit=-5", "limit"),
        ("limit=1001", "limit"),
        ("limit=many", "limit"),
        ("status=done", "status"),
        ("before=yesterday", "before"),
        ("after=2026-11-22", "after"),
        ("after=%FF%FE", "after"),
    ] {
        let detail = site.get(&format!("/tasks?{query}")).await.detail(422);
        assert!(detail.starts_with(name), "{query}: {detail}");
    }
    let long = format!("/tasks?tag={}", "x".repeat(10_000));
    assert!(site.get(&long).await.detail(422).starts_with("tag"));
}

#[tokio::test]
async fn an_id_that_names_no_task_is_not_found_however_it_is_written() {
    let site = Site::open().await;
    let unknown = "01993f8a-41c2-7b1e-9d0a-5a2f1c9e7d10";
    let long = "x".repeat(5_000);
    for id in [
        unknown,
        "undefined",
        "%FF",
        "%00",
        "a%20b",
        "..%2F..",
        &long,
    ] {
        assert!(
            site.get(&format!("/tasks/{id}"))
                .await
                .detail(404)
                .starts_with("there is no task")
        );
        for action in ["retry", "cancel"] {
            let answer = site.post(&format!("/tasks/{id}/{action}")).await;
            assert!(answer.detail(404).len() < 200);
        }
    }
}

#[tokio::test]
async fn a_retry_makes_a_new_task_and_is_kept_in_the_audit_log() {
    let site = Site::open().await;
    let old = site.ended(TaskStatus::Failed).await;

    let answer = site.post(&format!("/tasks/{old}/retry")).await.json();

    let new = answer["task_id"].as_str().unwrap();
    assert_ne!(new, old.to_string());
    assert_eq!(answer["task"]["task_id"], new);
    assert_eq!(answer["task"]["source"], "retry");
    let audit = site.get("/tasks/audit").await.json();
    assert_eq!(audit[0]["action"], "retry");
    assert_eq!(audit[0]["task_id"], old.to_string());
    assert_eq!(audit[0]["actor"], "anonymous");
    assert_eq!(audit[0]["detail"]["new_task_id"], new);
    assert_eq!(audit[0]["timestamp"], "2026-11-21T22:26:40+00:00");
}

#[tokio::test]
async fn who_hangs_up_in_the_middle_of_an_action_is_in_the_audit_log_all_the_same() {
    let site = Site::open().await;
    let failed = site.ended(TaskStatus::Failed).await;
    let other = site.ended(TaskStatus::Failed).await;
    let waiting = site.waiting().await;
    let retry = format!("/tasks/{failed}/retry");
    let cancel = format!("/tasks/{waiting}/cancel");
    let page = site.page("/tasks/dashboard").await;
    let from_page = format!("/tasks/dashboard/t/{other}/retry");
    let csrf = format!("csrf={}", page.csrf());
    let delete = "/tasks/history?value=1&unit=min".to_owned();
    for (method, path, body, action) in [
        (Method::POST, retry, "", "retry"),
        (Method::POST, cancel, "", "cancel"),
        (Method::POST, from_page, &*csrf, "retry"),
        (Method::DELETE, delete, "", "delete_history"),
    ] {
        let before = site.actors().await.len();
        site.backend.hold();
        let mut asked = Box::pin(site.send(request(method, &path, &[], body)));
        tokio::select! {
            biased; // so that it has begun
            _ = &mut asked => panic!("{path} did not ask the store"),
            () = site.backend.holds() => {}
        }

        drop(asked);
        site.backend.let_go();

        let recorded = async {
            while site.actors().await.len() == before {
                tokio::task::yield_now().await;
            }
        };
        soon(recorded).await;
        assert_eq!(site.actors().await[0].1, action);
    }
}

#[tokio::test]
async fn what_cannot_be_retried_says_why() {
    let site = Site::open().await;
    let ok = site.ended(TaskStatus::Success).await;
    let gone = site
        .stored("gone", |task| {
            task.life.status = TaskStatus::Failed;
            task.life.finished_at = Some(START);
        })
        .await;

    let detail = site.post(&format!("/tasks/{ok}/retry")).await.detail(400);
    assert!(detail.ends_with("is success"), "{detail}");
    let detail = site.post(&format!("/tasks/{gone}/retry")).await.detail(409);
    assert!(detail.contains("no function called gone"), "{detail}");
    assert!(site.actors().await.is_empty());
}

#[tokio::test]
async fn a_waiting_task_is_cancelled_and_a_running_one_asked_to_stop() {
    let site = Site::open().await;
    let waiting = site.waiting().await;
    let running = site.running().await;

    let answer = site.post(&format!("/tasks/{waiting}/cancel")).await.json();
    assert_eq!(answer["task"]["status"], "cancelled");
    let answer = site.post(&format!("/tasks/{running}/cancel")).await;
    assert_eq!(answer.status, 200);
    site.until(running, |task| task.life.status == TaskStatus::Cancelled)
        .await;

    let detail = site
        .post(&format!("/tasks/{waiting}/cancel"))
        .await
        .detail(400);
    assert!(detail.ends_with("is cancelled"), "{detail}");
    assert_eq!(site.actors().await.len(), 2);
}

#[tokio::test]
async fn a_task_that_runs_at_another_instance_is_cancelled_as_if_it_ran_here() {
    let site = Site::open().await;
    let other = site.beside().await;
    let running = site.running().await;

    let answer = other.post(&format!("/tasks/{running}/cancel")).await;

    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.json()["task_id"], running.to_string());
    site.until(running, |task| task.life.status == TaskStatus::Cancelled)
        .await;
    let actors = site.actors().await;
    assert_eq!(actors, [("anonymous".to_owned(), "cancel".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn whom_another_instance_does_not_answer_is_told_that_it_was_asked() {
    let site = Site::open().await;
    let running = site.running_elsewhere().await;

    let answer = site.post(&format!("/tasks/{running}/cancel")).await;

    assert_eq!(answer.status, 202, "{}", answer.body);
    let answer = answer.json();
    assert_eq!(answer["task_id"], running.to_string());
    assert_eq!(answer["task"]["status"], "running");
    assert_eq!(site.actors().await.len(), 1, "it is known who asked");
}

#[tokio::test]
async fn a_bulk_retry_retries_what_it_can_and_counts_the_rest() {
    let site = Site::open().await;
    let failed = [
        site.ended(TaskStatus::Failed).await,
        site.ended(TaskStatus::Failed).await,
    ];
    let ok = site.ended(TaskStatus::Success).await;
    let unknown = "01993f8a-41c2-7b1e-9d0a-5a2f1c9e7d10";
    let ids = json!({ "task_ids": [failed[0], ok, "nonsense", failed[1], unknown, failed[0]] });

    let answer = site.post_json("/tasks/bulk-retry", &ids).await.json();

    assert_eq!(
        (&answer["dispatched"], &answer["skipped"]),
        (&json!(2), &json!(4))
    );
    let originals: Vec<_> = answer["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["original_task_id"])
        .collect();
    assert_eq!(originals, [&json!(failed[0]), &json!(failed[1])]);
    let audit = site.get("/tasks/audit").await.json();
    assert_eq!(
        (&audit[0]["action"], &audit[0]["task_id"]),
        (&json!("bulk_retry"), &json!("bulk"))
    );
    assert_eq!(audit[0]["detail"]["dispatched"], 2);
}

#[tokio::test]
async fn of_what_was_sent_for_ids_the_audit_log_keeps_64_characters_each() {
    let site = Site::open().await;
    let long = "ä".repeat(10_000);
    let ids = json!({ "task_ids": [long, "short"] });

    let answer = site.post_json("/tasks/bulk-retry", &ids).await.json();

    assert_eq!(answer["skipped"], 2);
    let audit = site.get("/tasks/audit").await.json();
    let kept = audit[0]["detail"]["task_ids"].as_array().unwrap();
    assert!(
        kept[0].as_str().unwrap().chars().count() <= 64 + 1,
        "{kept:?}"
    );
    assert_eq!(kept[1], "short");
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_refused_with_the_reason() {
    let site = Site::open().await;
    let send = async |kind: &str, body: Vec<u8>| {
        let mut request = request(
            Method::POST,
            "/tasks/bulk-retry",
            &[("content-type", kind)],
            "",
        );
        *request.body_mut() = body.into();
        site.send(request).await
    };
    let json = "application/json; charset=utf-8";

    assert!(
        send("text/plain", b"{}".to_vec())
            .await
            .detail(415)
            .contains("application/json")
    );
    for (body, why) in [
        (
            "",
            "is no JSON: EOF while parsing a value at line 1 column 0",
        ),
        (
            "{",
            "is no JSON: EOF while parsing an object at line 1 column 1",
        ),
        (
            "{'task_ids': []}",
            "is no JSON: key must be a string at line 1 column 2",
        ),
        (
            "7",
            "is not what is asked for here: invalid type: integer `7`, expected an object with task_ids at line 1 column 1",
        ),
        (
            "{\"task_ids\": [7]}",
            "is not what is asked for here: invalid type: integer `7`, expected a string at line 1 column 15",
        ),
        (
            "{\"ids\": []}",
            "is not what is asked for here: missing field `task_ids` at line 1 column 11",
        ),
    ] {
        let detail = send(json, body.into()).await.detail(422);
        assert_eq!(detail, format!("the body {why}"));
    }
    send(json, b"{\"task_ids\": [\"\xff\xfe\"]}".to_vec())
        .await
        .detail(422);
    let many = json!({ "task_ids": vec!["x"; 1_001] }).to_string();
    assert!(
        send(json, many.into())
            .await
            .detail(422)
            .contains("at most 1000 ids")
    );
    let huge = vec![b' '; 300 * 1024];
    assert!(
        send(json, huge)
            .await
            .detail(413)
            .contains("at most 262144 bytes")
    );
}

#[tokio::test]
async fn retry_failed_takes_those_of_its_time_and_function() {
    let site = Site::open().await;
    let old = site.ended(TaskStatus::Failed).await;
    site.clock.advance(Duration::from_secs(7 * 3_600));
    let new = site.ended(TaskStatus::Failed).await;
    site.clock.advance(Duration::from_secs(1));
    let interrupted = site
        .stored("fails", |task| {
            task.args = "[\"x\"]".into();
            task.life.status = TaskStatus::Interrupted;
            task.life.finished_at = Some(START);
        })
        .await;
    site.ended(TaskStatus::Success).await;
    site.ended(TaskStatus::Cancelled).await;
    let retried = async |query: &str| {
        let answer = site
            .post(&format!("/tasks/retry-failed{query}"))
            .await
            .json();
        assert_eq!(answer["more"], false);
        let results = answer["results"].as_array().unwrap().clone();
        results
            .into_iter()
            .map(|one| one["original_task_id"].as_str().unwrap().parse().unwrap())
            .collect::<Vec<TaskId>>()
    };

    assert_eq!(retried("?func_name=greet").await, []);
    assert_eq!(retried("").await, [interrupted, new]);
    assert!(retried("?since=1d&func_name=fails").await.contains(&old));
    let detail = site
        .post("/tasks/retry-failed?since=soon")
        .await
        .detail(400);
    assert!(detail.contains("\"soon\""), "{detail}");
}

#[tokio::test]
async fn what_changes_many_tasks_is_refused_with_a_parameter_that_is_none() {
    let site = Site::open().await;
    let failed = site.ended(TaskStatus::Failed).await;
    site.clock.advance(Duration::from_secs(3_600));

    let retry = site
        .post("/tasks/retry-failed?since=6h&function=greet")
        .await
        .detail(422);
    let delete = "/tasks/history?value=1&unit=min&func_name=greet";
    let delete = site.ask(Method::DELETE, delete, &[]).await.detail(422);

    assert!(retry.contains("\"function\""), "{retry}");
    assert!(retry.contains("since, func_name, before"), "{retry}");
    assert!(delete.contains("\"func_name\""), "{delete}");
    assert!(delete.contains("value, unit"), "{delete}");
    let tasks = site.get("/tasks").await.json();
    assert_eq!(tasks.as_array().unwrap().len(), 1);
    assert_eq!(tasks[0]["task_id"], failed.to_string());
}

#[tokio::test]
async fn retry_failed_called_again_retries_nothing_twice() {
    let site = Site::open().await;
    let stored = async || {
        let failed = |task: &mut Task| {
            task.args = "[]".into();
            task.life.status = TaskStatus::Failed;
            task.life.finished_at = Some(START);
        };
        site.stored("stays", failed).await
    };
    let (first, second) = (stored().await, stored().await);

    let [once, again] = [(), ()].map(|()| site.post("/tasks/retry-failed"));
    let (once, again) = (once.await.json(), again.await.json());

    assert_eq!(
        (&once["dispatched"], &once["skipped"]),
        (&json!(2), &json!(0))
    );
    assert_eq!(
        (&again["dispatched"], &again["skipped"]),
        (&json!(0), &json!(2))
    );
    for (id, result) in [second, first]
        .iter()
        .zip(once["results"].as_array().unwrap())
    {
        let new_id = result["new_task_id"].as_str().unwrap();
        let detail = site.post(&format!("/tasks/{id}/retry")).await.detail(409);
        let why = format!("task {id} has been retried already, as task {new_id}");
        assert_eq!(detail, why);
        site.post(&format!("/tasks/{new_id}/cancel")).await;
    }
}

#[tokio::test]
async fn retry_failed_stops_at_its_bound_and_says_where_to_go_on() {
    let site = Site::open().await;
    let mut ids = HashSet::new();
    for _ in 0..10_050 {
        // Of a function that nobody knows: each is looked at and skipped, which is quick.
        let id = site.stored("gone", |task| {
            task.life.status = TaskStatus::Failed;
            task.life.finished_at = Some(START);
        });
        ids.insert(id.await.to_string());
    }

    let first = site.post("/tasks/retry-failed?since=all").await.json();
    assert_eq!(
        (&first["skipped"], &first["more"]),
        (&json!(10_000), &json!(true))
    );
    let next = first["next_before"].as_str().unwrap();
    assert!(ids.contains(next));
    let second = site
        .post(&format!("/tasks/retry-failed?since=all&before={next}"))
        .await
        .json();

    assert_eq!(
        (&second["skipped"], &second["more"]),
        (&json!(50), &json!(false))
    );
    assert!(second.get("next_before").is_none());
}

#[tokio::test]
async fn retry_failed_tells_and_records_what_was_done_when_the_store_fails_at_its_last_read() {
    let site = Site::open().await;
    for _ in 0..10_001 {
        site.stored("gone", |task| {
            task.life.status = TaskStatus::Failed;
            task.life.finished_at = Some(START);
        })
        .await;
    }
    // 20 pages of the failed and one of the interrupted; not the look at whether there are more.
    site.backend.lists_left.store(21, Ordering::SeqCst);

    let answer = site.post("/tasks/retry-failed?since=all").await;

    assert_eq!(answer.json()["skipped"], 10_000, "{}", answer.body);
    assert_eq!(answer.json()["more"], true);
    assert!(answer.json()["next_before"].is_string());
    assert!(answer.detail(503).contains("out of reach"));
    let audit = site.get("/tasks/audit").await.json();
    assert_eq!(
        (&audit[0]["action"], &audit[0]["detail"]["skipped"]),
        (&json!("bulk_retry"), &json!(10_000))
    );
}

/// Tasks of which few are what the tests below ask for: each 30th failed, each 70th was interrupted.
async fn rare(site: &Site) -> (Vec<String>, Vec<String>) {
    let (mut failed, mut both) = (Vec::new(), Vec::new());
    for n in 1..=600 {
        let status = match n {
            _ if n % 30 == 0 => TaskStatus::Failed,
            _ if n % 70 == 0 => TaskStatus::Interrupted,
            _ => TaskStatus::Success,
        };
        let id = site.stored("gone", |task| {
            task.life.status = status;
            task.life.finished_at = Some(START);
        });
        let id = id.await.to_string();
        match status {
            TaskStatus::Failed => {
                failed.push(id.clone());
                both.push(id);
            }
            TaskStatus::Interrupted => both.push(id),
            _ => {}
        }
    }
    failed.reverse();
    both.reverse();
    (failed, both)
}

#[tokio::test]
async fn a_list_of_what_is_rare_asks_the_store_three_times_and_gives_the_link_to_go_on() {
    let site = Site::open().await;
    let (failed, _) = rare(&site).await;
    site.backend.looked_at_max.store(2, Ordering::SeqCst);

    let mut found = Vec::new();
    let mut n_empty = 0;
    let mut next = Some("/tasks?status=failed&func_name=gone".to_owned());
    while let Some(path) = next {
        site.backend.lists_left.store(1_000, Ordering::SeqCst);
        let answer = site.get(&path).await;
        let n_lists = 1_000 - site.backend.lists_left.load(Ordering::SeqCst);
        assert!(n_lists <= 3, "{n_lists} lists for one page");
        let ids = answer.ids();
        n_empty += usize::from(ids.is_empty());
        found.extend(ids);
        let link = answer.header("link").strip_suffix(">; rel=\"next\"");
        next = link.map(|link| link[1..].to_owned());
    }

    assert!(n_empty > 0, "a page was to be empty and not the last one");
    assert_eq!(found, failed);
}

#[tokio::test]
async fn retry_failed_stops_where_failures_are_rare_and_goes_on_from_there() {
    let site = Site::open().await;
    let (_, both) = rare(&site).await;
    site.backend.looked_at_max.store(7, Ordering::SeqCst);

    let mut skipped = 0;
    let mut n_calls = 0;
    let mut query = "since=all".to_owned();
    loop {
        site.backend.lists_left.store(1_000, Ordering::SeqCst);
        let answer = site.post(&format!("/tasks/retry-failed?{query}")).await;
        let n_lists = 1_000 - site.backend.lists_left.load(Ordering::SeqCst);
        assert!(n_lists <= 2 * 3, "{n_lists} lists for one call");
        skipped += answer.json()["skipped"].as_u64().unwrap();
        n_calls += 1;
        let Some(next) = answer.json()["next_before"].as_str().map(str::to_owned) else {
            assert_eq!(answer.json()["more"], false);
            break;
        };
        assert_eq!(answer.json()["more"], true);
        query = format!("since=all&before={next}");
    }

    assert!(n_calls > 10, "{n_calls}");
    assert_eq!(skipped, both.len() as u64, "each one once");
}

#[tokio::test]
async fn history_is_deleted_by_age() {
    let site = Site::open().await;
    let old = site.ended(TaskStatus::Success).await;
    let waiting = site.waiting().await;
    site.clock.advance(Duration::from_secs(90 * 60));
    let new = site.ended(TaskStatus::Success).await;

    let answer = site
        .ask(Method::DELETE, "/tasks/history?value=1&unit=hour", &[])
        .await
        .json();

    assert_eq!(answer, json!({ "deleted": 1, "store": 0, "backend": 1 }));
    let left = site.get("/tasks").await.ids();
    assert!(!left.contains(&old.to_string()));
    assert!(left.contains(&new.to_string()) && left.contains(&waiting.to_string()));
    for (query, status) in [
        ("", 422),
        ("?value=0&unit=day", 422),
        ("?value=-1&unit=day", 422),
        ("?value=99999999999999999999&unit=day", 422),
        ("?value=1&unit=week", 400),
    ] {
        site.ask(Method::DELETE, &format!("/tasks/history{query}"), &[])
            .await
            .detail(status);
    }
    assert_eq!(
        site.actors().await,
        [("anonymous".to_owned(), "delete_history".to_owned())]
    );
    let audit = site.get("/tasks/audit").await.json();
    assert_eq!(audit[0]["task_id"], "history");
}

#[tokio::test]
async fn the_audit_log_is_read_page_by_page() {
    let site = Site::open().await;
    for n in 0..5 {
        let detail = json!({ "n": n });
        site.manager
            .record_audit("ada", "retry", None, detail)
            .await
            .unwrap();
    }

    let first = site.get("/tasks/audit?limit=2").await;
    let numbers = |json: &serde_json::Value| -> Vec<i64> {
        json.as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["detail"]["n"].as_i64().unwrap())
            .collect()
    };
    assert_eq!(numbers(&first.json()), [4, 3]);
    let link = first
        .header("link")
        .strip_suffix(">; rel=\"next\"")
        .unwrap()[1..]
        .to_owned();
    assert!(link.starts_with("/tasks/audit?"), "{link}");
    let rest = site.get(&link.replace("limit=2", "limit=3")).await;

    assert_eq!(numbers(&rest.json()), [2, 1, 0]);
    assert_eq!(rest.header("link"), "");
}

#[tokio::test]
async fn metrics_come_from_the_counters() {
    let site = Site::open().await;
    let empty = site.get("/tasks/metrics").await.json();
    assert_eq!(
        (&empty["total"], &empty["success_rate"]),
        (&json!(0), &json!(0.0))
    );
    site.ended(TaskStatus::Success).await;
    site.ended(TaskStatus::Success).await;
    site.ended(TaskStatus::Failed).await;
    site.waiting().await;

    let metrics = site.get("/tasks/metrics").await.json();

    assert_eq!(
        metrics,
        json!({
            "total": 4, "success": 2, "failed": 1, "running": 0, "pending": 1, "interrupted": 0,
            "cancelled": 0, "success_rate": 0.5, "avg_duration_seconds": 0.0, "stale_results": 0,
        })
    );
}

#[tokio::test]
async fn a_result_that_came_too_late_is_counted() {
    let site = Site::open().await;
    let id = site.running().await;
    site.taken(id).await;

    site.manager.cancel(id).await.unwrap();

    let counted = async {
        while site.manager.stale_results() == 0 {
            tokio::task::yield_now().await;
        }
    };
    soon(counted).await;
    assert_eq!(site.get("/tasks/metrics").await.json()["stale_results"], 1);
}

#[tokio::test]
async fn crashes_are_told() {
    let site = Site::open().await;
    let id = site.stored("greet", |task| {
        task.life.crashes = 2;
        task.life.run_at = Timestamp::MAX;
    });
    let id = id.await;

    assert_eq!(site.get(&format!("/tasks/{id}")).await.json()["crashes"], 2);
    assert_eq!(site.get("/tasks").await.json()[0]["crashes"], 2);
}

#[tokio::test]
async fn a_browser_at_the_mount_is_sent_to_the_dashboard_and_a_program_is_not() {
    let site = Site::open().await;

    let browser = site.page("/tasks").await;
    assert_eq!(
        (browser.status.as_u16(), browser.header("location")),
        (303, "/tasks/dashboard")
    );
    let program = site.ask(Method::GET, "/tasks", &[("accept", "*/*")]).await;
    assert_eq!((program.status.as_u16(), &*program.body), (200, "[]"));
    let head = site.ask(Method::HEAD, "/tasks", &[]).await;
    assert_eq!((head.status.as_u16(), &*head.body), (200, ""));
}

#[tokio::test]
async fn a_wrong_method_is_answered_in_json_with_the_right_ones() {
    let site = Site::open().await;

    let answer = site.ask(Method::PUT, "/tasks/metrics", &[]).await;

    assert_eq!(answer.header("allow"), "GET,HEAD");
    assert_eq!(answer.detail(405), "PUT is not possible here");
}

#[tokio::test]
async fn a_store_out_of_reach_is_a_503_that_says_when_to_come_back() {
    let site = Site::open().await;
    let id = site.ended(TaskStatus::Failed).await;
    site.backend.begin();

    for path in [
        "/tasks",
        "/tasks/metrics",
        "/tasks/audit",
        &format!("/tasks/{id}"),
    ] {
        let answer = site.get(path).await;
        assert_eq!(answer.header("retry-after"), "2");
        assert!(answer.detail(503).contains("out of reach"));
    }
    let answer = site
        .post_json("/tasks/bulk-retry", &json!({ "task_ids": [id] }))
        .await;
    assert_eq!(answer.json()["dispatched"], 0);
    assert!(answer.detail(503).contains("out of reach"));
    let page = site.page("/tasks/dashboard").await;
    assert_eq!(
        (page.status.as_u16(), page.header("retry-after")),
        (503, "2")
    );
    assert!(page.body.contains("The task store does not answer"));
}

#[tokio::test]
async fn a_long_result_is_cut_in_a_list_and_whole_by_itself() {
    let site = Site::open().await;
    let name = "x".repeat(10_000);
    let id = site.manager.add_task(greet, name.clone()).await.unwrap();
    let result: String = soon(site.manager.wait(id)).await.unwrap();

    let listed = site.get("/tasks").await.json()[0].clone();
    assert_eq!(
        (&listed["result"], &listed["result_truncated"]),
        (&json!(null), &json!(true))
    );
    let task = site.get(&format!("/tasks/{id}")).await.json();
    assert_eq!(task["result"], result);
}

#[tokio::test]
async fn a_long_error_is_cut_in_a_list_and_whole_by_itself() {
    let site = Site::open().await;
    let source = "ä".repeat(3_000);
    let id = site
        .stored("greet", |task| {
            task.life.status = TaskStatus::Failed;
            let mut error = FailureReport::new(FailureKind::Error, "x".repeat(5_000));
            error.sources = vec![source.clone(); 32];
            task.life.error = Some(error.into());
        })
        .await;

    let listed = site.get("/tasks").await.json()[0].clone();
    assert_eq!(listed["error"], "x".repeat(4_096));
    assert_eq!(listed["stacktrace"], "x".repeat(4_096));
    assert_eq!(listed["error_truncated"], true);
    let task = site.get(&format!("/tasks/{id}")).await.json();
    assert_eq!(task["error"], "x".repeat(5_000));
    let whole = task["stacktrace"].as_str().unwrap();
    assert!(whole.len() > 32 * source.len(), "{} bytes", whole.len());
    assert!(task.get("error_truncated").is_none());

    let other = site.ended(TaskStatus::Failed).await.to_string();
    let listed = site.get("/tasks").await.json();
    let mut listed = listed.as_array().unwrap().iter();
    let short = listed.find(|task| task["task_id"] == other).unwrap();
    assert!(short.get("error_truncated").is_none(), "{short}");
}

#[tokio::test]
async fn a_tag_is_found_whatever_its_key_is_made_of() {
    let site = Site::open().await;
    for (key, tag) in [
        ("a=b", r"a\=b=c"),
        (r"dir\", r"dir\\=c"),
        (r"a\b", r"a\b=c"),
        ("=", r"\==c"),
    ] {
        let id = site
            .stored("greet", |task| {
                task.tags.insert(key.to_owned(), "c".to_owned());
            })
            .await
            .to_string();
        for tag in [tag, tag.strip_suffix("=c").unwrap()] {
            let query = form_urlencoded::Serializer::new(String::new())
                .append_pair("tag", tag)
                .finish();

            let ids = site.get(&format!("/tasks?{query}")).await.ids();

            assert_eq!(ids, std::slice::from_ref(&id), "{tag}");
        }
    }
}

#[tokio::test]
async fn a_held_task_says_why_it_waits() {
    let site = Site::open().await;
    let id = site
        .stored("greet", |task| {
            let report = FailureReport::new(FailureKind::Held, "argument `name` of greet: missing");
            task.life.error = Some(report.into());
            task.life.run_at = Timestamp::MAX;
        })
        .await;

    let task = site.get(&format!("/tasks/{id}")).await.json();

    assert_eq!(
        (&task["status"], &task["error"]),
        (
            &json!("pending"),
            &json!("argument `name` of greet: missing")
        )
    );
    assert_eq!(task["held_reason"], task["error"]);
}

// ---- holders -------------------------------------------------------------------------------------------------

#[tokio::test]
async fn holders_are_listed_and_released_by_force_with_a_record() {
    let site = Site::open().await;
    let guard = site.manager.lock("report:42").acquire().await.unwrap();
    let _waits = site.manager.leader("mailer").watch().unwrap();
    let listed = soon(async {
        loop {
            let list = site.get("/tasks/holders").await.json();
            if list.as_array().unwrap().len() == 2 {
                return list;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;

    assert_eq!(
        (&listed[0]["kind"], &listed[0]["name"]),
        (&json!("leader"), &json!("mailer"))
    );
    let lock = &listed[1];
    assert_eq!(
        (&lock["kind"], &lock["name"], &lock["epoch"]),
        (&json!("lock"), &json!("report:42"), &json!(guard.epoch()))
    );
    assert_eq!(
        (&lock["is_alive"], &lock["is_here"], &lock["waiting"]),
        (&json!(true), &json!(true), &json!(0))
    );
    assert_eq!(lock["instance"], json!(site.manager.instance().id));

    let which = json!({ "kind": "lock", "name": "report:42" });
    let released = site.post_json("/tasks/holders/release", &which).await;
    assert_eq!(
        (released.status.as_u16(), released.json()["epoch"].clone()),
        (200, json!(guard.epoch()))
    );
    soon(guard.lost()).await;
    assert!(
        site.actors()
            .await
            .iter()
            .any(|(_, action)| action == "release")
    );
    let again = site.post_json("/tasks/holders/release", &which).await;
    assert_eq!(again.status, 404);
    for wrong in [
        json!({}),
        json!({ "kind": "door", "name": "x" }),
        json!({ "kind": "lock", "name": "" }),
    ] {
        let refused = site.post_json("/tasks/holders/release", &wrong).await;
        assert_eq!(refused.status, 422, "{wrong}");
    }
}

// ---- schedules -----------------------------------------------------------------------------------------------

#[tokio::test]
async fn schedules_are_listed_paused_resumed_run_and_deleted() {
    let site = Site::open().await;
    let schedule = Schedule::new(greet, "ada".to_owned())
        .name("morning")
        .cron("0 9 * * Mon-Fri")
        .zone("Europe/Berlin");
    site.manager.schedule(schedule).await.unwrap();

    let list = site.get("/tasks/schedules").await.json();
    let it = &list[0];
    assert_eq!(
        (&it["name"], &it["func_name"], &it["args"]),
        (&json!("morning"), &json!("greet"), &json!(["ada"]))
    );
    assert_eq!(
        (&it["cron"], &it["zone"], &it["every_s"]),
        (
            &json!("0 9 * * Mon-Fri"),
            &json!("Europe/Berlin"),
            &json!(null)
        )
    );
    assert_eq!(
        (&it["missed"], &it["overlap"], &it["origin"], &it["state"]),
        (
            &json!("fire_once"),
            &json!("skip"),
            &json!("manual"),
            &json!("active")
        )
    );
    assert_eq!(it["next"].as_array().unwrap().len(), 5);
    let which = json!({ "name": "morning" });
    let state = async || site.get("/tasks/schedules").await.json()[0]["state"].clone();

    assert_eq!(
        site.post_json("/tasks/schedules/pause", &which)
            .await
            .status,
        200
    );
    assert_eq!(state().await, "paused");
    let ran = site.post_json("/tasks/schedules/run", &which).await.json();
    let id: TaskId = ran["task_id"].as_str().unwrap().parse().unwrap();
    let task = site.get(&format!("/tasks/{id}")).await.json();
    assert_eq!(
        (&task["source"], &task["tags"]["schedule"]),
        (&json!("scheduled"), &json!("morning"))
    );
    let list = site.get("/tasks/schedules").await.json();
    let totals = json!({ "fired": 1, "overlapped": 0, "missed": 0 });
    let last = &list[0]["last"][0];
    assert_eq!(
        (&list[0]["totals"], &last["what"], &last["late_s"]),
        (
            &totals,
            &json!({ "decided": "fired", "task": id }),
            &json!(0.0)
        )
    );
    assert_eq!(
        site.post_json("/tasks/schedules/resume", &which)
            .await
            .status,
        200
    );
    assert_eq!(state().await, "active");
    let gone = site
        .ask(Method::DELETE, "/tasks/schedules?name=morning", &[])
        .await;
    assert_eq!(gone.status, 200);
    assert_eq!(site.get("/tasks/schedules").await.json(), json!([]));
    for verb in ["pause", "resume", "run"] {
        let path = format!("/tasks/schedules/{verb}");
        assert_eq!(site.post_json(&path, &which).await.status, 404);
        assert_eq!(site.post_json(&path, &json!({})).await.status, 422);
    }
    let actions: Vec<String> = site.actors().await.into_iter().map(|it| it.1).collect();
    assert_eq!(
        actions,
        [
            "delete_schedule",
            "resume_schedule",
            "run_schedule",
            "pause_schedule"
        ]
    );
}

#[tokio::test]
async fn a_schedule_is_made_and_replaced_in_the_words_of_the_list() {
    let site = Site::open().await;
    let wanted = json!({
        "name": "nightly", "func_name": "greet", "args": ["ada"],
        "cron": "30 3 * * Sun#1", "zone": "Europe/Berlin",
        "missed": "fire_all", "missed_max": 10, "missed_within_s": 3_600.5, "overlap": "queue_one",
        "tolerance_s": 5, "jitter_s": 0.5, "run_on_startup": false,
        "tags": { "plan": "pro" }, "priority": 3, "retries": 2, "timeout_s": 30,
    });

    let made = site.post_json("/tasks/schedules", &wanted).await.json();
    assert_eq!(made, json!({ "name": "nightly" }));
    let list = site.get("/tasks/schedules").await.json();
    for field in [
        "name",
        "func_name",
        "args",
        "cron",
        "zone",
        "missed",
        "missed_max",
        "missed_within_s",
        "overlap",
    ] {
        assert_eq!(list[0][field], wanted[field], "{field}");
    }
    let ran = site
        .post_json("/tasks/schedules/run", &json!({ "name": "nightly" }))
        .await
        .json();
    let task = site
        .get(&format!("/tasks/{}", ran["task_id"].as_str().unwrap()))
        .await
        .json();
    assert_eq!(
        (&task["priority"], &task["tags"]["plan"]),
        (&json!(3), &json!("pro"))
    );

    let every =
        json!({ "name": "nightly", "func_name": "greet", "args": ["eve"], "every_s": 86_400 });
    assert_eq!(site.post_json("/tasks/schedules", &every).await.status, 200);
    let list = site.get("/tasks/schedules").await.json();
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(
        (&list[0]["every_s"], &list[0]["cron"]),
        (&json!(86_400.0), &json!(null))
    );

    let unnamed = json!({ "func_name": "flaky", "every_s": 60 });
    let made = site.post_json("/tasks/schedules", &unnamed).await.json();
    assert_eq!(made, json!({ "name": "flaky" }));
    let actions: Vec<String> = site.actors().await.into_iter().map(|it| it.1).collect();
    assert_eq!(
        actions,
        ["schedule", "schedule", "run_schedule", "schedule"]
    );
}

#[tokio::test]
async fn a_schedule_that_cannot_be_kept_is_refused_with_the_reason() {
    let site = Site::open().await;
    for (wrong, complaint) in [
        (
            json!({ "func_name": "greet", "args": ["ada"] }),
            "when? Give either cron or every_s",
        ),
        (json!({ "func_name": "flaky", "cron": "99 * * * *" }), "99"),
        (
            json!({ "func_name": "flaky", "cron": "@daily", "zone": "Mars" }),
            "Mars",
        ),
        (
            json!({ "func_name": "flaky", "cron": "@daily", "every_s": 1 }),
            "when? Give either cron or every_s",
        ),
        (
            json!({ "func_name": "flaky", "every_s": -1 }),
            "every_s is a number of seconds",
        ),
        (json!({ "func_name": "flaky", "every_s": 0.001 }), "every"),
        (
            json!({ "func_name": "greet", "every_s": 60 }),
            "greet takes 1 argument, not",
        ),
        (
            json!({ "func_name": "greet", "args": [1], "every_s": 60 }),
            "argument 1 of greet",
        ),
        (json!({ "func_name": "unknown", "every_s": 60 }), "unknown"),
        (
            json!({ "func_name": "flaky", "every_s": 60, "missed_max": 3 }),
            "fire_all",
        ),
        (
            json!({ "func_name": "flaky", "every_s": 60, "missed": "fire_all" }),
            "fire_all",
        ),
        (
            json!({ "func_name": "flaky", "every_s": 60, "overlap": "never" }),
            "never",
        ),
        (json!({ "func_name": "flaky", "every": "5m" }), "every"),
        (
            json!({ "func_name": "flaky", "every_s": 60, "name": "" }),
            "is no name",
        ),
        (json!({}), "func_name"),
    ] {
        let refused = site.post_json("/tasks/schedules", &wrong).await;
        let detail = refused.detail(422);
        assert!(detail.contains(complaint), "{wrong}: {detail}");
        assert!(
            !detail.contains(".rs:"),
            "a place in our own code: {detail}"
        );
    }
    assert_eq!(site.get("/tasks/schedules").await.json(), json!([]));
}

#[tokio::test]
async fn a_task_is_scheduled_once_moved_listed_and_cancelled() {
    let site = Site::open().await;
    let wanted = |args: &str, delay_s: u64| json!({ "func_name": "greet", "args": [args], "delay_s": delay_s, "run_key": "order 42" });
    let add = async |wanted| {
        let added = site.post_json("/tasks/scheduled", &wanted).await.json();
        added["task_id"].clone()
    };

    let first = add(wanted("ada", 600)).await;
    let other = add(json!({
        "func_name": "flaky", "run_at": "2099-01-01T00:00:00+01:00", "priority": 1, "retries": 2,
        "timeout_s": 3, "tags": { "plan": "pro" }, "tracking_id": "r-1",
    }))
    .await;
    let moved = add(wanted("eve", 60)).await;

    assert_ne!(first, moved);
    let list = site.get("/tasks/scheduled").await;
    assert_eq!(
        list.ids(),
        [moved.as_str().unwrap(), other.as_str().unwrap()]
    );
    let list = list.json();
    assert_eq!(
        (&list[0]["source"], &list[0]["status"]),
        (&json!("scheduled"), &json!("pending"))
    );
    assert_eq!(
        (
            &list[1]["run_at"],
            &list[1]["tracking_id"],
            &list[1]["tags"]
        ),
        (
            &json!("2098-12-31T23:00:00+00:00"),
            &json!("r-1"),
            &json!({ "plan": "pro" })
        )
    );
    let soon = site
        .get("/tasks/scheduled?before=2050-01-01T00:00:00Z")
        .await;
    assert_eq!(soon.ids(), [moved.as_str().unwrap()]);
    let page = site.get("/tasks/scheduled?limit=1").await;
    assert_eq!(page.ids(), [moved.as_str().unwrap()]);
    let next = page.header("link");
    let next = next
        .strip_prefix('<')
        .and_then(|it| it.split_once('>'))
        .unwrap()
        .0;
    assert_eq!(site.get(next).await.ids(), [other.as_str().unwrap()]);

    let cancel = async || {
        let path = "/tasks/scheduled?run_key=order%2042";
        site.ask(Method::DELETE, path, &[]).await
    };
    let cancelled = cancel().await.json();
    assert_eq!(
        cancelled,
        json!({ "run_key": "order 42", "task_id": moved })
    );
    assert_eq!(cancel().await.status, 404);
    assert_eq!(
        site.get("/tasks/scheduled").await.ids(),
        [other.as_str().unwrap()]
    );
    let actions: Vec<String> = site.actors().await.into_iter().map(|it| it.1).collect();
    assert_eq!(
        actions,
        ["cancel", "schedule_once", "schedule_once", "schedule_once"]
    );
}

#[tokio::test]
async fn what_cannot_be_scheduled_once_is_refused_with_the_reason() {
    let site = Site::open().await;
    for (wrong, complaint) in [
        (json!({ "func_name": "flaky" }), "when?"),
        (
            json!({ "func_name": "flaky", "delay_s": 1, "run_at": "2099-01-01T00:00:00Z" }),
            "when?",
        ),
        (
            json!({ "func_name": "flaky", "run_at": "tomorrow" }),
            "RFC 3339",
        ),
        (json!({ "func_name": "flaky", "delay_s": -1 }), "delay_s"),
        (json!({ "func_name": "flaky", "delay_s": 1e300 }), "delay_s"),
        (
            json!({ "func_name": "flaky", "delay_s": 1, "run_key": "" }),
            "run key",
        ),
        (
            json!({ "func_name": "flaky", "delay_s": 1, "idempotency_key": "x" }),
            "idempotency_key",
        ),
        (
            json!({ "func_name": "greet", "delay_s": 1 }),
            "greet takes 1 argument, not",
        ),
        (json!({ "func_name": "unknown", "delay_s": 1 }), "unknown"),
        (
            json!({ "func_name": "flaky", "delay_s": 1, "tracking_id": "a b" }),
            "tracking",
        ),
        (
            json!({ "func_name": "flaky", "delay_s": 1, "tags": { "": "x" } }),
            "tag",
        ),
    ] {
        let refused = site.post_json("/tasks/scheduled", &wrong).await;
        let detail = refused.detail(422);
        assert!(detail.contains(complaint), "{wrong}: {detail}");
    }
    for path in ["?before=never", "?limit=0"] {
        assert_eq!(
            site.get(&format!("/tasks/scheduled{path}")).await.status,
            422,
            "{path}"
        );
    }
    for path in ["/tasks/scheduled", "/tasks/schedules"] {
        assert_eq!(
            site.ask(Method::DELETE, path, &[]).await.status,
            422,
            "{path}"
        );
    }
    assert_eq!(site.get("/tasks/scheduled?from=nowhere").await.status, 422);
}
