//! What the binary promises, tested from outside: one file per theme.

mod admin;
mod bench;
mod command_line;
mod connections;
mod descriptors;
mod durable;
mod finished;
mod follower;
mod http2;
mod http_errors;
mod limits;
mod load;
mod payloads;
mod proxies;
mod redis_delivery;
mod redis_faults;
mod redis_scale;
mod resume;
mod resume_ids;
mod resume_redis;
mod resume_scale;
mod settings;
mod slow_client;
mod starting;
mod stopping;
mod tls;
