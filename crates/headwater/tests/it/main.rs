//! What the library promises its users, as one binary. Each file holds one theme. None needs a program
//! beside the Rust toolchain; those that do are in `tests/live`.

mod engine;
#[path = "../support/example.rs"]
mod example;
mod examples;
mod responses;
mod resuming;
mod wire;
