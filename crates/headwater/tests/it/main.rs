//! The public behaviour of the library, as one test binary with a file per topic. None of the tests
//! needs a program besides the Rust toolchain. Look in `tests/live` for those that do.

mod engine;
#[path = "../support/example.rs"]
mod example;
mod examples;
mod responses;
mod resuming;
mod wire;
