//! Tests of what the library promises its users, as one binary. Each file holds one theme.

mod brokers;
mod examples;
mod responses;
mod wire;
