use axum_taskflow::task;

#[task]
async fn store<T: Send>(value: T) {
    let _ = value;
}

#[task]
async fn show(value: impl std::fmt::Display) {
    println!("{value}");
}

#[task]
async fn borrow<'a>(value: &'a str) {
    println!("{value}");
}

fn main() {}
