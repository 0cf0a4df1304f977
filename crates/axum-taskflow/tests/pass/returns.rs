use axum_taskflow::{Failure, task};

#[derive(serde::Serialize)]
struct Report {
    rows: u64,
}

/// As in the anyhow crate: no `std::error::Error` itself, but becomes one.
struct AnyError(Box<dyn std::error::Error + Send + Sync>);

impl<E: std::error::Error + Send + Sync + 'static> From<E> for AnyError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl From<AnyError> for Box<dyn std::error::Error + Send + Sync> {
    fn from(error: AnyError) -> Self {
        error.0
    }
}

type Result<T, E = AnyError> = std::result::Result<T, E>;

#[task]
async fn any_error(n: String) -> Result<i32> {
    Ok(n.parse()?)
}

#[task]
async fn string_error() -> Result<(), String> {
    Err("no".to_owned())
}

#[task]
async fn str_error() -> Result<(), &'static str> {
    Err("no")
}

#[task]
async fn boxed_error() -> Result<Report, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Report { rows: 1 })
}

#[task]
fn io_error() -> std::io::Result<Vec<String>> {
    Ok(Vec::new())
}

#[task]
fn failure(n: String) -> Result<Option<Report>, Failure> {
    let rows = n.parse()?;
    Ok(Some(Report { rows }))
}

#[task]
fn unit() {}

#[task]
fn number() -> f64 {
    0.5
}

#[task]
async fn reports() -> Vec<Report> {
    Vec::new()
}

#[task]
async fn no_report() -> Option<Report> {
    None
}

#[task]
async fn some_report() -> Result<impl serde::Serialize + Send, String> {
    Ok(Report { rows: 1 })
}

#[task]
fn some_rows() -> Result<impl serde::Serialize + Send, String> {
    Ok(1)
}

/// A plain function that returns a future is an async one.
#[task]
fn future() -> impl Future<Output = u8> + Send + 'static {
    async { 5 }
}

#[task]
fn boxed_future(n: u8) -> std::pin::Pin<Box<dyn Future<Output = Result<u8>> + Send>> {
    Box::pin(async move { Ok(n) })
}

fn main() {}
