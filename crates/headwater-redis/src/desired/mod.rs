//! What this node wants of Redis, and what Redis has confirmed. `reconcile` repairs the difference.

mod accepted;
mod revocations;
mod state;
mod subscriptions;

pub(crate) use revocations::Retained;
pub(crate) use state::{Desired, Revocations};
pub(crate) use subscriptions::Confirmation;
