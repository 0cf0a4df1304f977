use axum_taskflow::{Data, TaskContext, task};

#[task]
fn nine(a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8, i: u8) {
    let _ = (a, b, c, d, e, f, g, h, i);
}

#[task]
fn twelve(a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8, i: u8, j: u8, k: u8, l: u8) {
    let _ = (a, b, c, d, e, f, g, h, i, j, k, l);
}

#[task]
fn four_before(ctx: TaskContext, a: Data<u8>, b: Data<u16>, c: Data<u32>, n: u8) {
    let _ = (ctx, a, b, c, n);
}

fn main() {}
