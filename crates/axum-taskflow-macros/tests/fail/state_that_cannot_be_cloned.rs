use axum_taskflow::{Data, task};

struct Mailer;

#[task]
async fn send_email(Data(mailer): Data<Mailer>, address: String) {
    let _ = (mailer, address);
}

fn main() {}
