//! What the embedded broker restores from a directory. Look here for which of its records stay in
//! memory while the store is read.

use std::collections::{HashMap, VecDeque};

use crate::channel::Channel;
use crate::event::EventId;
use crate::log::RetentionRules;
use crate::memory::store::Record;
use crate::publish::IdempotencyKey;

/// The records of a directory while they are read. Of each channel, it holds at most as many as the
/// rules retain.
#[derive(Default)]
pub(super) struct Restore {
    pub(super) channels: HashMap<Channel, VecDeque<Record>>,
    /// The keys of records that the rules do not retain, oldest first.
    pub(super) keys: Vec<RestoredKey>,
    pub(super) count: u64,
}

/// An idempotency key, and the parts of the receipt that its first publisher got.
pub(super) struct RestoredKey {
    pub(super) channel: Channel,
    pub(super) key: IdempotencyKey,
    /// The id that the publisher set.
    pub(super) id: Option<EventId>,
    pub(super) offset: u64,
    pub(super) time_ms: u64,
}

impl Restore {
    /// Adds a record. Keys of records published at or before `keys_since_ms` have expired.
    pub(super) fn add(&mut self, record: Record, rules: &RetentionRules, keys_since_ms: u64) {
        self.count += 1;
        let events_max = rules.for_channel(&record.channel).map_or(1, |retention| retention.events);
        let records = self.channels.entry(record.channel.clone()).or_default();
        records.push_back(record);
        if records.len() > events_max
            && let Some(dropped) = records.pop_front()
            && dropped.time_ms > keys_since_ms
        {
            self.keys.extend(RestoredKey::of(dropped));
        }
    }
}

impl RestoredKey {
    fn of(record: Record) -> Option<Self> {
        let Record { channel, event, offset, time_ms, key, .. } = record;
        let key = IdempotencyKey::new(key?).ok()?;
        Some(Self { channel, key, id: event.id().cloned(), offset, time_ms })
    }
}
