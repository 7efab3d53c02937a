//! Tests that hold over either broker: `it` runs them over the embedded one, `live` over Redis.
//! Look here to add one; a node over the binary's broker is `crate::broker::start_node`.

mod finished;
mod idempotency;
mod resume_ids;
