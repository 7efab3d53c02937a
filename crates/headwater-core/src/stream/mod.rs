//! One stream, without a clock or a socket: its state, and the queues from the hub to it, one per
//! stream that is polled, one mailbox per shard for the streams of the engine. Look here for what
//! happens to a slow client, and for when a stream acts.

pub(crate) mod backlog;
pub(crate) mod envelope;
#[cfg(test)]
mod loom_tests;
pub(crate) mod mailbox;
#[cfg(test)]
mod mailbox_tests;
pub(crate) mod pace;
pub(crate) mod progress;
pub(crate) mod queue;
pub(crate) mod schedule;
pub(crate) mod state;
#[cfg(test)]
mod state_tests;
mod sync;
pub(crate) mod waiting;
