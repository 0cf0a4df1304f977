use std::rc::Rc;

use axum_taskflow::task;

#[task]
async fn count(rows: Vec<String>) {
    let shared = Rc::new(rows);
    std::future::ready(()).await;
    println!("{}", shared.len());
}

fn main() {}
