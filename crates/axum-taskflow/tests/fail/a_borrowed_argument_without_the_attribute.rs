use axum_taskflow::TaskManager;

async fn send_email(address: &str) {
    println!("{address}");
}

async fn add(tasks: TaskManager) -> Result<(), axum_taskflow::Error> {
    tasks.add_task(send_email, "a@example.org").await?;
    Ok(())
}

fn main() {}
