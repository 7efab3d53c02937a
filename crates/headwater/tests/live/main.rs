//! What needs programs: redis-server and valgrind. `cargo xtask test` runs it.

#[path = "../support/example.rs"]
mod example;
mod examples;
mod instructions;
