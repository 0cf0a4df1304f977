use axum_taskflow::{Failure, task};

struct Report {
    rows: u64,
}

#[task]
async fn import() -> Result<Report, Failure> {
    Ok(Report { rows: 1 })
}

#[task]
fn import_blocking() -> Report {
    Report { rows: 1 }
}

#[task]
async fn import_async() -> Report {
    Report { rows: 1 }
}

fn main() {
    println!("{}", import_blocking().rows);
}
