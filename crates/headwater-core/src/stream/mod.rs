//! The queues from the hub to its streams: one per stream that is polled, one mailbox per shard for
//! the streams of the engine. Look here for what happens to a slow client.

#[cfg(test)]
mod loom_tests;
pub(crate) mod mailbox;
#[cfg(test)]
mod mailbox_tests;
pub(crate) mod queue;
pub(crate) mod slow_client;
mod sync;
