use std::{borrow::Cow, path::Path};

use axum_taskflow::{TaskContext, task};

#[task]
async fn send_email(address: &str) {
    println!("{address}");
}

#[task]
fn thumbnail(path: &Path, sizes: &[u32], title: Option<&'static str>, by: Cow<'_, str>) {
    println!("{path:?} {sizes:?} {title:?} {by}");
}

#[task]
fn note(ctx: &TaskContext, text: String) {
    ctx.log(text);
}

fn main() {}
