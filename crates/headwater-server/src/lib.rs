//! The binary `headwater`, as a library for its tests: command line, settings, server.

pub mod access;
pub mod cli;
pub mod client;
pub mod price;
pub mod router;
pub mod settings;
pub mod sse;

mod admin;
mod app;
mod banner;
mod demo;
mod exit;
mod limits;
mod logging;
mod metrics;
mod outbound;
mod printable;
mod risks;
mod server;
mod signals;
mod throttled_log;
mod tls;

pub use cli::main;
