//! A function with the attribute stays one, and the attribute asks for nothing that a strict crate does not allow.

#![forbid(unsafe_code)]
#![deny(
    warnings,
    missing_docs,
    unused,
    unreachable_pub,
    rust_2018_idioms,
    unused_qualifications
)]

use axum_taskflow::task;

/// Two tasks of one name in Rust, each with its own in the store.
mod mail {
    use axum_taskflow::task;

    /// Documented.
    #[task(name = "strict.mail.send")]
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
    pub(crate) struct TaskDef;
    enum Option {
        Some,
    }
    trait Default {}

    #[task(retries = 1)]
    pub(crate) async fn f(_: TaskDef, _: [u8; CHECKED]) {}
}

#[tokio::test]
async fn a_function_with_the_attribute_is_called_as_any_other() {
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

#[tokio::test]
async fn functions_run_as_tasks_whatever_they_and_what_is_around_them_are_called() {
    let manager = crate::start().await;
    let address = || "a@example.org".to_owned();

    let mail = manager.add_task(mail::send, address()).await.unwrap();
    let text = manager.add_task(text_message::send, address());
    let text = text.await.unwrap();
    let raw = manager.add_task(r#move, ()).await.unwrap();
    let shadowed = manager.add_task(shadows::f, (shadows::TaskDef, [0; 5]));
    let shadowed = shadowed.await.unwrap();

    assert_eq!(manager.wait::<usize>(mail).await.unwrap(), 13);
    assert_eq!(manager.wait::<usize>(text).await.unwrap(), 13);
    manager.wait::<()>(raw).await.unwrap();
    manager.wait::<()>(shadowed).await.unwrap();
    assert!(manager.knows("move") && manager.knows("old"));
    assert!(!manager.knows("not_on_this_platform"));
}
