use axum_taskflow::{Tasks, task};

#[task]
async fn send_email(address: String) {
    println!("{address}");
}

#[task]
async fn resize(path: String, width: u32, height: u32) {
    println!("{path} {width} {height}");
}

#[task]
async fn cleanup() {}

async fn add(tasks: Tasks) -> Result<(), axum_taskflow::Error> {
    tasks.add_task(send_email, "a@example.org").await?;
    tasks.add_task(resize, ("a.png", 200, 300)).await?;
    tasks.add_task(resize, ("a.png".to_owned(), 200, "300")).await?;
    tasks.add_tasks(send_email, ["a@example.org"]).await?;
    Ok(())
}

fn main() {}
