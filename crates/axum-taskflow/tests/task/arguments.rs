//! What a task can take as its arguments.

use std::{collections::BTreeMap, path::PathBuf};

use axum_taskflow::task;

use crate::start;

#[derive(serde::Serialize, serde::Deserialize)]
struct Signup {
    address: String,
}

#[task]
async fn no_arguments() {}

#[task]
async fn one(address: String) -> usize {
    address.len()
}

#[task]
async fn a_tuple(size: (u32, u32)) -> u32 {
    size.0 * size.1
}

#[task]
fn patterns((width, _height): (u32, u32), Signup { address }: Signup, mut n: u8) -> String {
    n += 1;
    format!("{width} {address} {n}")
}

#[task]
#[allow(clippy::too_many_arguments)]
async fn eight(
    a: String,
    b: u64,
    c: f32,
    d: Option<bool>,
    e: Vec<u8>,
    f: BTreeMap<String, i32>,
    g: PathBuf,
    h: Signup,
) -> String {
    format!("{a} {b} {c} {d:?} {e:?} {f:?} {g:?} {}", h.address)
}

#[task]
async fn some_are_not_there(
    #[cfg(any())] _ctx: DoesNotExist,
    a: String,
    #[cfg(any())] _b: DoesNotExist,
    #[cfg(test)] c: u8,
) -> String {
    format!("{a} {c}")
}

fn plain(n: u8) -> u8 {
    n
}

#[tokio::test]
async fn arguments_reach_the_function_in_each_form_that_compiles() {
    let tasks = start().await;
    let address = || "a@example.org".to_owned();
    let signup = || Signup { address: address() };
    let table = BTreeMap::from([("k".to_owned(), -1)]);
    let eight_args = (
        address(),
        1,
        0.5,
        None,
        vec![1],
        table,
        "a.png".into(),
        signup(),
    );

    let none = tasks.add_task(no_arguments, ()).await.unwrap();
    let bare = tasks.add_task(one, address()).await.unwrap();
    let in_brackets = tasks.add_task(one, (address(),)).await.unwrap();
    let tuple = tasks.add_task(a_tuple, (2, 3)).await.unwrap();
    let patterns = tasks.add_task(patterns, ((1, 2), signup(), 3));
    let patterns = patterns.await.unwrap();
    let eight = tasks.add_task(eight, eight_args).await.unwrap();
    let two = tasks.add_task(some_are_not_there, ("a".to_owned(), 3));
    let two = two.await.unwrap();
    let many = tasks.add_tasks(one, ["a", "bc"].map(str::to_owned));
    let many = many.await.unwrap();

    tasks.wait::<()>(none).await.unwrap();
    assert_eq!(tasks.wait::<usize>(bare).await.unwrap(), 13);
    assert_eq!(tasks.wait::<usize>(in_brackets).await.unwrap(), 13);
    assert_eq!(tasks.wait::<u32>(tuple).await.unwrap(), 6);
    for (id, ran) in [
        (patterns, "1 a@example.org 4"),
        (
            eight,
            r#"a@example.org 1 0.5 None [1] {"k": -1} "a.png" a@example.org"#,
        ),
        (two, "a 3"),
    ] {
        assert_eq!(tasks.wait::<String>(id).await.unwrap(), ran);
    }
    let mut lengths = Vec::new();
    for id in many {
        lengths.push(tasks.wait::<usize>(id).await.unwrap());
    }
    assert_eq!(lengths, [1, 2]);
}

#[tokio::test]
async fn a_function_or_a_closure_without_the_attribute_runs_too() {
    let tasks = start().await;

    let plain = tasks.add_task(plain, 1).await.unwrap();
    let a_future = tasks.add_task(|n: u8| async move { n + 1 }, 1);
    let a_future = a_future.await.unwrap();
    let a_value = tasks.add_task(|n: u8| n + 2, 1).await.unwrap();

    let mut ran = Vec::new();
    for id in [plain, a_future, a_value] {
        ran.push(tasks.wait::<u8>(id).await.unwrap());
    }
    assert_eq!(ran, [1, 2, 3]);
}
