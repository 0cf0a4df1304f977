//! What compiles, and what the compiler says about what does not. After a deliberate change of a message:
//! `TRYBUILD=overwrite cargo test -p axum-taskflow --test compile`, and read the difference as a tired user would.

#[test]
fn the_compiler_says_what_is_wrong_where_and_what_to_do() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/pass/*.rs");
    cases.compile_fail("tests/fail/*.rs");
}
