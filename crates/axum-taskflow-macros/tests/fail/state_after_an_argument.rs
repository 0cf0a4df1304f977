use axum_taskflow::{Data, TaskContext, task};

#[derive(Clone)]
struct Mailer;

#[task]
async fn send_email(address: String, Data(mailer): Data<Mailer>) {
    let _ = (address, mailer);
}

#[task]
fn thumbnail(path: String, width: u32, ctx: TaskContext) {
    let _ = (path, width, ctx);
}

fn main() {}
