//! What a stream that begins asks about the past: pages of history, where a position or an id stands, where a
//! rewind begins. Look here for what is read from the broker, and how often.

use std::sync::{Arc, PoisonError};

use super::HubInner;
use super::queue::Queue;
use crate::broker::{History, ReadRange};
use crate::channel::Channel;
use crate::error::{Error, ErrorKind};
use crate::event::EventId;
use crate::frame::Frame;
use crate::limits::{REPLAY_FRAMES_MAX, REPLAY_RETRY, RING_FRAMES_MAX};
use crate::position::{Epoch, Key, Position};

impl HubInner {
    /// Reads history. A broker that refuses has none for us.
    pub(super) async fn read(&self, channel: &Channel, range: ReadRange) -> History {
        self.ask(channel, range).await.unwrap_or_default()
    }

    /// Reads a page of history, once for all streams that ask for the same one meanwhile.
    pub(super) async fn read_page(&self, channel: &Channel, range: ReadRange) -> Option<History> {
        let key = (channel.clone(), range);
        let page = self.reads.lock().unwrap_or_else(PoisonError::into_inner).join(key.clone());
        let history = page.get_or_init(|| self.ask(channel, range)).await.clone();
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).leave(&key, &page);
        history
    }

    /// Reads history, and tries again until the broker answers; `None` if it refuses.
    async fn ask(&self, channel: &Channel, range: ReadRange) -> Option<History> {
        loop {
            match self.broker.read(channel, range).await {
                Ok(history) => return Some(history),
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    tracing::warn!(%channel, "the broker refuses to read history: {error}");
                    return None;
                }
                Err(error) => self.wait_to_read_again(channel, &error).await,
            }
        }
    }

    async fn wait_to_read_again(&self, channel: &Channel, error: &Error) {
        tracing::debug!(%channel, "reading history failed, trying again: {error}");
        tokio::time::sleep(REPLAY_RETRY).await;
    }

    /// Fills a channel's ring from the broker's history, once, however many streams ask.
    pub(super) async fn backfill(&self, channel: &Channel) {
        let Some(once) = self.table.with(channel, |entry| entry.ring.backfill()) else { return };
        once.get_or_init(|| async {
            // Complete since the beginning: there is nothing older.
            if self.complete_since(channel) == 0 {
                return;
            }
            let history = self.read(channel, ReadRange::Newest { count: RING_FRAMES_MAX }).await;
            self.stats.backfills.add(1);
            self.table.with(channel, |entry| {
                // Not if the log began anew meanwhile.
                if Arc::ptr_eq(&entry.ring.backfill(), &once) {
                    entry.ring.prepend(&history);
                }
            });
        })
        .await;
    }

    /// How far back a channel's ring is complete; `None` if nothing is known.
    pub(super) fn ring_begin(&self, channel: &Channel) -> Option<u64> {
        self.table.with(channel, |entry| entry.ring.complete_since()).flatten()
    }

    /// The same; 0 for all there ever was, or if nothing is known.
    fn complete_since(&self, channel: &Channel) -> u64 {
        self.ring_begin(channel).unwrap_or(0)
    }

    /// How many channels are not finished, or are with an end that waits in the queue.
    pub(super) fn open_or_ending(&self, channels: &[Channel], queue: &Queue) -> usize {
        let open = self.table.with_all(channels.iter(), |entries| {
            let open = entries.iter().filter(|entry| entry.ring.ended().is_none()).count();
            open + queue.ends()
        });
        open.unwrap_or(channels.len())
    }

    /// The position of a stream that has everything up to a point. The node's own numbers are in it only
    /// if they matter, since no other node knows them.
    pub(super) fn position(&self, channels: &[Channel], epoch: Epoch, key: Key) -> Position {
        let is_ephemeral =
            key.number > 0 && channels.iter().any(|channel| self.has_ephemeral(channel));
        if is_ephemeral {
            Position::ephemeral(epoch, key.offset, self.node, key.number)
        } else {
            Position::new(epoch, key.offset)
        }
    }

    /// Since when the node receives a channel.
    pub(super) fn joined(&self, channel: &Channel) -> Key {
        self.table.with(channel, |entry| entry.ring.joined()).unwrap_or_default()
    }

    /// The newest plain event that is no longer in a channel's ring.
    pub(super) fn lost_ephemeral(&self, channel: &Channel) -> Option<Key> {
        self.table.with(channel, |entry| entry.ring.lost_ephemeral_after(Key::default()))?
    }

    /// Whether a position is not in the log yet, though it is of this log's life: someone made it up,
    /// or the log was put back to an older state. A node that is only late is not ahead of itself.
    pub(super) async fn is_ahead(&self, channel: &Channel, position: Position, last: Key) -> bool {
        if position.offset() <= last.offset {
            return position
                .ephemeral_part()
                .is_some_and(|local| local.node == self.node && local.number > self.log().number);
        }
        let range = ReadRange::Newest { count: 1 };
        position.offset() > self.read(channel, range).await.log_last
    }

    /// The position of the oldest event with an id of its publisher's.
    pub(super) async fn find_publisher_id(
        &self,
        channels: &[Channel],
        id: &str,
    ) -> Option<Position> {
        EventId::new(id).ok()?;
        let mut found: Option<Position> = None;
        for channel in channels {
            let position = self.find_own_id_in(channel, id).await;
            found = match (found, position) {
                (Some(one), Some(two)) if two.key() < one.key() => Some(two),
                (found, position) => found.or(position),
            };
        }
        found
    }

    async fn find_own_id_in(&self, channel: &Channel, id: &str) -> Option<Position> {
        self.backfill(channel).await;
        // What is older than the ring, in pages.
        let mut after = 0;
        while after < self.complete_since(channel) {
            let range = ReadRange::After { offset: after, count: REPLAY_FRAMES_MAX };
            let history = self.read_page(channel, range).await.unwrap_or_default();
            if let Some(frame) =
                history.frames.iter().find(|frame| frame.publisher_id() == Some(id))
            {
                return frame.position();
            }
            match history.frames.last().and_then(Frame::key) {
                Some(key) => after = key.offset,
                None => break,
            }
        }
        self.table.with(channel, |entry| entry.ring.find_publisher_id(id)?.position())?
    }

    pub(super) async fn before_last(&self, channel: &Channel, count: usize) -> Key {
        let in_ring = self.table.with(channel, |entry| entry.ring.before_last(count)).flatten();
        if let Some(key) = in_ring {
            return key;
        }
        // One answer of the broker may have fewer, so they are counted in pages.
        let (mut left, page) = (count.max(1), |left: usize| left.min(RING_FRAMES_MAX));
        let mut history = self.read(channel, ReadRange::Newest { count: page(left) }).await;
        let mut begin = self.begin_of(channel, &history);
        while let Some(first) = history.frames.first().and_then(Frame::key) {
            begin = self.begin_of(channel, &history);
            left = left.saturating_sub(history.frames.len());
            if left == 0 || history.previous == 0 {
                break;
            }
            let range = ReadRange::Before { offset: first.offset, count: page(left) };
            history = self.read(channel, range).await;
        }
        begin
    }

    pub(super) async fn before_time(&self, channel: &Channel, since_ms: u64) -> Key {
        let in_ring = self.table.with(channel, |entry| entry.ring.before_time(since_ms)).flatten();
        match in_ring {
            Some(key) => key,
            None => self.before_all(channel).await,
        }
    }

    pub(super) async fn before_all(&self, channel: &Channel) -> Key {
        let range = ReadRange::After { offset: 0, count: 1 };
        let history = self.read_page(channel, range).await.unwrap_or_default();
        self.begin_of(channel, &history)
    }

    /// The point before the first event of a history, or before all that the ring has.
    fn begin_of(&self, channel: &Channel, history: &History) -> Key {
        if history.frames.is_empty() {
            return Key { offset: self.complete_since(channel), number: 0 };
        }
        Key { offset: history.previous, number: 0 }
    }
}
