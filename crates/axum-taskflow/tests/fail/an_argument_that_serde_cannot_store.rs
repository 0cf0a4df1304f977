use axum_taskflow::task;

struct Signup {
    address: String,
}

#[task]
async fn welcome(address: String, signup: Signup) {
    println!("{address} {}", signup.address);
}

fn main() {}
