//! What the binary promises, tested from outside: one file per theme.

mod admin;
mod command_line;
mod connections;
mod http2;
mod http_errors;
mod payloads;
mod redis_delivery;
mod redis_faults;
mod redis_scale;
mod settings;
mod slow_client;
mod starting;
mod stopping;
