//! Tests that need other programs: redis-server and valgrind. Look here for the tests of the
//! library that only `cargo xtask test` runs.

#[path = "../support/example.rs"]
mod example;
mod examples;
mod instructions;
