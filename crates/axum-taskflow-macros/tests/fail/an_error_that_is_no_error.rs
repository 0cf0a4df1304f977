use axum_taskflow::task;

enum MailError {
    Refused,
}

#[task]
async fn send_email(address: String) -> Result<(), MailError> {
    println!("{address}");
    Err(MailError::Refused)
}

fn main() {}
