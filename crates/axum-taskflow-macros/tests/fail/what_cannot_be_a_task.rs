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

// An attribute cannot see where its function stands, so this one is the compiler's own.
impl Mailer {
    #[task]
    async fn send_without_self(address: String) {
        let _ = address;
    }
}

fn main() {}
