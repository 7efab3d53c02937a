//! What a hub counts. Look here for the meaning of each number.

use std::sync::atomic::{AtomicU64, Ordering};

use super::mailbox::Mailbox;
use crate::close::CloseReason;
use crate::gap::GapReason;

/// A number that only grows.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Default)]
pub(crate) struct Stats {
    pub(crate) opened: Counter,
    pub(crate) published: Counter,
    pub(crate) publish_errors: Counter,
    pub(crate) received: Counter,
    pub(crate) replaced: Counter,
    pub(crate) refused: Counter,
    pub(crate) backfills: Counter,
    pub(crate) publishes_delayed: Counter,
    pub(crate) sent: Counter,
    pub(crate) sent_bytes: Counter,
    ended: [Counter; CloseReason::ALL.len()],
    gaps: [Counter; GapReason::ALL.len()],
}

/// What a [`Hub`](crate::Hub) has counted since it began.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HubStats {
    /// Subscriptions opened.
    pub streams_opened: u64,
    /// Subscriptions ended, by reason.
    pub streams_ended: EndedStreams,
    /// Events that this node published.
    pub events_published: u64,
    /// Publishes that failed.
    pub publish_errors: u64,
    /// Events that the broker gave to this node.
    pub events_received: u64,
    /// Events received that were not UTF-8, so that U+FFFD stands in them.
    pub events_replaced: u64,
    /// Events received that were too large or not understood, and not delivered.
    pub events_refused: u64,
    /// Gaps that streams were told of, by reason.
    pub gaps: Gaps,
    /// Histories of channels read from the broker into the ring, for streams that came back.
    pub backfills: u64,
    /// Publishes that had to wait because a shard of the engine was far behind.
    pub publishes_delayed: u64,
    /// Events handed to streams.
    pub events_sent: u64,
    /// Bytes of these events as they stand on the wire, without HTTP's framing.
    pub bytes_sent: u64,
}

/// What a shard of the engine tells of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardStats {
    /// Streams it has now.
    pub streams: usize,
    /// Messages that wait for it now.
    pub mailbox: usize,
    /// Bytes that wait for slow clients now. Streams share frames; each counts them.
    pub outbox_bytes: usize,
    /// Writes to sockets. With the events sent they show how many events went out together.
    pub writes: u64,
    /// Turns of its loop that had something to do.
    pub turns: u64,
    /// How often it panicked, lost its streams and began anew.
    pub panics: u64,
}

impl ShardStats {
    pub(super) fn of(mailbox: &Mailbox) -> Self {
        let counts = &mailbox.counts;
        Self {
            streams: counts.streams.load(Ordering::Relaxed),
            mailbox: mailbox.depth(),
            outbox_bytes: counts.outbox_bytes.load(Ordering::Relaxed),
            writes: counts.writes.get(),
            turns: counts.turns.get(),
            panics: counts.panics.load(Ordering::Relaxed),
        }
    }
}

/// How many streams ended, by reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedStreams([u64; CloseReason::ALL.len()]);

impl EndedStreams {
    /// How many ended for a reason.
    pub fn by(&self, reason: CloseReason) -> u64 {
        self.0[reason as usize]
    }

    /// Every reason with its number.
    pub fn iter(&self) -> impl Iterator<Item = (CloseReason, u64)> + '_ {
        CloseReason::ALL.into_iter().zip(self.0)
    }
}

/// How many gaps streams were told of, by reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gaps([u64; GapReason::ALL.len()]);

impl Gaps {
    /// How many for a reason.
    pub fn by(&self, reason: GapReason) -> u64 {
        self.0[reason as usize]
    }

    /// Every reason with its number.
    pub fn iter(&self) -> impl Iterator<Item = (GapReason, u64)> + '_ {
        GapReason::ALL.into_iter().zip(self.0)
    }
}

impl Stats {
    pub(crate) fn gap(&self, reason: GapReason) {
        self.gaps[reason as usize].add(1);
    }

    pub(crate) fn ended(&self, reason: CloseReason) {
        self.ended[reason as usize].add(1);
    }

    pub(crate) fn snapshot(&self) -> HubStats {
        HubStats {
            streams_opened: self.opened.get(),
            streams_ended: EndedStreams(std::array::from_fn(|at| self.ended[at].get())),
            events_published: self.published.get(),
            publish_errors: self.publish_errors.get(),
            events_received: self.received.get(),
            events_replaced: self.replaced.get(),
            events_refused: self.refused.get(),
            gaps: Gaps(std::array::from_fn(|at| self.gaps[at].get())),
            backfills: self.backfills.get(),
            publishes_delayed: self.publishes_delayed.get(),
            events_sent: self.sent.get(),
            bytes_sent: self.sent_bytes.get(),
        }
    }
}

// The reason is the index.
const _: () = {
    let mut at = 0;
    while at < CloseReason::ALL.len() {
        assert!(CloseReason::ALL[at] as usize == at);
        at += 1;
    }
    let mut at = 0;
    while at < GapReason::ALL.len() {
        assert!(GapReason::ALL[at] as usize == at);
        at += 1;
    }
};
