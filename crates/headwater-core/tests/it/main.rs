//! What the core promises its users, as one binary. Each file holds one theme.

mod hub;
mod own_broker;
mod suite;
