//! What test binaries of this crate share: clients, and checks that run over either broker. Each
//! binary includes this folder and uses a part of it.

pub(crate) mod access;
pub(crate) mod backend;
pub(crate) mod bench;
pub(crate) mod command_line;
pub(crate) mod commands;
pub(crate) mod drops;
pub(crate) mod finished;
pub(crate) mod follower;
pub(crate) mod http2;
pub(crate) mod kills;
pub(crate) mod load;
pub(crate) mod openmetrics;
pub(crate) mod payloads;
pub(crate) mod replay;
pub(crate) mod revocation;
pub(crate) mod starting;
pub(crate) mod tickets;
pub(crate) mod tls;
pub(crate) mod transport;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_headwater");
