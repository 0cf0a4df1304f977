//! The attribute asks for nothing that a strict crate does not allow.
#![forbid(unsafe_code)]
#![deny(warnings, missing_docs, unused, unreachable_pub, rust_2018_idioms, unused_qualifications)]

use axum_taskflow::task;

/// Two tasks of one name in Rust, each with its own in the store.
mod mail {
    use axum_taskflow::task;

    /// Documented.
    #[task(name = "mail.send")]
    pub(crate) async fn send(address: String) -> usize {
        address.len()
    }
}

mod text_message {
    use axum_taskflow::task;

    #[task(name = "text_message.send")]
    #[must_use]
    #[inline]
    pub(crate) fn send(number: String) -> usize {
        number.len()
    }
}

#[task]
#[deprecated]
async fn old() {}

#[task]
#[cfg(any())]
async fn not_on_this_platform() -> DoesNotExist {}

#[task]
fn r#move() {}

/// Names that the expansion uses itself.
mod shadows {
    #![allow(dead_code, unused_macros)]

    use axum_taskflow::task;

    mod core {}
    mod axum_taskflow_core {}
    macro_rules! submit {
        () => {};
    }
    const CHECKED: usize = 5;
    #[derive(serde::Serialize, serde::Deserialize)]
    struct TaskDef;
    enum Option {
        Some,
    }
    trait Default {}

    #[task(retries = 1)]
    async fn f(_: TaskDef, _: [u8; CHECKED]) {}
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    #[task]
    async fn inside_of_a_function(n: u8) -> u8 {
        n
    }
    assert_eq!(mail::send("a@example.org".to_owned()).await, 13);
    assert_eq!(text_message::send("555".to_owned()), 3);
    assert_eq!(inside_of_a_function(5).await, 5);
    r#move();
    let as_a_value: fn(String) -> usize = text_message::send;
    assert_eq!(as_a_value("5".to_owned()), 1);
}
