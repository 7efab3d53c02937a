//! What the binary promises, tested from outside with nothing but the binary: one file per theme.
//! Tests that need Redis or another program are in `../live`.

#[path = "../brokers/mod.rs"]
mod brokers;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "each binary uses a part of it")]
mod support;

mod access;
mod admin;
mod bench;
mod broker;
mod command_line;
mod connections;
mod descriptors;
mod docs;
mod durable;
mod finished;
mod http2;
mod http2_abuse;
mod http_errors;
mod limits;
mod logs;
mod payloads;
mod prices;
mod proxies;
mod resume;
mod resume_scale;
mod risks;
mod settings;
mod settings_docs;
mod settings_together;
mod shares;
mod slow_client;
mod starting;
mod stopping;
mod tls;
