use axum_taskflow::task;

struct Signup {
    address: String,
}

#[derive(serde::Serialize)]
struct Change {
    address: String,
}

#[task]
async fn welcome(greeting: String, signup: Signup) {
    println!("{greeting} {}", signup.address);
}

#[task]
fn tell(change: Change) {
    println!("{}", change.address);
}

#[task]
fn tell_all(changes: Vec<Change>) {
    println!("{}", changes.len());
}

fn main() {}
