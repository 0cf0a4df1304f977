use std::collections::BTreeMap;

use axum_taskflow::{TaskManager, task};

#[derive(serde::Serialize, serde::Deserialize)]
struct Signup {
    address: String,
}

#[task]
async fn none() {}

#[task]
async fn one(_address: String) {}

#[task]
async fn a_tuple(_size: (u32, u32)) {}

#[task]
fn patterns((_width, _height): (u32, u32), Signup { address: _ }: Signup, mut n: u8) {
    n += 1;
    let _ = n;
}

#[task]
#[allow(clippy::too_many_arguments)]
async fn eight(
    _a: String,
    _b: u64,
    _c: f32,
    _d: Option<bool>,
    _e: Vec<u8>,
    _f: BTreeMap<String, i32>,
    _g: std::path::PathBuf,
    _h: Signup,
) {
}

#[task]
async fn some_are_not_there(
    #[cfg(any())] _ctx: DoesNotExist,
    _a: String,
    #[cfg(any())] _b: DoesNotExist,
    #[cfg(all())] _c: u8,
) {
}

fn plain(_n: u8) {}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), axum_taskflow::Error> {
    let tasks = TaskManager::builder().build().await?;
    let signup = || Signup { address: "a@example.org".to_owned() };

    tasks.add_task(none, ()).await?;
    tasks.add_task(one, "a@example.org".to_owned()).await?;
    tasks.add_task(one, ("a@example.org".to_owned(),)).await?;
    tasks.add_task(a_tuple, (1, 2)).await?;
    tasks.add_task(some_are_not_there, ("a".to_owned(), 3)).await?;
    tasks.add_task(patterns, ((1, 2), signup(), 3)).await?;
    let eight_args = (
        String::new(),
        1,
        0.5,
        None,
        vec![1],
        BTreeMap::new(),
        "a.png".into(),
        signup(),
    );
    tasks.add_task(eight, eight_args).await?;
    tasks.add_tasks(one, ["a", "b"].map(str::to_owned)).await?;
    // Without the attribute.
    tasks.add_task(plain, 1).await?;
    tasks.add_task(|_n: u8| async {}, 1).await?;
    tasks.add_task(|_n: u8| (), 1).await?;

    tasks.shutdown().await
}
