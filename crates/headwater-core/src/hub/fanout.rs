//! Delivers events from the broker to all subscribers of a channel. Look here for this node's view
//! of the log's position, and for what happens when the log lost its data.

use super::backpressure::Backpressure;
use super::config::HubConfig;
use super::entry::ChannelEntry;
use super::registry::Registry;
use super::stats::Stats;
use super::table::ChannelTable;
use crate::broker::{Baseline, Inlet};
use crate::budget::Share;
use crate::channel::Channel;
use crate::clock::now_ms;
use crate::event::Event;
use crate::frame::{Frame, Published};
use crate::gap::{Gap, GapReason};
use crate::log::{Continuity, Cursor, Epoch, LogClock, LogState, Position, Sighting};
use crate::revocation::Revocation;
use crate::stream::mailbox::{Message, ReplayFrom};

/// The fan-out. It never waits and never fails: a full queue closes its own stream only.
pub(super) struct Fanout {
    pub(super) table: ChannelTable,
    pub(super) registry: Registry,
    pub(super) pressure: Backpressure,
    pub(super) config: HubConfig,
    pub(super) stats: Stats,
    pub(super) clock: LogClock,
}

impl Fanout {
    pub(super) fn new(config: HubConfig) -> Self {
        Self {
            table: ChannelTable::new(config.budget.account(Share::Rings).clone()),
            registry: Registry::new(config.budget.account(Share::Revocations).clone()),
            pressure: Backpressure::default(),
            config,
            stats: Stats::default(),
            clock: LogClock::new(),
        }
    }

    /// Whether a channel is known to have had ephemeral events.
    pub(super) fn has_ephemeral(&self, channel: &Channel) -> bool {
        self.table.with(channel, |entry| entry.ring.has_ephemeral()).unwrap_or(false)
    }

    /// Whether a channel may have had ephemeral events, for all that is known.
    pub(super) fn may_have_ephemeral(&self, channel: &Channel) -> bool {
        self.table.with(channel, |entry| entry.ring.may_have_ephemeral()).unwrap_or(false)
    }

    /// Drops recent frames that are older than rings retain.
    pub(super) fn expire_rings(&self) {
        let now_ms = now_ms();
        self.table.each(|_, entry| entry.ring.expire(now_ms));
    }

    /// Starts a new epoch after the log lost its data: every stream receives a gap event.
    fn reset(&self, epoch: Epoch) {
        tracing::warn!(%epoch, "log reset, new epoch: sending gap events");
        let now = self.clock.now();
        let mut has_ephemeral = false;
        self.table.each(|channel, entry| {
            entry.ring.reset(now);
            has_ephemeral |= entry.ring.has_ephemeral();
            let gap = Gap { channel: channel.clone(), reason: GapReason::Epoch };
            entry.deliver(&Frame::of_gap(gap, None));
            (0..entry.count()).for_each(|_| self.stats.gap(GapReason::Epoch));
        });
        // Clients move to the new epoch only now. A client that is disconnected before this has
        // only some of the gap events of its channels, and receives all of them when it resumes.
        let marker = Frame::marker(self.clock.position(epoch, now.cursor(), has_ephemeral));
        self.table.each(|_, entry| entry.queues().for_each(|queue| queue.push(&marker, false)));
        for mailbox in self.pressure.shards() {
            // A shard that is gone has no streams to deliver to.
            let _ = mailbox.push(Message::DeliverToAll(marker.clone()));
        }
    }

    /// Records where the log is.
    fn sight(&self, epoch: Epoch, offset: u64, by: Sighting) {
        if self.clock.sight(epoch, offset, by).is_some() {
            self.reset(epoch);
        }
    }

    /// Delivers an ephemeral event or a gap event, which is ordered between two events of the log.
    fn deliver_between(&self, channel: &Channel, frame: impl FnOnce(Option<Position>) -> Frame) {
        self.table.with(channel, |entry| {
            // Numbered under the lock: a stream that joins up to this number finds the frame.
            let position = self.clock.next_local();
            let frame = frame(position);
            if let Some(position) = position {
                entry.ring.push_ephemeral(position.key(), frame.clone());
            }
            entry.deliver(&frame);
        });
    }
}

impl Inlet for Fanout {
    fn set_log(&self, epoch: Epoch, last: u64) {
        self.sight(epoch, last, Sighting::Report);
    }

    fn set_begun(&self, epoch: Epoch, offset: u64) {
        self.clock.begin(epoch, offset);
    }

    fn set_baselines(&self, baselines: &[(Channel, Baseline)]) {
        // Ephemeral events that were published meanwhile are nowhere retained. The gap events of
        // all channels come before any event of the log that was missed: the ID of that would
        // cover them.
        for (channel, baseline) in baselines {
            let was_lost = self.table.with(channel, |entry| entry.ring.was_lost(*baseline));
            if was_lost == Some(true) {
                self.deliver_gap(channel, GapReason::BrokerLost);
            }
        }
        for (channel, baseline) in baselines {
            self.table.with(channel, |entry| {
                let before = self.clock.now();
                let joined = || self.clock.next_joined();
                if let Some(after) = entry.ring.set_baseline(*baseline, before, joined) {
                    replay(channel, entry, before, after);
                }
            });
        }
    }

    /// Delivers an event of the log. Never waits: a stream whose queue is full is closed.
    fn deliver(&self, channel: &Channel, frame: &Frame, previous: u64) {
        self.stats.received.add(1);
        let Some(position) = frame.position() else { return };
        let (epoch, offset) = (position.epoch(), position.offset());
        if !self.clock.is_in(epoch) {
            self.sight(epoch, offset.saturating_sub(1), Sighting::Report);
        }
        let delivered = self.table.with(channel, |entry| {
            let follows = entry.ring.follows(previous, offset);
            if follows == Continuity::Duplicate {
                return;
            }
            if let Continuity::Hole { after } = follows {
                let before = self.clock.now();
                // No node was notified of them: clients with any earlier ID may lack them.
                let noticed = Cursor { offset: offset - 1, number: before.number };
                entry.ring.skip_to(previous, noticed);
                replay(channel, entry, before, after);
            }
            entry.ring.push(position.key(), frame.clone(), previous);
            // Before the delivery: a client that has the event and reconnects at once must find it
            // in the ring, and must not receive it again as a live event.
            self.clock.sight(epoch, offset, Sighting::Event);
            entry.deliver(frame);
        });
        if delivered.is_none() {
            self.clock.sight(epoch, offset, Sighting::Event);
        }
    }

    fn is_subscribed(&self, channel: &Channel) -> bool {
        self.table.with(channel, |_| ()).is_some()
    }

    fn pass(&self, position: Position) {
        self.stats.received.add(1);
        let (epoch, offset) = (position.epoch(), position.offset());
        if !self.clock.is_in(epoch) {
            self.sight(epoch, offset.saturating_sub(1), Sighting::Report);
        }
        self.clock.sight(epoch, offset, Sighting::Event);
    }

    fn deliver_ephemeral(&self, channel: &Channel, event: &Event) {
        self.stats.received.add(1);
        self.deliver_between(channel, |position| {
            let published = Published { position, time_ms: now_ms(), end: false };
            Frame::of_channel(channel, event, published)
        });
    }

    fn deliver_gap(&self, channel: &Channel, reason: GapReason) {
        let gap = Gap { channel: channel.clone(), reason };
        self.deliver_between(channel, |position| Frame::of_gap(gap, position));
        let subscribers = self.table.subscribers(channel);
        (0..subscribers).for_each(|_| self.stats.gap(reason));
    }

    /// Closes the streams of this node that a revocation names.
    fn revoke(&self, revocation: &Revocation, time_ms: u64) {
        // First remembered: a stream that is not closed here finds it when it opens.
        self.registry.revoke(revocation, time_ms, |id| {
            let (node, number) = id.rsplit_once('-')?;
            number.parse().ok().filter(|_| node == self.clock.node().to_string())
        });
        if let Revocation::Channel(channel) = revocation {
            self.table.with(channel, |entry| entry.revoke());
        }
    }

    fn heard(&self) -> Option<Position> {
        let now = self.clock.now();
        Some(Position::new(now.epoch?, now.heard))
    }

    fn count_sanitized(&self) {
        self.stats.sanitized.add(1);
    }

    fn count_rejected(&self) {
        self.stats.rejected.add(1);
    }
}

/// Lets the streams of a channel replay: the node has missed events.
fn replay(channel: &Channel, entry: &ChannelEntry, before: LogState, after: u64) {
    let Some(epoch) = before.epoch else { return };
    tracing::info!(%channel, "events were missed: streams read them from the log");
    entry.replay(channel, ReplayFrom { epoch, cursor: before.cursor(), after });
}
