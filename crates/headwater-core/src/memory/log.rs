//! The log of the embedded broker: one sequence of events for all channels. Look here for
//! appending, reading and forgetting. Its only I/O is the store, if it has one.

use std::collections::HashMap;
use std::path::Path;

use super::channel_log::{ChannelLog, whole_ms};
use super::restore::{Restore, RestoredKey};
use crate::broker::{Baseline, History, ReadRange};
use crate::channel::Channel;
use crate::error::{Error, ErrorKind};
use crate::event::EventId;
use crate::frame::{Frame, Published};
use crate::limits::{IDEMPOTENCY_WINDOW, REPLAY_BYTES_MAX};
use crate::log::{Epoch, Position, RetentionRules};
use crate::memory::store::{Done, KnownChannel, KnownChannels, Record, Store, Upkeep};
use crate::publish::{IdempotencyKey, Publish, Receipt};

/// How often all channels and keys are searched for expired ones.
const SWEEP_INTERVAL_MS: u64 = 10_000;

/// How often the store may delete segments that no channel needs. Each deletion writes the list of
/// known channels without a record left: a million of them are about 50 MiB.
const FORGET_INTERVAL_MS: u64 = 60_000;

pub(super) struct Log {
    epoch: Epoch,
    last: u64,
    rules: RetentionRules,
    channels: HashMap<Channel, ChannelLog>,
    /// Receipts of publishes with a key, until their window ends.
    keys: HashMap<(Channel, IdempotencyKey), (u64, Receipt)>,
    swept_at_ms: u64,
    forgot_at_ms: u64,
    /// Stores the log beyond the life of the process.
    store: Option<Store>,
    /// An unknown channel may have had events up to this offset.
    forgotten_to: u64,
}

/// The outcome of one publish of a batch.
enum Planned {
    /// A new record, at this index of the batch's records.
    New(usize),
    /// A repeated key: the receipt of the first publish.
    Repeated(Receipt),
}

impl Log {
    pub(super) fn new(rules: RetentionRules) -> Self {
        Self {
            epoch: Epoch::random(),
            last: 0,
            rules,
            channels: HashMap::new(),
            keys: HashMap::new(),
            swept_at_ms: 0,
            forgot_at_ms: 0,
            store: None,
            forgotten_to: 0,
        }
    }

    /// Opens the log in a directory, which stores it from now on.
    pub(super) fn open(
        rules: RetentionRules,
        directory: &Path,
        now_ms: u64,
    ) -> Result<Self, Error> {
        let mut log = Self::new(rules);
        let mut restore = Restore::default();
        let keys_since_ms = now_ms.saturating_sub(whole_ms(IDEMPOTENCY_WINDOW));
        let mut each = |record| restore.add(record, &log.rules, keys_since_ms);
        let (store, recovered) = Store::open_each(directory, &mut each)?;
        let epoch = Epoch::from_bits(recovered.epoch);
        log.epoch = epoch.ok_or_else(|| Error::invalid("the epoch in the directory is invalid"))?;
        log.last = recovered.last_offset;
        log.forgotten_to = recovered.forgotten_to;
        for known in recovered.channels {
            log.restore_channel(known, now_ms);
        }
        for key in restore.keys {
            log.restore_key(key);
        }
        for record in restore.channels.into_values().flatten() {
            log.restore(record, now_ms);
        }
        log.store = Some(store);
        let (directory, last) = (directory.display(), log.last);
        tracing::info!(%directory, records = restore.count, last, "log loaded");
        Ok(log)
    }

    /// Restores a channel whose records may be deleted. Records that are left take precedence.
    fn restore_channel(&mut self, known: KnownChannel, now_ms: u64) {
        let KnownChannel { channel, last, time_ms, ended } = known;
        let log = ChannelLog { last, ended, published_at_ms: time_ms, ..ChannelLog::default() };
        if log.is_known(self.rules.for_channel(&channel), now_ms) {
            self.channels.insert(channel, log);
        } else {
            self.forgotten_to = self.forgotten_to.max(last);
        }
    }

    fn restore_key(&mut self, restored: RestoredKey) {
        let RestoredKey { channel, key, id, offset, time_ms } = restored;
        let position = Position::new(self.epoch, offset);
        let id = id.or_else(|| EventId::new(position.to_string()).ok());
        let receipt = Receipt { channel, id, position: Some(position) };
        self.remember_key(key, &receipt, time_ms);
    }

    fn restore(&mut self, record: Record, now_ms: u64) {
        let Record { offset, prev, time_ms, end, channel, event, key } = record;
        let position = Position::new(self.epoch, offset);
        let published = Published { position: Some(position), time_ms, end };
        let frame = Frame::of_channel(&channel, &event, published);
        let key = key.and_then(|key| IdempotencyKey::new(key).ok());
        let receipt = Receipt::new(channel, &event, Some(position));
        self.remember(&frame, prev, key, &receipt, time_ms, now_ms);
    }

    /// Collects the work to do on disk; `None` if there is none. It runs without the log's lock,
    /// one at a time, and its result is passed to [`end_upkeep`](Self::end_upkeep).
    pub(super) fn begin_upkeep(&mut self, now_ms: u64) -> Option<Upkeep> {
        self.sweep(now_ms);
        let is_due = now_ms >= self.forgot_at_ms + FORGET_INTERVAL_MS;
        let forget_before = if is_due { self.oldest_needed() } else { 0 };
        let store = self.store.as_mut()?;
        if is_due {
            self.forgot_at_ms = now_ms;
        }
        let (channels, forgotten_to) = (&self.channels, self.forgotten_to);
        let known = |covers_to| known_channels(channels, covers_to, forgotten_to);
        Some(store.begin_upkeep(forget_before, known)).filter(|work| !work.is_empty())
    }

    /// Records the result of an upkeep. The next one retries what failed.
    pub(super) fn end_upkeep(&mut self, done: Done) {
        let Some(store) = &mut self.store else { return };
        let (synced, forgotten) = store.end_upkeep(done);
        if let Err(error) = synced {
            tracing::error!(%error, "log not synced to disk, retrying");
        }
        if let Err(error) = forgotten {
            tracing::error!(%error, "old log segments not deleted, retrying");
        }
    }

    /// The lowest offset that is still needed on disk: of a retained event, or of an event whose
    /// idempotency key is still remembered.
    fn oldest_needed(&self) -> u64 {
        let events = self.channels.values().filter_map(ChannelLog::oldest);
        let keys = self.keys.values().filter_map(|(_, receipt)| receipt.position);
        events.chain(keys.map(Position::offset)).min().unwrap_or(self.last + 1)
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn baseline(&self, channel: &Channel) -> Baseline {
        match self.channels.get(channel) {
            Some(log) => Baseline { last: log.last, ended: log.ended, ephemeral: false },
            // It may have had events that are forgotten.
            None => Baseline { last: self.forgotten_to, ended: false, ephemeral: false },
        }
    }

    /// Appends events and calls `deliver` for each new one, in order, with the offset of the
    /// channel's previous event.
    ///
    /// # Errors
    /// If the batch is rejected as a whole, or if the store fails; nothing was appended then.
    pub(super) fn append(
        &mut self,
        batch: Vec<Publish>,
        now_ms: u64,
        mut deliver: impl FnMut(&Channel, &Frame, u64),
    ) -> Result<Vec<Receipt>, Error> {
        self.sweep(now_ms);
        self.check_open(&batch, now_ms)?;
        let mut records: Vec<Record> = Vec::with_capacity(batch.len());
        let planned: Vec<Planned> =
            batch.into_iter().map(|publish| self.plan(publish, &mut records, now_ms)).collect();
        if let Some(store) = &mut self.store {
            // First, so that nothing that was acknowledged or delivered is ever taken back.
            store.append(&records)?;
        }
        let mut receipts = Vec::with_capacity(records.len());
        for record in records {
            self.last = record.offset;
            let position = Position::new(self.epoch, record.offset);
            let published =
                Published { position: Some(position), time_ms: now_ms, end: record.end };
            let frame = Frame::of_channel(&record.channel, &record.event, published);
            let receipt = Receipt::new(record.channel, &record.event, Some(position));
            let key = record.key.and_then(|key| IdempotencyKey::new(key).ok());
            self.remember(&frame, record.prev, key, &receipt, now_ms, now_ms);
            deliver(&receipt.channel, &frame, record.prev);
            receipts.push(receipt);
        }
        let receipts = planned.into_iter().map(|planned| match planned {
            Planned::New(at) => receipts[at].clone(),
            Planned::Repeated(receipt) => receipt,
        });
        Ok(receipts.collect())
    }

    /// Plans one publish: adds a new record, or finds the receipt of an earlier publish with its
    /// key.
    fn plan(&self, publish: Publish, records: &mut Vec<Record>, now_ms: u64) -> Planned {
        if let Some(first) = self.repeated(&publish, now_ms) {
            return Planned::Repeated(first.clone());
        }
        let Publish { channel, event, end, key } = publish;
        let key = key.map(|key| key.as_str().to_owned());
        let same = |record: &Record| record.channel == channel && record.key == key;
        if key.is_some()
            && let Some(at) = records.iter().position(same)
        {
            return Planned::New(at);
        }
        let earlier = records.iter().rev().find(|record| record.channel == channel);
        let known = || self.channels.get(&channel).map_or(self.forgotten_to, |log| log.last);
        let prev = earlier.map_or_else(known, |record| record.offset);
        let offset = self.last + records.len() as u64 + 1;
        records.push(Record { offset, prev, time_ms: now_ms, end, channel, event, key });
        Planned::New(records.len() - 1)
    }

    /// Adds an event to its channel's history.
    fn remember(
        &mut self,
        frame: &Frame,
        previous: u64,
        key: Option<IdempotencyKey>,
        receipt: &Receipt,
        time_ms: u64,
        now_ms: u64,
    ) {
        let retention = self.rules.for_channel(&receipt.channel);
        let log = self.channels.entry(receipt.channel.clone()).or_default();
        let offset = receipt.position.map_or(log.last, Position::offset);
        // A restored channel can be known from a later event that is lost on disk.
        if offset >= log.last {
            log.last = offset;
            log.ended = frame.is_end();
            log.published_at_ms = time_ms;
        }
        if let Some(retention) = retention {
            log.bytes += frame.len();
            log.entries.push_back((previous, frame.clone()));
            log.trim(&retention, now_ms);
        }
        if let Some(key) = key {
            self.remember_key(key, receipt, time_ms);
        }
    }

    fn remember_key(&mut self, key: IdempotencyKey, receipt: &Receipt, time_ms: u64) {
        let until_ms = time_ms.saturating_add(whole_ms(IDEMPOTENCY_WINDOW));
        self.keys.insert((receipt.channel.clone(), key), (until_ms, receipt.clone()));
    }

    /// Rejects the whole batch if one of its channels has ended, earlier or within the batch, or if
    /// it ends a channel without retention.
    fn check_open(&self, batch: &[Publish], now_ms: u64) -> Result<(), Error> {
        for (at, publish) in batch.iter().enumerate() {
            let is_same = |earlier: &Publish| {
                publish.key.is_some()
                    && earlier.key == publish.key
                    && earlier.channel == publish.channel
            };
            if self.repeated(publish, now_ms).is_some() || batch[..at].iter().any(is_same) {
                continue;
            }
            if publish.end && self.rules.for_channel(&publish.channel).is_none() {
                return Err(Error::invalid(format!(
                    "retention is off for channel {}, so its end cannot be recorded: leave out end, \
                     or change the retention rules",
                    publish.channel
                )));
            }
            let ended_before = self.channels.get(&publish.channel).is_some_and(|log| log.ended);
            let ended_by_it = |earlier: &Publish| earlier.end && earlier.channel == publish.channel;
            if ended_before || batch[..at].iter().any(ended_by_it) {
                return Err(Error::new(
                    ErrorKind::Ended,
                    format!(
                        "channel {} was ended by its publisher: publish to another channel",
                        publish.channel
                    ),
                ));
            }
        }
        Ok(())
    }

    fn repeated(&self, publish: &Publish, now_ms: u64) -> Option<&Receipt> {
        let key = (publish.channel.clone(), publish.key.clone()?);
        let (until_ms, receipt) = self.keys.get(&key)?;
        (*until_ms > now_ms).then_some(receipt)
    }

    pub(super) fn read(&mut self, channel: &Channel, range: ReadRange, now_ms: u64) -> History {
        let log_last = self.last;
        let retention = self.rules.for_channel(channel);
        let (Some(log), Some(retention)) = (self.channels.get_mut(channel), retention) else {
            return History::new(log_last);
        };
        log.trim(&retention, now_ms);
        let (from, count) = match range {
            ReadRange::After { offset, count } => (log.index_after(offset), count),
            ReadRange::Newest { count } => (log.entries.len().saturating_sub(count), count),
            ReadRange::Before { offset, count } => {
                let until = log.index_after(offset.saturating_sub(1));
                let from = until.saturating_sub(count);
                (from, until - from)
            }
        };
        let previous = log.entries.get(from).map_or(0, |(previous, _)| *previous);
        let mut bytes = 0;
        let is_paged = matches!(range, ReadRange::After { .. });
        let frames = log.entries.range(from..).take(count).map(|(_, frame)| frame.clone());
        // A page has at least one event, however large.
        let frames = frames.take_while(|frame| {
            let first = bytes == 0;
            bytes += frame.len();
            first || !is_paged || bytes <= REPLAY_BYTES_MAX
        });
        History { frames: frames.collect(), previous, log_last }
    }

    fn sweep(&mut self, now_ms: u64) {
        if now_ms < self.swept_at_ms + SWEEP_INTERVAL_MS {
            return;
        }
        self.swept_at_ms = now_ms;
        self.keys.retain(|_, (until_ms, _)| *until_ms > now_ms);
        let rules = &self.rules;
        let forgotten_to = &mut self.forgotten_to;
        self.channels.retain(|channel, log| {
            let retention = rules.for_channel(channel);
            if let Some(retention) = &retention {
                log.trim(retention, now_ms);
            }
            let is_known = log.is_known(retention, now_ms);
            if !is_known {
                *forgotten_to = log.last.max(*forgotten_to);
            }
            is_known
        });
    }
}

/// The channels that have no event above an offset, for the store.
fn known_channels(
    channels: &HashMap<Channel, ChannelLog>,
    covers_to: u64,
    forgotten_to: u64,
) -> KnownChannels {
    let is_covered = |(_, log): &(&Channel, &ChannelLog)| log.last <= covers_to;
    let known = |(channel, log): (&Channel, &ChannelLog)| {
        let (last, time_ms, ended) = (log.last, log.published_at_ms, log.ended);
        KnownChannel { channel: channel.clone(), last, time_ms, ended }
    };
    let channels = channels.iter().filter(is_covered).map(known).collect();
    KnownChannels { covers_to, forgotten_to, channels }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    fn channel(name: &str) -> Channel {
        Channel::new(name).unwrap()
    }

    fn publish(name: &str, data: &str) -> Publish {
        Publish::to(channel(name), Event::new(data))
    }

    fn log(rule: &str) -> Log {
        Log::new(RetentionRules::new().with_rule(rule).unwrap())
    }

    fn append(log: &mut Log, publish: Publish, now_ms: u64) -> u64 {
        let receipts = log.append(vec![publish], now_ms, |_, _, _| {}).unwrap();
        receipts[0].position.unwrap().offset()
    }

    fn offsets(history: &History) -> Vec<u64> {
        history.frames.iter().map(|frame| frame.key().unwrap().offset).collect()
    }

    #[test]
    fn all_channels_share_one_sequence() {
        let mut log = log("* events=1000");
        let mut delivered = Vec::new();
        let batch = ["a", "b", "a", "b", "b"].map(|name| publish(name, "x")).into();
        log.append(batch, 0, |channel, frame, previous| {
            delivered.push((channel.to_string(), frame.key().unwrap().offset, previous));
        })
        .unwrap();
        let expected = [("a", 1, 0), ("b", 2, 0), ("a", 3, 1), ("b", 4, 2), ("b", 5, 4)];
        let expected = expected.map(|(name, offset, previous)| (name.to_owned(), offset, previous));
        assert_eq!(delivered, expected);
        let after = log.read(&channel("b"), ReadRange::After { offset: 2, count: 9 }, 0);
        assert_eq!((offsets(&after), after.previous, after.log_last), (vec![4, 5], 2, 5));
        let newest = log.read(&channel("b"), ReadRange::Newest { count: 1 }, 0);
        assert_eq!((offsets(&newest), newest.previous), (vec![5], 4));
    }

    #[test]
    fn history_is_trimmed_by_events_bytes_and_age_and_last_offsets_are_remembered() {
        let mut log = log("* events=3 age=10s bytes=1KiB");
        for _ in 0..5 {
            append(&mut log, publish("a", "x"), 1000);
        }
        let all = ReadRange::After { offset: 0, count: 99 };
        let history = log.read(&channel("a"), all, 1000);
        assert_eq!((offsets(&history), history.previous), (vec![3, 4, 5], 2));
        append(&mut log, publish("a", &"x".repeat(900)), 2000);
        assert_eq!(offsets(&log.read(&channel("a"), all, 2000)).last(), Some(&6));
        append(&mut log, publish("a", &"x".repeat(900)), 2000);
        assert_eq!(offsets(&log.read(&channel("a"), all, 2000)), [7]);
        append(&mut log, publish("a", &"x".repeat(9000)), 2000);
        assert_eq!(
            offsets(&log.read(&channel("a"), all, 2000)),
            [8],
            "the newest event is retained"
        );
        assert_eq!(
            offsets(&log.read(&channel("a"), all, 12_001)),
            [0; 0],
            "but only up to its age"
        );
        assert_eq!(log.baseline(&channel("a")).last, 8);
        append(&mut log, publish("b", "x"), 13_000 + 2 * 86_400_000);
        assert_eq!(log.baseline(&channel("a")).last, 8, "it may have had events up to this offset");
        append(&mut log, publish("a", "x"), 13_000 + 2 * 86_400_000);
        let history = log.read(&channel("a"), all, 13_000 + 2 * 86_400_000);
        assert_eq!((offsets(&history), history.previous), (vec![10], 8));
    }

    #[test]
    fn a_key_publishes_once_within_its_window() {
        let mut log = log("* events=1000");
        let keyed = |name: &str| publish(name, "x").with_key(IdempotencyKey::new("k").unwrap());
        assert_eq!(append(&mut log, keyed("a"), 0), 1);
        assert_eq!(append(&mut log, keyed("a"), 599_999), 1);
        assert_eq!(append(&mut log, keyed("b"), 599_999), 2);
        assert_eq!(append(&mut log, keyed("a"), 600_001), 3);
    }

    #[test]
    fn an_ended_channel_accepts_no_more_events() {
        let mut log = log("* events=1000");
        let end = publish("a", "last").with_end(true).with_key(IdempotencyKey::new("k").unwrap());
        append(&mut log, end.clone(), 0);
        assert!(log.baseline(&channel("a")).ended);
        let rejected = log.append(vec![publish("b", "x"), publish("a", "x")], 0, |_, _, _| {});
        assert_eq!(rejected.unwrap_err().kind(), ErrorKind::Ended);
        assert_eq!(log.last(), 1, "nothing of the batch was published");
        assert_eq!(append(&mut log, end, 0), 1, "a repeated end publishes nothing");
        let twice = vec![publish("c", "x").with_end(true), publish("c", "x")];
        assert!(log.append(twice, 0, |_, _, _| {}).is_err());
        let end = publish("d", "x").with_end(true).with_key(IdempotencyKey::new("k").unwrap());
        let receipts = log.append(vec![end.clone(), end], 0, |_, _, _| {}).unwrap();
        assert_eq!(receipts[0], receipts[1], "repeated in one batch");
        assert_eq!(log.last(), 2);
    }

    #[test]
    fn without_retention_events_have_positions_and_no_history() {
        let mut log = log("* off");
        append(&mut log, publish("a", "x"), 0);
        append(&mut log, publish("a", "x"), 0);
        let history = log.read(&channel("a"), ReadRange::After { offset: 0, count: 9 }, 0);
        assert_eq!((offsets(&history), history.log_last), (vec![], 2));
        assert_eq!(log.baseline(&channel("a")).last, 2);
    }
}
