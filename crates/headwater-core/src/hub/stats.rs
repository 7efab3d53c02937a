//! The counters of a hub. Look here for the meaning of each number.

use std::sync::atomic::Ordering;

use crate::close::CloseReason;
use crate::counter::Counter;
use crate::gap::GapReason;
use crate::stream::mailbox::Mailbox;

#[derive(Default)]
pub(crate) struct Stats {
    pub(crate) opened: Counter,
    pub(crate) published: Counter,
    pub(crate) publish_errors: Counter,
    pub(crate) received: Counter,
    pub(crate) sanitized: Counter,
    pub(crate) rejected: Counter,
    pub(crate) backfills: Counter,
    pub(crate) missed: Counter,
    pub(crate) publishes_delayed: Counter,
    pub(crate) sent: Counter,
    pub(crate) sent_bytes: Counter,
    ended: [Counter; CloseReason::ALL.len()],
    gaps: [Counter; GapReason::ALL.len()],
}

/// The counters of a [`Hub`](crate::Hub) since it was created.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HubStats {
    /// Subscriptions opened.
    pub streams_opened: u64,
    /// Subscriptions closed, by reason.
    pub streams_ended: EndedStreams,
    /// Events that this node published.
    pub events_published: u64,
    /// Publishes that failed.
    pub publish_errors: u64,
    /// Events that this node received from the broker.
    pub events_received: u64,
    /// Received events that were not valid UTF-8; U+FFFD replaced the invalid bytes.
    pub events_sanitized: u64,
    /// Received events that were too large or malformed, and were not delivered.
    pub events_rejected: u64,
    /// Gap events sent to streams, by reason.
    pub gaps: Gaps,
    /// Reads of a channel's history from the broker into its ring, for streams that resume.
    pub backfills: u64,
    /// Events that this node had missed and replayed to streams, counted per stream.
    pub events_caught_up: u64,
    /// Publishes that had to wait because a shard of the engine was far behind.
    pub publishes_delayed: u64,
    /// Events sent to clients, counted per stream.
    pub events_sent: u64,
    /// Bytes of these events on the wire, without HTTP's framing.
    pub bytes_sent: u64,
}

/// The figures of a shard of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardStats {
    /// Streams that are on the shard now.
    pub streams: usize,
    /// Messages that wait in its mailbox now.
    pub mailbox: usize,
    /// Bytes that wait for slow clients now. Streams share frames; each stream counts them.
    pub backlog_bytes: usize,
    /// Writes to sockets. Events sent divided by writes is the mean number of events per write.
    pub writes: u64,
    /// Turns of its loop that had work to do.
    pub turns: u64,
    /// How often it panicked, closed its streams and restarted.
    pub panics: u64,
}

impl ShardStats {
    pub(super) fn of(mailbox: &Mailbox) -> Self {
        let counts = &mailbox.counts;
        Self {
            streams: counts.streams.load(Ordering::Relaxed),
            mailbox: mailbox.depth(),
            backlog_bytes: counts.backlog_bytes.load(Ordering::Relaxed),
            writes: counts.writes.get(),
            turns: counts.turns.get(),
            panics: counts.panics.load(Ordering::Relaxed),
        }
    }
}

/// The number of closed streams, by reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedStreams([u64; CloseReason::ALL.len()]);

impl EndedStreams {
    /// The number of streams closed for a reason.
    pub fn by(&self, reason: CloseReason) -> u64 {
        self.0[reason as usize]
    }

    /// Every reason with its count.
    pub fn iter(&self) -> impl Iterator<Item = (CloseReason, u64)> + '_ {
        CloseReason::ALL.into_iter().zip(self.0)
    }
}

/// The number of gap events sent to streams, by reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gaps([u64; GapReason::ALL.len()]);

impl Gaps {
    /// The number of gap events with a reason.
    pub fn by(&self, reason: GapReason) -> u64 {
        self.0[reason as usize]
    }

    /// Every reason with its count.
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
            events_sanitized: self.sanitized.get(),
            events_rejected: self.rejected.get(),
            gaps: Gaps(std::array::from_fn(|at| self.gaps[at].get())),
            backfills: self.backfills.get(),
            events_caught_up: self.missed.get(),
            publishes_delayed: self.publishes_delayed.get(),
            events_sent: self.sent.get(),
            bytes_sent: self.sent_bytes.get(),
        }
    }
}

// The reason is the index of its counter.
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
