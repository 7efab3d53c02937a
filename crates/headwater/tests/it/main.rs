//! Tests of what the library promises its users, as one binary. Each file holds one theme.

mod brokers;
mod engine;
mod examples;
mod instructions;
#[cfg(feature = "redis")]
mod redis_function;
mod responses;
mod resuming;
mod wire;
