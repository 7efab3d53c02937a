//! What the binary promises together with real programs: Redis, an ACME server, curl. Built with
//! the feature `__live`, by `cargo xtask test`; a missing program is a failure.

#[path = "../brokers/mod.rs"]
mod brokers;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "each binary uses a part of it")]
mod support;

mod access;
mod acme;
mod admin;
mod banner;
mod bench;
mod broker;
mod command_line;
mod durable;
mod finished;
mod payloads;
mod prices;
mod readiness;
mod redis_connections;
mod redis_delivery;
mod redis_faults;
mod redis_scale;
mod resume;
mod resume_redis;
mod resume_scale;
mod starting;
