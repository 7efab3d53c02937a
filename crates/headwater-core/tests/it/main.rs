//! The guarantees of the core's public API, as one test binary. Each file covers one theme.

mod ephemeral;
mod hub;
mod memory;
mod own_broker;
mod rules;
mod suite;
