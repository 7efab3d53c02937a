//! The log of the embedded broker: one sequence over all channels, and a bounded history of each.
//! Look here for the order of events, idempotency keys, and when a channel is forgotten. Its only
//! IO is the store, if it has one.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::history::{ChannelHistory, Page, whole_ms};
use super::kept::{Kept, Sharing};
use super::keys::Keys;
use super::order::{Channels, Order};
use super::plan::{Facts, Outcome, Plan};
use super::restore::{Restore, RestoredKey};
use crate::broker::{Baseline, Part, ReadRange};
use crate::budget::{Account, Budget, Share};
use crate::channel::Channel;
use crate::error::{Error, ErrorKind};
use crate::event::EventId;
use crate::frame::Published;
use crate::limits::IDEMPOTENCY_WINDOW;
use crate::log::{Epoch, Position, RetentionRules};
use crate::memory::store::{Done, KnownChannel, KnownChannels, Record, Store, Upkeep};
use crate::publish::{Publish, PublisherKey, Receipt};

/// How often all channels and keys are checked for expiry.
const SWEEP_INTERVAL_MS: u64 = 10_000;

/// How often the store may delete records that are no longer needed. Each time it writes a list of
/// all known channels without records: about 50 MiB for a million channels.
const FORGET_INTERVAL_MS: u64 = 60_000;

/// What the log remembers of a channel costs, besides its name: its places in tables that are half
/// empty, and its allocations.
const CHANNEL_OVERHEAD_BYTES: usize = 256;

pub(super) struct Log {
    epoch: Epoch,
    last: u64,
    rules: RetentionRules,
    channels: Channels,
    order: Order,
    keys: Keys,
    /// The memory of events, and of what is remembered of channels.
    account: Account,
    names: Account,
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

impl Log {
    pub(super) fn new(rules: RetentionRules, budget: &Budget) -> Self {
        Self {
            epoch: Epoch::random(),
            last: 0,
            rules,
            channels: HashMap::new(),
            order: Order::default(),
            keys: Keys::new(budget.account(Share::Keys).clone()),
            account: budget.account(Share::Log).clone(),
            names: budget.account(Share::Channels).clone(),
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
        budget: &Budget,
        directory: &Path,
        now_ms: u64,
    ) -> Result<Self, Error> {
        let mut log = Self::new(rules, budget);
        let mut restoring = Restore::new(log.account.limit());
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
        let Restore { channels, mut keys, count, .. } = restoring;
        let records = channels.values().flatten().filter(|record| record.time_ms > keys_since_ms);
        keys.extend(records.filter_map(RestoredKey::of));
        keys.sort_unstable_by_key(|key| key.offset);
        for RestoredKey { channel, key, id, offset, time_ms } in keys {
            log.keys.insert(channel, key, offset, id, time_ms);
        }
        for record in channels.into_values().flatten() {
            let channel = record.channel.clone();
            let event = log.keep(record, &mut Sharing::default());
            log.remember(&channel, event, now_ms);
        }
        log.stay_within_budget();
        log.store = Some(store);
        let (directory, last) = (directory.display(), log.last);
        tracing::info!(%directory, records = count, last, "log restored");
        Ok(log)
    }

    /// Restores a channel from the list of channels without records. Records that are still there
    /// are restored later and take precedence.
    fn restore_channel(&mut self, known: KnownChannel, now_ms: u64) {
        let KnownChannel { channel, last, time_ms, ended } = known;
        let history = ChannelHistory::without_events(last, ended, time_ms);
        if history.is_known(self.rules.for_channel(&channel), now_ms) {
            self.names.add(name_cost(&channel));
            self.order.note(&channel, &history, None);
            self.channels.insert(channel, history);
        } else {
            self.forgotten_to = self.forgotten_to.max(last);
        }
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
        events.chain(self.keys.oldest_offset()).min().unwrap_or(self.last + 1)
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

    /// Appends a batch and calls `deliver` for each new event, in order, with the offset of the
    /// channel's event before it. The batch is appended as a whole or not at all.
    pub(super) fn append(
        &mut self,
        batch: Vec<Publish>,
        now_ms: u64,
        sharing: &mut Sharing,
        mut deliver: impl FnMut(&Channel, &Kept, u64),
    ) -> Result<Vec<Receipt>, Error> {
        self.sweep(now_ms);
        let Plan { records, outcomes } =
            Plan::of(batch, self.last, |publish| self.facts(publish, now_ms), now_ms)?;
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
            receipts.push(Receipt::new(record.channel.clone(), &record.event, Some(position)));
            if let Some(key) = record.key.as_deref().and_then(PublisherKey::from_text) {
                let (channel, id) = (record.channel.clone(), record.event.id().cloned());
                self.keys.insert(channel, key, record.offset, id, now_ms);
            }
            let channel = record.channel.clone();
            let event = self.keep(record, sharing);
            deliver(&channel, &event, previous);
            self.remember(&channel, event, now_ms);
        }
        self.stay_within_budget();
        let outcomes = outcomes.into_iter().map(|outcome| match outcome {
            Outcome::New(index) => receipts[index].clone(),
            Outcome::Repeated(receipt) => receipt,
        });
        Ok(outcomes.collect())
    }

    /// Whether a batch can be appended as a whole.
    pub(super) fn check(&self, batch: &[Publish], now_ms: u64) -> Result<(), Error> {
        Plan::check(batch, |publish| self.facts(publish, now_ms))
    }

    /// The event of a record, as it is kept.
    fn keep(&self, record: Record, sharing: &mut Sharing) -> Kept {
        let Record { offset, prev, time_ms, end, channel, event, .. } = record;
        let position = Some(Position::new(self.epoch, offset));
        let published = Published { position, time_ms, end };
        Kept::new(&channel, event, published, prev, sharing, &self.account)
    }

    /// Adds an event to its channel's history.
    fn remember(&mut self, channel: &Channel, event: Kept, now_ms: u64) {
        let retention = self.rules.for_channel(channel);
        let known = self.channels.get(channel).map(ChannelHistory::has_events);
        let history = if let Some(history) = self.channels.get_mut(channel) {
            history
        } else {
            self.names.add(name_cost(channel));
            self.channels.entry(channel.clone()).or_default()
        };
        history.advance(event.offset(), event.is_end(), event.time_ms());
        if let Some(retention) = retention {
            history.push(event, &self.account);
            history.trim(&retention, now_ms, &self.account);
        }
        self.order.note(channel, history, known);
    }

    /// Drops the oldest events, and forgets the channels that were silent for longest, if their
    /// shares are full. A client of a channel that is forgotten receives a gap event when it
    /// resumes, since nothing is known of the channel any more.
    fn stay_within_budget(&mut self) {
        self.order.tidy(&self.channels);
        while self.account.is_over()
            && let Some(channel) = self.order.oldest_event(&self.channels)
        {
            self.drop_oldest_event(channel);
        }
        while self.names.is_over()
            && let Some(channel) = self.order.silent_channel(&self.channels)
        {
            self.forget(&channel);
        }
        self.order.trim(&self.channels);
    }

    fn drop_oldest_event(&mut self, channel: Channel) {
        let Some(history) = self.channels.get_mut(&channel) else { return };
        history.pop_front(&self.account);
        self.account.evicted(1);
        self.order.put_back(channel, history);
    }

    fn forget(&mut self, channel: &Channel) {
        let Some(mut history) = self.channels.remove(channel) else { return };
        history.clear(&self.account);
        self.names.remove(name_cost(channel));
        self.names.evicted(1);
        self.forgotten_to = self.forgotten_to.max(history.last());
    }

    /// What the log knows of an event to publish.
    fn facts(&self, publish: &Publish, now_ms: u64) -> Facts {
        let channel = &publish.channel;
        let first = |key: PublisherKey| self.keys.get(channel, &key, now_ms);
        let repeated = publish.publisher_key().and_then(first).map(|first| {
            let position = Position::new(self.epoch, first.offset);
            let id = first.id.clone().or_else(|| EventId::assigned(&position.to_string()).ok());
            Receipt { channel: channel.clone(), id, position: Some(position) }
        });
        let history = self.channels.get(channel);
        let last = history.map_or(self.forgotten_to, ChannelHistory::last);
        let is_ended = history.is_some_and(ChannelHistory::is_ended);
        let keeps_end = !publish.end || self.rules.for_channel(channel).is_some();
        Facts { repeated, last, is_ended, keeps_end }
    }

    pub(super) fn read(&mut self, channel: &Channel, range: ReadRange, now_ms: u64) -> Page {
        let log_last = self.last;
        let retention = self.rules.for_channel(channel);
        match (self.channels.get_mut(channel), retention) {
            (Some(history), Some(retention)) => {
                let had_events = history.has_events();
                history.trim(&retention, now_ms, &self.account);
                self.order.note(channel, history, Some(had_events));
                history.read(range, log_last)
            }
            _ => Page::empty(log_last),
        }
    }

    /// Drops expired events, keys, and channels, at most once per interval.
    fn sweep(&mut self, now_ms: u64) {
        if now_ms < self.swept_at_ms + SWEEP_INTERVAL_MS {
            return;
        }
        self.swept_at_ms = now_ms;
        self.keys.expire(now_ms);
        let (rules, account, names) = (&self.rules, &self.account, &self.names);
        let (forgotten_to, order) = (&mut self.forgotten_to, &mut self.order);
        self.channels.retain(|channel, history| {
            let retention = rules.for_channel(channel);
            if let Some(retention) = &retention {
                let had_events = history.has_events();
                history.trim(retention, now_ms, account);
                order.note(channel, history, Some(had_events));
            }
            let is_known = history.is_known(retention, now_ms);
            if !is_known {
                *forgotten_to = history.last().max(*forgotten_to);
                names.remove(name_cost(channel));
            }
            is_known
        });
    }
}

/// What a channel costs without its events.
fn name_cost(channel: &Channel) -> usize {
    CHANNEL_OVERHEAD_BYTES + channel.as_str().len()
}

/// The channels that have no event above the offset `covers_to`, for the store to write down.
fn known_channels(channels: &Channels, covers_to: u64, forgotten_to: u64) -> KnownChannels {
    let is_covered = |(_, history): &(&Channel, &ChannelHistory)| history.last() <= covers_to;
    let known = |(channel, history): (&Channel, &ChannelHistory)| history.known(channel.clone());
    let channels = channels.iter().filter(is_covered).map(known).collect();
    KnownChannels { covers_to, forgotten_to, channels }
}
