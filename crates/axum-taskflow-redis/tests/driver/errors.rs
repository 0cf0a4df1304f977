//! What a server answers instead of doing it: who called is told in plain words, and calls no more often than he would.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::support::{NOW, patient};
use axum_taskflow_core::{Backend, Batch, IdSource, Instance, Task};
use axum_taskflow_redis::{Redis, RedisOptions};
use servers::RedisServer;

const DEADLINE: Duration = Duration::from_secs(2);

/// What is answered to a script.
#[derive(Clone)]
enum Says {
    /// This line.
    Line(String),
    /// Nothing; the first time, after a part of the deadline, that another script has to look closer.
    LooksCloserThenNothing,
}

/// A server that takes every greeting and answers to scripts as it was told.
struct Fake {
    address: String,
    says: Arc<Mutex<Says>>,
    /// How many scripts were called, and over how many connections.
    called: Arc<Mutex<(usize, usize)>>,
}

impl Fake {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fake = Self {
            address: listener.local_addr().unwrap().to_string(),
            says: Arc::new(Mutex::new(Says::Line(":0".to_owned()))),
            called: Arc::default(),
        };
        let (says, called) = (fake.says.clone(), fake.called.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (says, called) = (says.clone(), called.clone());
                std::thread::spawn(move || serve(stream.unwrap(), &says, &called));
            }
        });
        fake
    }

    async fn store(&self) -> Redis {
        let options = RedisOptions::new(format!("redis://{}/", self.address));
        options.deadline(DEADLINE).open().await.unwrap()
    }

    fn says(&self, line: &str) {
        *self.says.lock().unwrap() = Says::Line(line.to_owned());
    }

    fn called(&self) -> (usize, usize) {
        *self.called.lock().unwrap()
    }
}

/// Nothing when the connection has ended.
fn command(from: &mut impl BufRead) -> Option<Vec<String>> {
    let line = |from: &mut dyn BufRead| {
        let mut line = String::new();
        let n = from.read_line(&mut line).ok()?;
        (n > 0).then(|| line[1..].trim().parse::<usize>().unwrap())
    };
    let n = line(from)?;
    let mut words = Vec::new();
    for _ in 0..n {
        let mut word = vec![0; line(from)? + 2];
        from.read_exact(&mut word).ok()?;
        words.push(String::from_utf8_lossy(&word[..word.len() - 2]).into_owned());
    }
    Some(words)
}

fn serve(mut stream: TcpStream, says: &Mutex<Says>, called: &Mutex<(usize, usize)>) {
    let mut from = BufReader::new(stream.try_clone().unwrap());
    let mut is_counted = false;
    while let Some(words) = command(&mut from) {
        let answer = match &*words[0].to_uppercase() {
            "EVALSHA" => {
                let nth = {
                    let mut called = called.lock().unwrap();
                    called.0 += 1;
                    called.1 += usize::from(!is_counted);
                    is_counted = true;
                    called.0
                };
                let says = says.lock().unwrap().clone();
                match says {
                    Says::Line(line) => line,
                    Says::LooksCloserThenNothing if nth > 1 => continue,
                    Says::LooksCloserThenNothing => {
                        std::thread::sleep(DEADLINE * 3 / 5);
                        "$-1".to_owned()
                    }
                }
            }
            "EVAL" => ":1".to_owned(),
            "INFO" => {
                let info = "redis_version:7.0.15\r\nmaxmemory_policy:noeviction\r\n";
                format!("${}\r\n{info}", info.len())
            }
            "CONFIG" | "TIME" => "-ERR not here".to_owned(),
            _ => "+OK".to_owned(),
        };
        if stream
            .write_all(format!("{answer}\r\n").as_bytes())
            .is_err()
        {
            return;
        }
    }
}

async fn add(store: &Redis) -> Result<(), String> {
    let mut batch = Batch::at(NOW);
    let task = Task::new(IdSource::default().task(NOW), "f", "[]");
    batch.tasks.push(Arc::new(task));
    let written = store.write(Arc::new(batch)).await;
    written.map(drop).map_err(|error| {
        assert!(!error.is_refused(), "it is tried again: {error}");
        error.to_string()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_says_is_told_in_plain_words_and_it_is_not_called_again_at_once() {
    let fake = Fake::start();
    let store = fake.store().await;
    add(&store).await.unwrap();
    let of_script = |said: &str| {
        let at = "@user_script:12: @user_script: 12:";
        format!("-ERR Error running script (call to f_0123456789abcdef): {at} -{said}")
    };
    for (said, told) in [
        (
            "OOM command not allowed when used memory > 'maxmemory'.",
            "Redis is full",
        ),
        (
            "READONLY You can't write against a read only replica.",
            "this Redis is a replica",
        ),
        (
            "MISCONF Redis is configured to save RDB snapshots.",
            "cannot save to its disk",
        ),
        (
            "LOADING Redis is loading the dataset in memory",
            "is loading its data",
        ),
        (
            "MASTERDOWN Link with MASTER is down.",
            "a replica that has lost its master",
        ),
        (
            "BUSY Redis is busy running a script.",
            "is busy with a script",
        ),
        (
            "CROSSSLOT Keys in request don't hash to the same slot",
            "to the same slot",
        ),
        (
            "NOPERM this user has no permissions to run the 'evalsha' command",
            "lacks a permission",
        ),
        (
            "NOAUTH Authentication required.",
            "the user or the password",
        ),
        (
            "WRONGPASS invalid username-password pair",
            "the user or the password",
        ),
        (
            "NOREPLICAS Not enough good replicas to write.",
            "fewer replicas than it needs",
        ),
        (
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "another type",
        ),
    ] {
        for line in [format!("-{said}"), of_script(said)] {
            if line.contains("call to") && said.starts_with("BUSY") {
                continue; // no script meets another one
            }
            let before = fake.called();
            fake.says(&line);
            let why = add(&store).await.unwrap_err();
            fake.says(":0");
            add(&store).await.unwrap();
            let after = fake.called();

            assert!(why.contains(told), "{line}: {why}");
            assert_eq!(
                after.0 - before.0,
                2,
                "{line}: one call, and the one after it"
            );
            let is_demoted = ["READONLY", "MASTERDOWN"]
                .iter()
                .any(|it| line.contains(it));
            assert_eq!(
                after.1 - before.1,
                usize::from(is_demoted),
                "{line}: another connection"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_takes_two_calls_has_one_deadline() {
    let fake = Fake::start();
    let store = fake.store().await;
    *fake.says.lock().unwrap() = Says::LooksCloserThenNothing;

    let begun = Instant::now();
    let why = add(&store).await.unwrap_err();

    assert!(why.contains("did not answer within"), "{why}");
    assert_eq!(fake.called().0, 2);
    let took = begun.elapsed();
    assert!(took < DEADLINE * 3 / 2, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_must_not_call_one_of_the_commands_is_told_so_and_leaves_nothing_half_done() {
    let server = RedisServer::start();
    server.command(&[
        "ACL", "SETUSER", "ada", "on", ">secret", "~*", "&*", "+@all", "-zadd",
    ]);
    let options = patient(server.url_as("ada", "secret"));
    let store = options.open().await.unwrap();
    let me = IdSource::default().instance(NOW);
    store.join(Instance::new(me, NOW)).await.unwrap();
    let tasks = || server.command(&["KEYS", "{taskflow}:[tlc]*"]);

    let why = add(&store).await.unwrap_err();

    assert!(why.contains("lacks a permission"), "{why}");
    assert_eq!(tasks(), "");
    server.command(&["ACL", "SETUSER", "ada", "+zadd"]);
    add(&store).await.unwrap();
    assert_eq!(store.counts().await.unwrap().len(), 1);
}

#[test]
fn other_servers_do_the_same() {
    servers::test_with_others("errors::", &["other_servers_do_the_same"]);
}
