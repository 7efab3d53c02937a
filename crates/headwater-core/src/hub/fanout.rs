//! Delivers events from the broker to all subscribers of a channel. Look here for this node's view
//! of the log's position, and for what happens when the log lost its data.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::backpressure::Backpressure;
use super::config::HubConfig;
use super::registry::Registry;
use super::stats::Stats;
use super::table::ChannelTable;
use crate::broker::{Baseline, Inlet};
use crate::channel::Channel;
use crate::clock::now_ms;
use crate::event::Event;
use crate::frame::{Frame, Published};
use crate::gap::{Gap, GapReason};
use crate::log::{Epoch, Key, Position};
use crate::revocation::Revocation;
use crate::stream::mailbox::Message;

/// The fan-out. It never waits and never fails: a full queue closes its own stream only.
pub(super) struct Fanout {
    pub(super) table: ChannelTable,
    pub(super) registry: Registry,
    pub(super) pressure: Backpressure,
    pub(super) config: HubConfig,
    pub(super) stats: Stats,
    /// This node's own epoch, for ephemeral events.
    pub(super) node: Epoch,
    log: Mutex<LogState>,
}

/// The position of the log, as far as this node has delivered it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LogState {
    /// `None` until the broker has reported it.
    pub(super) epoch: Option<Epoch>,
    /// Everything up to here is in the rings.
    pub(super) last: Key,
    /// The last number that this node assigned to something that is not in the log.
    pub(super) number: u64,
}

impl Fanout {
    pub(super) fn new(config: HubConfig) -> Self {
        Self {
            table: ChannelTable::new(),
            registry: Registry::default(),
            pressure: Backpressure::default(),
            config,
            stats: Stats::default(),
            node: Epoch::random(),
            log: Mutex::default(),
        }
    }

    fn lock_log(&self) -> MutexGuard<'_, LogState> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn log(&self) -> LogState {
        *self.lock_log()
    }

    /// A new key after every event delivered so far, for a channel that the node starts to receive.
    /// It is unique because even a stream with the newest event of all has not seen what was
    /// published while the channel was not received.
    pub(super) fn next_joined(&self) -> Key {
        let mut log = self.lock_log();
        log.number += 1;
        Key { offset: log.last.offset, number: log.number }
    }

    /// Whether a channel is known to have had ephemeral events.
    pub(super) fn has_ephemeral(&self, channel: &Channel) -> bool {
        self.table.with(channel, |entry| entry.ring.has_ephemeral()).unwrap_or(false)
    }

    /// Drops recent frames that are older than rings retain.
    pub(super) fn expire_rings(&self) {
        let now_ms = now_ms();
        self.table.each(|_, entry| entry.ring.expire(now_ms));
    }

    /// Starts a new epoch after the log lost its data: every stream receives a gap event.
    fn reset(&self, epoch: Epoch, last: u64) {
        tracing::warn!(%epoch, "log reset, new epoch: sending gap events");
        self.table.each(|channel, entry| {
            entry.ring.reset(Key { offset: last, number: 0 });
            let gap = Gap { channel: channel.clone(), reason: GapReason::Epoch };
            entry.deliver(&Frame::of_gap(gap, None));
            (0..entry.count()).for_each(|_| self.stats.gap(GapReason::Epoch));
        });
        // Clients move to the new epoch only now. A client that is disconnected before this has
        // only some of the gap events of its channels, and receives all of them when it resumes.
        let marker = Frame::marker(Position::new(epoch, last));
        self.table.each(|_, entry| entry.queues().for_each(|queue| queue.push(&marker, false)));
        for mailbox in self.pressure.shards() {
            // A shard that is gone has no streams to deliver to.
            let _ = mailbox.push(Message::DeliverToAll(marker.clone()));
        }
    }

    /// Records that everything up to a key is in the rings. This happens before delivery: a client
    /// that has the event and reconnects at once must find it in the rings, and must not receive it
    /// again as a live event.
    fn advance_log(&self, key: Key) {
        let mut log = self.lock_log();
        log.last = log.last.max(key);
    }

    /// Delivers an ephemeral event or a gap event, which is ordered between two events of the log.
    fn deliver_between(&self, channel: &Channel, frame: &Frame, key: Option<Key>) {
        let delivered = self.table.with(channel, |entry| {
            if let Some(key) = key {
                entry.ring.push_ephemeral(key, frame.clone());
                self.advance_log(key);
            }
            entry.deliver(frame);
        });
        if let (None, Some(key)) = (delivered, key) {
            self.advance_log(key);
        }
    }

    /// The next position of this node, for an event that is not in the log; `None` until the log is
    /// known.
    fn next_local(&self) -> Option<Position> {
        let mut log = self.lock_log();
        let epoch = log.epoch?;
        log.number += 1;
        Some(Position::ephemeral(epoch, log.last.offset, self.node, log.number))
    }
}

impl Inlet for Fanout {
    /// Sets the log's epoch and last offset. A new epoch means that the log lost its data.
    fn set_log(&self, epoch: Epoch, last: u64) {
        let before = {
            let mut log = self.lock_log();
            let before = log.epoch.replace(epoch);
            let now = Key { offset: last, number: log.number };
            log.last = if before == Some(epoch) { log.last.max(now) } else { now };
            before
        };
        if before.is_some_and(|before| before != epoch) {
            self.reset(epoch, last);
        }
    }

    fn set_baseline(&self, channel: &Channel, baseline: Baseline) {
        self.table.with(channel, |entry| {
            entry.ring.set_baseline(baseline, || self.next_joined());
        });
    }

    /// Delivers an event of the log. Never waits: a stream whose queue is full is closed.
    fn deliver(&self, channel: &Channel, frame: &Frame, previous: u64) {
        self.stats.received.add(1);
        let Some(key) = frame.key() else { return };
        let delivered = self.table.with(channel, |entry| {
            entry.ring.push(key, frame.clone(), previous);
            self.advance_log(key);
            entry.deliver(frame);
        });
        if delivered.is_none() {
            self.advance_log(key);
        }
    }

    fn deliver_ephemeral(&self, channel: &Channel, event: &Event) {
        self.stats.received.add(1);
        let position = self.next_local();
        let published = Published { position, time_ms: now_ms(), end: false };
        let frame = Frame::of_channel(channel, event, published);
        self.deliver_between(channel, &frame, frame.key());
    }

    fn deliver_gap(&self, channel: &Channel, reason: GapReason) {
        let gap = Gap { channel: channel.clone(), reason };
        let position = self.next_local();
        let frame = Frame::of_gap(gap, position);
        self.deliver_between(channel, &frame, position.map(Position::key));
        let subscribers = self.table.subscribers(channel);
        (0..subscribers).for_each(|_| self.stats.gap(reason));
    }

    /// Closes the streams of this node that a revocation names.
    fn revoke(&self, revocation: &Revocation) {
        match revocation {
            Revocation::Channel(channel) => {
                self.table.with(channel, |entry| entry.revoke());
            }
            other => self.registry.revoke(other, |id| {
                let (node, number) = id.rsplit_once('-')?;
                number.parse().ok().filter(|_| node == self.node.to_string())
            }),
        }
    }

    fn count_sanitized(&self) {
        self.stats.sanitized.add(1);
    }

    fn count_rejected(&self) {
        self.stats.rejected.add(1);
    }
}
