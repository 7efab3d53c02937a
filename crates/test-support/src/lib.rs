//! What tests of several crates share: a real Redis, real nodes, a real ACME server, raw sockets,
//! and a proxy that fails as networks do.
//!
//! Every process is started here, on a free loopback port, and ended by its process id. Programs
//! that a part needs: `redis_server` redis-server, `acme_server` pebble and pebble-challtestsrv,
//! `node` the server's own binary. Signals are sent by `/bin/sh`.

pub mod acme_server;
pub mod http;
pub mod http2;
pub mod node;
mod ports;
mod process;
pub mod proxy;
pub mod redis_server;
pub mod secrets;
pub mod stream;
pub mod tls;
pub mod versions;
mod wait;

pub use acme_server::AcmeServer;
pub use node::Node;
pub use ports::{free_port, stable_port};
pub use proxy::{Direction, Proxy};
pub use redis_server::RedisServer;
pub use stream::EventStream;
pub use versions::RedisVersion;
pub use wait::{PATIENCE, eventually, wait_for};
