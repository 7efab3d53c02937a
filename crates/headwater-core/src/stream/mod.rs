//! What stands between the hub and a stream: a queue for streams that are polled, a mailbox for those of
//! a shard. Look here for what happens to a slow client.

#[cfg(test)]
mod loom_tests;
pub(crate) mod mailbox;
#[cfg(test)]
mod mailbox_tests;
pub(crate) mod queue;
pub(crate) mod slow_client;
mod sync;
