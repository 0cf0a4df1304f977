use axum_taskflow::{Args, IntoArgs, TaskFn, task};

fn add_task<F, P, M, A>(_function: F, _args: A)
where
    F: TaskFn<P, M>,
    P: Args,
    A: IntoArgs<P, F>,
    M: 'static,
{
}

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

fn main() {
    add_task(send_email, "a@example.org");
    add_task(send_email, ());
    add_task(resize, ("a.png".to_owned(), 200));
    add_task(resize, ("a.png", 200, 300));
    add_task(resize, "a.png".to_owned());
    add_task(cleanup, 5);
    add_task(send_email("a@example.org".to_owned()), ());
}
