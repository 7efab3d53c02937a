//! The endpoints below `/sse`: streams, publishing, tickets.

pub mod ndjson;
pub mod query;

pub(crate) mod publish;
pub(crate) mod stream;
pub(crate) mod ticket;
