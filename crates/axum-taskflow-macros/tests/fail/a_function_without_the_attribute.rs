use std::rc::Rc;

use axum_taskflow::Tasks;

async fn count(rows: Vec<String>) {
    let shared = Rc::new(rows);
    std::future::ready(()).await;
    println!("{}", shared.len());
}

async fn add(tasks: Tasks) -> Result<(), axum_taskflow::Error> {
    tasks.add_task(count, vec![String::new()]).await?;
    Ok(())
}

fn main() {}
