//! Headwater's broker over Redis Pub/Sub: [`RedisBroker`]. It retains events in a log in Redis, so
//! that streams resume on any node.
//!
//! Applications use it through the crate `headwater`, with its feature `redis`.
//!
//! # Layout
//!
//! In reading order: [`RedisBroker`] and `publish`; `library` is the function in Redis that appends
//! and publishes; `subscriber` maintains the one subscriber connection, and `session` serves it
//! from HELLO to its loss; `history` reads the log; `desired` is what the node wants of Redis, and
//! `reconcile` repairs it; `commands` keeps the one connection for commands, and `link` judges it;
//! `keys` has every key and Redis channel, `errors` every error of Redis, `limits` every bound.
//!
//! # Features
//!
//! | feature | default | contents |
//! |---|---|---|
//! | `tls` | no | `rediss://`, over rustls. The program installs rustls' default crypto provider |

mod broker;
mod commands;
mod connect;
mod desired;
mod envelope;
mod ephemeral;
mod errors;
mod history;
mod keys;
mod library;
pub mod limits;
mod link;
mod node;
mod pace;
mod publish;
mod reconcile;
mod resp;
mod revocations;
mod session;
mod subscriber;

pub use broker::RedisBroker;
pub use commands::Commands as RedisConnection;
/// The Redis client for [`RedisBroker::connection`], so that programs use the same version.
pub use redis as client;
