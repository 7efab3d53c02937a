//! The log of the embedded broker: one sequence over all channels, and a bounded history of each.
//! Look here for the order of events, idempotency keys, and when a channel is forgotten. Its only
//! IO is the store, if it has one.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::history::{ChannelHistory, whole_ms};
use super::restore::{Restore, RestoredKey};
use crate::broker::{Baseline, History, Part, ReadRange};
use crate::channel::Channel;
use crate::error::{Error, ErrorKind};
use crate::event::EventId;
use crate::frame::{Frame, Published};
use crate::limits::IDEMPOTENCY_WINDOW;
use crate::log::{Epoch, Position, RetentionRules};
use crate::memory::store::{Done, KnownChannel, KnownChannels, Record, Store, Upkeep};
use crate::publish::{IdempotencyKey, Publish, Receipt};

/// How often all channels and keys are checked for expiry.
const SWEEP_INTERVAL_MS: u64 = 10_000;

/// How often the store may delete records that are no longer needed. Each time it writes a list of
/// all known channels without records: about 50 MiB for a million channels.
const FORGET_INTERVAL_MS: u64 = 60_000;

pub(super) struct Log {
    epoch: Epoch,
    last: u64,
    rules: RetentionRules,
    channels: HashMap<Channel, ChannelHistory>,
    /// The receipts of events with an idempotency key, and when each key expires, in milliseconds
    /// since 1970.
    keys: HashMap<(Channel, IdempotencyKey), (u64, Receipt)>,
    swept_at_ms: u64,
    forgot_at_ms: u64,
    /// Stores the log beyond the lifetime of the process.
    store: Option<Store>,
    /// Why the store does not accept events; `None` if the last attempt succeeded.
    not_stored: Option<Arc<str>>,
    /// Why the store cannot sync what it has accepted.
    not_synced: Option<Arc<str>>,
    /// Events up to this offset may have been forgotten, of channels that are not in `channels`.
    forgotten_to: u64,
}

/// The outcome that a batch has for one of its events.
enum Planned {
    /// The event is the new record at this index.
    New(usize),
    /// The event's key was used before, for the event with this receipt.
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
            not_stored: None,
            not_synced: None,
            forgotten_to: 0,
        }
    }

    /// Restores the log from a directory, which stores it from now on.
    pub(super) fn open(
        rules: RetentionRules,
        directory: &Path,
        now_ms: u64,
    ) -> Result<Self, Error> {
        let mut log = Self::new(rules);
        let mut restoring = Restore::default();
        let keys_since_ms = now_ms.saturating_sub(whole_ms(IDEMPOTENCY_WINDOW));
        let mut add = |record| restoring.add(record, &log.rules, keys_since_ms);
        let (store, recovered) = Store::open_each(directory, &mut add)?;
        let epoch = Epoch::from_bits(recovered.epoch);
        log.epoch = epoch.ok_or_else(|| Error::invalid("the epoch of the store is invalid"))?;
        log.last = recovered.last_offset;
        log.forgotten_to = recovered.forgotten_to;
        for known in recovered.channels {
            log.restore_channel(known, now_ms);
        }
        for key in restoring.keys {
            log.restore_key(key);
        }
        for record in restoring.channels.into_values().flatten() {
            log.restore(record, now_ms);
        }
        log.store = Some(store);
        let (directory, last) = (directory.display(), log.last);
        tracing::info!(%directory, records = restoring.count, last, "log restored");
        Ok(log)
    }

    /// Restores a channel from the list of channels without records. Records that are still there
    /// are restored later and take precedence.
    fn restore_channel(&mut self, known: KnownChannel, now_ms: u64) {
        let KnownChannel { channel, last, time_ms, ended } = known;
        let history = ChannelHistory::without_events(last, ended, time_ms);
        if history.is_known(self.rules.for_channel(&channel), now_ms) {
            self.channels.insert(channel, history);
        } else {
            self.forgotten_to = self.forgotten_to.max(last);
        }
    }

    fn restore_key(&mut self, restored: RestoredKey) {
        let RestoredKey { channel, key, id, offset, time_ms } = restored;
        let position = Position::new(self.epoch, offset);
        let id = id.or_else(|| EventId::assigned(&position.to_string()).ok());
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

    /// Collects the pending disk work. The caller runs it without the log's lock, one at a time,
    /// and passes the outcome to [`end_upkeep`](Self::end_upkeep).
    pub(super) fn begin_upkeep(&mut self, now_ms: u64) -> Option<Upkeep> {
        self.sweep(now_ms);
        let is_due = now_ms >= self.forgot_at_ms + FORGET_INTERVAL_MS;
        let forget_before = if is_due { self.oldest_needed() } else { 0 };
        let store = self.store.as_mut()?;
        if self.not_stored.is_some() {
            self.not_stored = store.try_again().err().map(|error| error.to_string().into());
        }
        if is_due {
            self.forgot_at_ms = now_ms;
        }
        let (channels, forgotten_to) = (&self.channels, self.forgotten_to);
        let known = |covers_to| known_channels(channels, covers_to, forgotten_to);
        Some(store.begin_upkeep(forget_before, known)).filter(|work| !work.is_empty())
    }

    /// Records the outcome of the disk work. A later upkeep retries what failed.
    pub(super) fn end_upkeep(&mut self, done: Done) {
        let Some(store) = &mut self.store else { return };
        let (synced, forgotten) = store.end_upkeep(done);
        if let Err(error) = &synced {
            tracing::error!("log not synced to disk, retrying: {error}");
        }
        self.not_synced = synced.err().map(|error| error.to_string().into());
        if let Err(error) = forgotten {
            tracing::error!("old log segments not deleted, retrying: {error}");
        }
    }

    /// The lowest offset still needed on disk: of a retained event, or of an event whose
    /// idempotency key has not expired.
    fn oldest_needed(&self) -> u64 {
        let events = self.channels.values().filter_map(ChannelHistory::oldest);
        let keys = self.keys.values().filter_map(|(_, receipt)| receipt.position);
        events.chain(keys.map(Position::offset)).min().unwrap_or(self.last + 1)
    }

    /// Whether events that are published are stored.
    pub(super) fn keeps(&self) -> Part {
        match self.not_stored.as_ref().or(self.not_synced.as_ref()) {
            Some(reason) => Part::failed(Arc::clone(reason)),
            None => Part::ok(),
        }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn baseline(&self, channel: &Channel) -> Baseline {
        match self.channels.get(channel) {
            Some(history) => Baseline::new(history.last()).with_end(history.is_ended()),
            // The channel may have had events that were forgotten.
            None => Baseline::forgotten(self.forgotten_to),
        }
    }

    /// Appends a batch and calls `deliver` for each new event, in order. The batch is appended as a
    /// whole or not at all.
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
            // Before delivery, so that no event that was acknowledged or delivered is lost in a
            // crash.
            match store.append(&records) {
                Ok(()) if records.is_empty() => {}
                Ok(()) => self.not_stored = None,
                Err(error) => {
                    if error.kind() == ErrorKind::Unavailable {
                        self.not_stored = Some(error.to_string().into());
                    }
                    return Err(error);
                }
            }
        }
        let mut receipts = Vec::with_capacity(records.len());
        for record in records {
            // Subscribers know that no event came before; clients that reconnect later do not.
            let is_known = self.channels.contains_key(&record.channel);
            let previous = if is_known { record.prev } else { 0 };
            self.last = record.offset;
            let position = Position::new(self.epoch, record.offset);
            let published =
                Published { position: Some(position), time_ms: now_ms, end: record.end };
            let frame = Frame::of_channel(&record.channel, &record.event, published);
            let receipt = Receipt::new(record.channel, &record.event, Some(position));
            let key = record.key.and_then(|key| IdempotencyKey::new(key).ok());
            self.remember(&frame, record.prev, key, &receipt, now_ms, now_ms);
            deliver(&receipt.channel, &frame, previous);
            receipts.push(receipt);
        }
        let planned = planned.into_iter().map(|planned| match planned {
            Planned::New(index) => receipts[index].clone(),
            Planned::Repeated(receipt) => receipt,
        });
        Ok(planned.collect())
    }

    /// Decides the outcome of one event, and pushes its record if it is new.
    fn plan(&self, publish: Publish, records: &mut Vec<Record>, now_ms: u64) -> Planned {
        if let Some(first) = self.repeated(&publish, now_ms) {
            return Planned::Repeated(first.clone());
        }
        let Publish { channel, event, end, key } = publish;
        let key = key.map(|key| key.as_str().to_owned());
        let same = |record: &Record| record.channel == channel && record.key == key;
        if key.is_some()
            && let Some(index) = records.iter().position(same)
        {
            return Planned::New(index);
        }
        let earlier = records.iter().rev().find(|record| record.channel == channel);
        let known = || self.channels.get(&channel).map_or(self.forgotten_to, ChannelHistory::last);
        let prev = earlier.map_or_else(known, |record| record.offset);
        let offset = self.last + records.len() as u64 + 1;
        records.push(Record { offset, prev, time_ms: now_ms, end, channel, event, key });
        Planned::New(records.len() - 1)
    }

    /// Adds an event to its channel's history, and remembers its key.
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
        let history = self.channels.entry(receipt.channel.clone()).or_default();
        let offset = receipt.position.map_or(history.last(), Position::offset);
        history.advance(offset, frame.is_end(), time_ms);
        if let Some(retention) = retention {
            history.push(previous, frame.clone());
            history.trim(&retention, now_ms);
        }
        if let Some(key) = key {
            self.remember_key(key, receipt, time_ms);
        }
    }

    fn remember_key(&mut self, key: IdempotencyKey, receipt: &Receipt, time_ms: u64) {
        let until_ms = time_ms.saturating_add(whole_ms(IDEMPOTENCY_WINDOW));
        self.keys.insert((receipt.channel.clone(), key), (until_ms, receipt.clone()));
    }

    /// Rejects the whole batch if it publishes to a channel that ended before it or within it.
    fn check_open(&self, batch: &[Publish], now_ms: u64) -> Result<(), Error> {
        for (index, publish) in batch.iter().enumerate() {
            let is_same = |earlier: &Publish| {
                publish.key.is_some()
                    && earlier.key == publish.key
                    && earlier.channel == publish.channel
            };
            if self.repeated(publish, now_ms).is_some() || batch[..index].iter().any(is_same) {
                continue;
            }
            if publish.end && self.rules.for_channel(&publish.channel).is_none() {
                return Err(Error::invalid(format!(
                    "retention is off for channel {}, so its end cannot be kept: leave out end, or \
                     change the retention rules",
                    publish.channel
                )));
            }
            let ended_before =
                self.channels.get(&publish.channel).is_some_and(ChannelHistory::is_ended);
            let ended_within =
                |earlier: &Publish| earlier.end && earlier.channel == publish.channel;
            if ended_before || batch[..index].iter().any(ended_within) {
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

    /// The receipt of the event that used the same key on the same channel, until the key expires.
    fn repeated(&self, publish: &Publish, now_ms: u64) -> Option<&Receipt> {
        let key = (publish.channel.clone(), publish.key.clone()?);
        let (until_ms, receipt) = self.keys.get(&key)?;
        (*until_ms > now_ms).then_some(receipt)
    }

    pub(super) fn read(&mut self, channel: &Channel, range: ReadRange, now_ms: u64) -> History {
        let log_last = self.last;
        let retention = self.rules.for_channel(channel);
        match (self.channels.get_mut(channel), retention) {
            (Some(history), Some(retention)) => {
                history.trim(&retention, now_ms);
                history.read(range, log_last)
            }
            _ => History::new(log_last),
        }
    }

    /// Drops expired events, keys, and channels, at most once per interval.
    fn sweep(&mut self, now_ms: u64) {
        if now_ms < self.swept_at_ms + SWEEP_INTERVAL_MS {
            return;
        }
        self.swept_at_ms = now_ms;
        self.keys.retain(|_, (until_ms, _)| *until_ms > now_ms);
        let rules = &self.rules;
        let forgotten_to = &mut self.forgotten_to;
        self.channels.retain(|channel, history| {
            let retention = rules.for_channel(channel);
            if let Some(retention) = &retention {
                history.trim(retention, now_ms);
            }
            let is_known = history.is_known(retention, now_ms);
            if !is_known {
                *forgotten_to = history.last().max(*forgotten_to);
            }
            is_known
        });
    }
}

/// The channels that have no event above the offset `covers_to`, for the store to write down.
fn known_channels(
    channels: &HashMap<Channel, ChannelHistory>,
    covers_to: u64,
    forgotten_to: u64,
) -> KnownChannels {
    let is_covered = |(_, history): &(&Channel, &ChannelHistory)| history.last() <= covers_to;
    let known = |(channel, history): (&Channel, &ChannelHistory)| history.known(channel.clone());
    let channels = channels.iter().filter(is_covered).map(known).collect();
    KnownChannels { covers_to, forgotten_to, channels }
}
