//! Calls that were given up and arrive after others that were made since: they change nothing.

use crate::support::patient;
use axum_taskflow_core::{Backend, IdSource, Instance, Timestamp};
use serde_json::{Value, json};
use servers::RedisServer;

const NOW: Timestamp = Timestamp::from_unix_ms(1_000_000);
const WRITE: &str = concat!(
    include_str!("../../src/lua/common.lua"),
    include_str!("../../src/lua/sums.lua"),
    include_str!("../../src/lua/tasks.lua"),
    include_str!("../../src/lua/news.lua"),
    include_str!("../../src/lua/words.lua"),
    include_str!("../../src/lua/try.lua"),
    include_str!("../../src/lua/blocks.lua"),
    include_str!("../../src/lua/moves.lua"),
    include_str!("../../src/lua/changes.lua"),
    include_str!("../../src/lua/notes.lua"),
    include_str!("../../src/lua/puts.lua"),
    include_str!("../../src/lua/undo.lua"),
    include_str!("../../src/lua/finish.lua"),
);
const CLAIM: &str = concat!(
    include_str!("../../src/lua/common.lua"),
    include_str!("../../src/lua/living.lua"),
    include_str!("../../src/lua/sums.lua"),
    include_str!("../../src/lua/tasks.lua"),
    include_str!("../../src/lua/reading.lua"),
    include_str!("../../src/lua/claim.lua"),
);
const ADD: &str = concat!(
    include_str!("../../src/lua/common.lua"),
    include_str!("../../src/lua/news.lua"),
    include_str!("../../src/lua/add.lua"),
);
const MOVE: &str = concat!(
    include_str!("../../src/lua/common.lua"),
    include_str!("../../src/lua/sums.lua"),
    include_str!("../../src/lua/move.lua"),
);

/// What the script that writes answers. It is told as JSON here, since a command line takes text only.
fn written(server: &RedisServer, generation: &str, words: &Value) -> String {
    let script = WRITE.replace("cmsgpack.unpack", "cjson.decode");
    assert_ne!(script, WRITE);
    answer(server, &script, generation, &[&words.to_string()])
}

/// What a script answers to a call of this generation.
fn answer(server: &RedisServer, script: &str, generation: &str, args: &[&str]) -> String {
    let mut words = vec!["EVAL", script, "1", "{taskflow}", "session", generation];
    words.extend(args);
    match server.try_command(&words) {
        Ok(answer) => answer,
        Err(error) => error.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_or_a_claim_that_was_given_up_changes_nothing_after_later_ones() {
    let server = RedisServer::start();
    let store = patient(server.url()).open().await.unwrap();
    let me = IdSource::default().instance(NOW);
    store.join(Instance::new(me, NOW)).await.unwrap();
    let (me, id) = (me.to_string(), "00000000-0000-7000-8000-000000000001");
    let life = "pending 0 - 0 0 1000000 - - -\n\n";
    let body = "7fffffff\n{}\n[]";
    let place = format!("7fffffff000000001000000{id}");
    let (body_key, life_key) = (
        format!("{{taskflow}}:t:{id}"),
        format!("{{taskflow}}:l:{id}"),
    );
    // Of one block: what its tasks have in common, values, members, places, no tags and no keys; and nothing else.
    let task = json!([
        "1000000", 1, "f", "pending", "o:-", "w:f", 4, body_key, body, life_key, life, 2, "0", id,
        2, "0", place, 0, 0, 0, 0, 0, 0, 0
    ]);
    let add = [
        "1000000", "0", "f", "pending", "-", "w:f", &place, id, body, life, "", "",
    ];
    let end = [
        id,
        "running",
        "1",
        &me,
        "f",
        "success",
        "success 1 -",
        "960000",
        "0",
        "",
        "",
        "",
    ];
    let claim = [&*me, "1000000", "9", "", "0", "1", "0", "0", "f"];
    let nothing = json!(["1000000", 0, 0, 0, 0, 0]);

    let nothing_refused = written(&server, "1", &nothing);
    for late in [
        written(&server, "0", &task),
        answer(&server, ADD, "0", &add),
    ] {
        assert!(late.contains("LATE"), "{late}");
    }
    assert_eq!(server.command(&["EXISTS", &life_key]), "0");
    assert_eq!(written(&server, "1", &task), nothing_refused);
    assert_eq!(server.command(&["EXISTS", &life_key]), "1");
    assert_eq!(written(&server, "2", &nothing), nothing_refused);
    let late = answer(&server, CLAIM, "1", &claim);
    assert!(late.contains("LATE"), "{late}");
    let claimed = answer(&server, CLAIM, "2", &claim);
    assert!(claimed.contains(id), "{claimed}");
    let late = answer(&server, MOVE, "1", &end);
    assert!(late.contains("LATE"), "{late}");
    assert_eq!(answer(&server, MOVE, "2", &end), "0");

    // Nor do later ones once everything is gone, until somebody joins.
    server.command(&["FLUSHALL"]);
    for refused in [
        written(&server, "2", &task),
        answer(&server, ADD, "2", &add),
        answer(&server, MOVE, "2", &end),
        answer(&server, CLAIM, "2", &claim),
    ] {
        assert!(refused.contains("EMPTY"), "{refused}");
    }
    assert_eq!(server.command(&["EXISTS", &life_key]), "0");
}

#[test]
fn other_servers_do_the_same() {
    servers::test_with_others("late_calls::", &["other_servers_do_the_same"]);
}
