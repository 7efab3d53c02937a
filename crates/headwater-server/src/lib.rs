//! The binary `headwater`, as a library for its tests: command line, settings, server.

pub mod access;
pub mod cli;
pub mod client;
pub mod logging;
pub mod routes;
pub mod settings;
pub mod tls;

mod commands;
mod fetch;
mod limits;
mod metrics;
mod serve;

pub use cli::main;
