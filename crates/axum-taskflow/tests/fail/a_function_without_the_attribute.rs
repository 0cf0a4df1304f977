use axum_taskflow::{Args, IntoArgs, TaskFn};

fn add_task<F, P, M, A>(_function: F, _args: A)
where
    F: TaskFn<P, M>,
    P: Args,
    A: IntoArgs<P, F>,
    M: 'static,
{
}

async fn send_email(address: &str) {
    println!("{address}");
}

async fn count(rows: Vec<String>) {
    let shared = std::rc::Rc::new(rows);
    std::future::ready(()).await;
    println!("{}", shared.len());
}

fn main() {
    add_task(send_email, "a@example.org");
    add_task(count, vec![String::new()]);
}
