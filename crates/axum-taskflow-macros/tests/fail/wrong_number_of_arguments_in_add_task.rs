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
    tasks.add_task(send_email, ()).await?;
    tasks.add_task(resize, "a.png".to_owned()).await?;
    tasks.add_task(resize, ("a.png".to_owned(), 200)).await?;
    tasks.add_task(cleanup, 5).await?;
    Ok(())
}

fn main() {}
