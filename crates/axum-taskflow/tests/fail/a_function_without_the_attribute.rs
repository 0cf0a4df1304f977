use std::rc::Rc;

use axum_taskflow::TaskManager;

async fn count(rows: Vec<String>) {
    let shared = Rc::new(rows);
    std::future::ready(()).await;
    println!("{}", shared.len());
}

async fn add(tasks: TaskManager) -> Result<(), axum_taskflow::Error> {
    tasks.add_task(count, vec![String::new()]).await?;
    Ok(())
}

fn main() {}
