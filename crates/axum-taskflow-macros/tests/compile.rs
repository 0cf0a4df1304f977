//! What the compiler says about what does not compile; what does is in `axum-taskflow/tests/task`. After a deliberate
//! change of a message: `TRYBUILD=overwrite cargo test -p axum-taskflow-macros --test compile`, and read the difference as a tired user would.

use std::{env, process::Command};

/// The flags of trybuild itself, which overrule those that it gives: it gives other ones while it checks what we depend on,
/// and so would check all of that twice.
const FLAGS: [&str; 6] = [
    "--cfg",
    "trybuild",
    "--verbose",
    "-A",
    "dead_code",
    "--diagnostic-width=140",
];

#[test]
fn the_compiler_says_what_is_wrong_where_and_what_to_do() {
    const ENCODED: &str = "CARGO_ENCODED_RUSTFLAGS";
    let flags = FLAGS.join("\x1f");
    if env::var(ENCODED).is_ok_and(|given| given == flags) {
        // No program that passes: for one, all that we depend on would be built, and not only checked.
        return trybuild::TestCases::new().compile_fail("tests/fail/*.rs");
    }

    // Once more, in a process whose environment says so.
    let test = Command::new(env::current_exe().expect("a test knows its program"))
        .args([
            "--exact",
            "the_compiler_says_what_is_wrong_where_and_what_to_do",
        ])
        .env(ENCODED, flags)
        .output()
        .expect("a test can be run again");
    let said = String::from_utf8_lossy(&test.stdout);
    println!("{said}");
    assert!(
        test.status.success() && said.contains("test result: ok. 1 passed"), // and not none of that name
        "{}",
        String::from_utf8_lossy(&test.stderr)
    );
}
