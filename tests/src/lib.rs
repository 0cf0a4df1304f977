//! The code in README.md and in the guides, compiled and run: `cargo test --doc -p tests`.
