//! The history of one channel in the embedded broker. Look here for how retention trims it, and how
//! a page of it is read.

use std::collections::VecDeque;
use std::time::Duration;

use crate::broker::{History, ReadRange};
use crate::budget::Account;
use crate::channel::Channel;
use crate::limits::REPLAY_BYTES_MAX;
use crate::log::Retention;
use crate::memory::kept::Kept;
use crate::memory::store::KnownChannel;

/// How long, beyond the retention's age, the broker remembers that a channel had events or was
/// ended.
const CHANNEL_MEMORY: Duration = Duration::from_secs(24 * 3600);

/// The retained events of one channel, and what is remembered once they are gone.
#[derive(Default)]
pub(super) struct ChannelHistory {
    /// The events; `None` for a channel without, so that it costs little.
    events: Option<Box<Events>>,
    /// The offset of the channel's last event, retained or not; 0 if there was none.
    last: u64,
    ended: bool,
    /// When the last event was published, in milliseconds since 1970.
    published_at_ms: u64,
}

/// The retained events.
#[derive(Default)]
struct Events {
    /// Oldest first.
    entries: VecDeque<Kept>,
    /// The length of all entries as encoded.
    bytes: usize,
}

impl Events {
    fn pop_front(&mut self, account: &Account) -> Option<Kept> {
        let oldest = self.entries.pop_front()?;
        self.bytes -= oldest.len();
        account.remove(oldest.cost());
        Some(oldest)
    }
}

impl ChannelHistory {
    /// A channel whose events are gone.
    pub(super) fn without_events(last: u64, ended: bool, published_at_ms: u64) -> Self {
        Self { last, ended, published_at_ms, ..Self::default() }
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    pub(super) fn has_events(&self) -> bool {
        self.events.is_some()
    }

    /// The offset of the oldest retained event.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.events.as_ref()?.entries.front().map(Kept::offset)
    }

    /// What the store must know of the channel once its records are deleted.
    pub(super) fn known(&self, channel: Channel) -> KnownChannel {
        let Self { last, ended, published_at_ms: time_ms, .. } = *self;
        KnownChannel { channel, last, time_ms, ended }
    }

    /// Whether the channel's last offset and end must still be remembered.
    pub(super) fn is_known(&self, retention: Option<Retention>, now_ms: u64) -> bool {
        let age = retention.map_or(Duration::ZERO, |retention| retention.age);
        let forget_at_ms = self.published_at_ms.saturating_add(whole_ms(age + CHANNEL_MEMORY));
        self.events.is_some() || now_ms < forget_at_ms
    }

    /// Takes note of an event, retained or not, as the channel's last.
    pub(super) fn advance(&mut self, offset: u64, ended: bool, published_at_ms: u64) {
        // A restored channel may already know of a later event, whose record the disk lost.
        if offset >= self.last {
            self.last = offset;
            self.ended = ended;
            self.published_at_ms = published_at_ms;
        }
    }

    /// Retains an event. The caller then trims.
    pub(super) fn push(&mut self, event: Kept, account: &Account) {
        account.add(event.cost());
        let events = self.events.get_or_insert_default();
        events.bytes += event.len();
        events.entries.push_back(event);
    }

    /// Drops the oldest event.
    pub(super) fn pop_front(&mut self, account: &Account) {
        let Some(events) = &mut self.events else { return };
        events.pop_front(account);
        if events.entries.is_empty() {
            self.events = None;
        }
    }

    /// Drops all events.
    pub(super) fn clear(&mut self, account: &Account) {
        while self.events.is_some() {
            self.pop_front(account);
        }
    }

    /// Drops what exceeds the retention. The newest event is dropped only by age, however large it
    /// is.
    pub(super) fn trim(&mut self, retention: &Retention, now_ms: u64, account: &Account) {
        let Some(events) = &mut self.events else { return };
        let oldest_ms = now_ms.saturating_sub(whole_ms(retention.age));
        while let Some(oldest) = events.entries.front() {
            let count = events.entries.len();
            let is_too_much = count > retention.events || events.bytes > retention.bytes;
            let is_over = is_too_much && count > 1;
            if !is_over && oldest.time_ms() >= oldest_ms {
                break;
            }
            events.pop_front(account);
        }
        if events.entries.is_empty() {
            // Frees the allocation, which an idle channel does not need.
            self.events = None;
        }
    }

    /// Reads a range. Only a range of [`ReadRange::After`] is paged by bytes.
    pub(super) fn read(&self, range: ReadRange, log_last: u64) -> Page {
        let Some(events) = &self.events else { return Page::empty(log_last) };
        let (from, count) = match range {
            ReadRange::After { offset, count } => (events.index_after(offset), count),
            ReadRange::Newest { count } => (events.entries.len().saturating_sub(count), count),
            ReadRange::Before { offset, count } => {
                let until = events.index_after(offset.saturating_sub(1));
                let from = until.saturating_sub(count);
                (from, until - from)
            }
        };
        let previous = events.entries.get(from).map_or(0, |event| event.previous);
        let mut bytes = 0;
        let paged = matches!(range, ReadRange::After { .. });
        // A page has at least one event, however large it is.
        let page = events.entries.range(from..).take(count).take_while(|event| {
            let first = bytes == 0;
            bytes += event.len();
            first || !paged || bytes <= REPLAY_BYTES_MAX
        });
        Page { events: page.cloned().collect(), previous, log_last }
    }
}

/// A part of a channel's history that was read, and is not encoded: that is not done while others
/// wait for the log.
pub(super) struct Page {
    events: Vec<Kept>,
    previous: u64,
    log_last: u64,
}

impl Page {
    pub(super) fn empty(log_last: u64) -> Self {
        Self { events: Vec::new(), previous: 0, log_last }
    }

    /// The bytes that must be encoded, at most.
    pub(super) fn unencoded_bytes(&self) -> usize {
        self.events.iter().filter(|event| !event.is_encoded()).map(Kept::len).sum()
    }

    pub(super) fn encode(self) -> History {
        let Self { events, previous, log_last } = self;
        let frames = events.iter().map(Kept::frame).collect();
        History { frames, previous, log_last, holes: Vec::new() }
    }
}

impl Events {
    fn index_after(&self, offset: u64) -> usize {
        self.entries.partition_point(|event| event.offset() <= offset)
    }
}

/// A duration in milliseconds, rounded down.
pub(super) fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
