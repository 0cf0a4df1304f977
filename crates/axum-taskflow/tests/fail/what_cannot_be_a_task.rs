use axum_taskflow::task;

#[task]
struct Mail;

#[task]
unsafe fn promise() {}

#[task]
extern "C" fn foreign() {}

#[task]
const fn constant() {}

#[task]
static MAX: u32 = 5;

struct Mailer;

impl Mailer {
    #[task]
    async fn send(&self, address: String) {
        let _ = address;
    }
}

#[task]
fn nine(a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8, i: u8) {
    let _ = (a, b, c, d, e, f, g, h, i);
}

fn main() {}
