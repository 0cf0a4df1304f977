//! What the compiler says about what does not compile; what does is in `axum-taskflow/tests/task`. After a deliberate
//! change of a message: `TRYBUILD=overwrite cargo test -p axum-taskflow-macros --test compile`, and read the difference as a tired user would.

#[test]
fn the_compiler_says_what_is_wrong_where_and_what_to_do() {
    // No program that passes: for one, all that we depend on would be built, and not only checked.
    trybuild::TestCases::new().compile_fail("tests/fail/*.rs");
}
