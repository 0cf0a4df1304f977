use axum_taskflow::{Tasks, task};

#[task]
async fn send_email(address: String) {
    println!("{address}");
}

async fn add(tasks: Tasks) -> Result<(), axum_taskflow::Error> {
    tasks.add_task(send_email("a@example.org".to_owned()), ()).await?;
    Ok(())
}

fn main() {}
