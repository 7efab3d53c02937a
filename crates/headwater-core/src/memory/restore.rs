//! What the embedded broker restores from a directory. Look here for which of its records stay in
//! memory while the store is read.

use std::collections::{HashMap, VecDeque};

use crate::channel::Channel;
use crate::event::EventId;
use crate::log::RetentionRules;
use crate::memory::store::Record;
use crate::publish::PublisherKey;

/// The records of a directory while they are read. Of each channel, it holds at most as many as the
/// rules retain.
pub(super) struct Restore {
    pub(super) channels: HashMap<Channel, VecDeque<Record>>,
    /// The keys of records that the rules do not retain, oldest first.
    pub(super) keys: Vec<RestoredKey>,
    pub(super) count: u64,
    /// The channel of each record, oldest first.
    order: VecDeque<Channel>,
    /// What the records cost, and may cost.
    bytes: usize,
    bytes_max: usize,
}

/// What a record costs besides its data, about.
const RECORD_OVERHEAD_BYTES: usize = 400;

/// An idempotency key, and the parts of the receipt that its first publisher got.
pub(super) struct RestoredKey {
    pub(super) channel: Channel,
    pub(super) key: PublisherKey,
    /// The id that the publisher set.
    pub(super) id: Option<EventId>,
    pub(super) offset: u64,
    pub(super) time_ms: u64,
}

impl Restore {
    pub(super) fn new(bytes_max: usize) -> Self {
        let (channels, keys, order) = (HashMap::new(), Vec::new(), VecDeque::new());
        Self { channels, keys, count: 0, order, bytes: 0, bytes_max }
    }

    /// Adds a record. Keys of records published at or before `keys_since_ms` have expired.
    pub(super) fn add(&mut self, record: Record, rules: &RetentionRules, keys_since_ms: u64) {
        self.count += 1;
        let events_max = rules.for_channel(&record.channel).map_or(1, |retention| retention.events);
        let records = self.channels.entry(record.channel.clone()).or_default();
        let is_full = records.len() >= events_max;
        let channel = record.channel.clone();
        self.bytes += cost(&record);
        records.push_back(record);
        if is_full {
            self.drop_oldest(&channel, keys_since_ms);
        } else {
            self.order.push_back(channel);
        }
        while self.bytes > self.bytes_max
            && let Some(channel) = self.order.pop_front()
        {
            self.drop_oldest(&channel, keys_since_ms);
        }
    }

    fn drop_oldest(&mut self, channel: &Channel, keys_since_ms: u64) {
        let dropped = self.channels.get_mut(channel).and_then(VecDeque::pop_front);
        let Some(dropped) = dropped else { return };
        self.bytes -= cost(&dropped);
        if dropped.time_ms > keys_since_ms {
            self.keys.extend(RestoredKey::of(&dropped));
        }
    }
}

impl RestoredKey {
    pub(super) fn of(record: &Record) -> Option<Self> {
        let Record { channel, event, offset, time_ms, key, .. } = record;
        let key = PublisherKey::from_text(key.as_deref()?)?;
        let (channel, id) = (channel.clone(), event.id().cloned());
        Some(Self { channel, key, id, offset: *offset, time_ms: *time_ms })
    }
}

fn cost(record: &Record) -> usize {
    RECORD_OVERHEAD_BYTES + record.event.data().len()
}
