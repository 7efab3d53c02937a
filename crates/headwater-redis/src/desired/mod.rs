//! What this node wants of Redis, against what Redis has confirmed. Look here for how a difference
//! is noticed and repaired.

mod reconcile;
mod state;
mod subscriptions;

pub(crate) use reconcile::run;
pub(crate) use state::Desired;
pub(crate) use subscriptions::Confirmation;
