//! Reads the past for streams that start: pages of history, the position of an ID, the start of a
//! rewind. Look here for what is read from the broker, and how often.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::entry::ChannelEntry;
use super::fanout::Fanout;
use super::pages::Pages;
use super::searches::Searches;
use crate::broker::{Broker, History, ReadRange};
use crate::budget::{Account, Share, Taken};
use crate::channel::Channel;
use crate::error::{Error, ErrorKind};
use crate::frame::Frame;
use crate::limits::{
    READS_MAX, REPLAY_BYTES_MAX, REPLAY_RETRY, REPLAY_ROOM_INTERVAL, REPLAY_ROOM_WAIT_MAX,
    RING_FRAMES_MAX,
};
use crate::log::{Cursor, Epoch, Position, Relation};
use crate::stream::queue::Queue;

/// Reads past events: recent ones from the rings, older ones from the broker.
pub(super) struct Recall {
    pub(super) fanout: Arc<Fanout>,
    pub(super) broker: Arc<dyn Broker>,
    /// History that is being read for streams that resume.
    pages: Mutex<Pages>,
    pub(super) searches: Searches,
    /// Bounds the reads that are in flight, so that many streams that resume do not delay the
    /// commands of publishers.
    reads: Semaphore,
    /// The pages of all streams that replay.
    account: Account,
    /// Held by the stream that is the next to get room for a page.
    next: tokio::sync::Mutex<()>,
    /// For the one stream that may have more than there is.
    beyond: Arc<Semaphore>,
}

/// How much room a stream may take for its pages.
pub(super) enum Credit {
    /// What is left of the share.
    OfShare,
    /// More, since there was too little for long.
    Beyond(#[expect(dead_code, reason = "given back when it is dropped")] OwnedSemaphorePermit),
    /// Any: it was live, and misses events for no fault of its client.
    Any,
}

impl Recall {
    pub(super) fn new(fanout: Arc<Fanout>, broker: Arc<dyn Broker>) -> Self {
        let (pages, searches) = (Mutex::default(), Searches::default());
        let account = fanout.config.budget.account(Share::Replays).clone();
        let (reads, next) = (Semaphore::new(READS_MAX), tokio::sync::Mutex::default());
        let beyond = Arc::new(Semaphore::new(1));
        Self { fanout, broker, pages, searches, reads, account, next, beyond }
    }

    /// Room for one more page of history, which streams get in turn; `None` if there was none for
    /// long. One stream at a time may then have more than there is, for as long as it replays: its
    /// channels alone may need more than the share.
    pub(super) async fn room(&self, credit: &mut Credit) -> Option<Taken> {
        let room = async {
            let _next = self.next.lock().await;
            while self.account.used() + REPLAY_BYTES_MAX > self.account.limit() {
                tokio::time::sleep(REPLAY_ROOM_INTERVAL).await;
            }
        };
        if matches!(credit, Credit::OfShare)
            && tokio::time::timeout(REPLAY_ROOM_WAIT_MAX, room).await.is_err()
        {
            *credit = Credit::Beyond(Arc::clone(&self.beyond).try_acquire_owned().ok()?);
        }
        Some(self.account.take(REPLAY_BYTES_MAX))
    }

    /// Counts a stream that ends because there was no room.
    pub(super) fn refuse(&self) {
        self.account.refuse();
    }

    /// Reads history. It is empty if the broker denies reading.
    pub(super) async fn read(&self, channel: &Channel, range: ReadRange) -> History {
        self.read_until_answered(channel, range).await.unwrap_or_default()
    }

    /// Reads a page of history, once for all streams that need the same page at the same time.
    async fn read_page(&self, channel: &Channel, range: ReadRange) -> Option<History> {
        let key = (channel.clone(), range);
        let page = self.pages.lock().unwrap_or_else(PoisonError::into_inner).join(key.clone());
        let read = || self.read_until_answered(channel, range);
        let history = page.get_or_init(read).await.clone();
        self.pages.lock().unwrap_or_else(PoisonError::into_inner).leave(&key, &page);
        history
    }

    /// Reads history, and retries until the broker answers; `None` if it denies reading, or if the
    /// log was reset meanwhile.
    async fn read_until_answered(&self, channel: &Channel, range: ReadRange) -> Option<History> {
        loop {
            let read = {
                // The semaphore is never closed.
                let _permit = self.reads.acquire().await;
                self.broker.read(channel, range).await
            };
            match read {
                Ok(history) if self.is_of_this_log(&history) => return Some(history),
                // One of both is behind the reset of the log.
                Ok(_) => {
                    let epoch = self.fanout.clock.now().epoch;
                    self.settle(channel).await;
                    if self.fanout.clock.now().epoch != epoch {
                        return None;
                    }
                    tokio::time::sleep(REPLAY_RETRY).await;
                }
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    tracing::warn!(%channel, "the broker denies reading history: {error}");
                    return None;
                }
                Err(error) => self.wait_to_retry(channel, &error).await,
            }
        }
    }

    /// Whether a history is of the epoch that this node has heard.
    fn is_of_this_log(&self, history: &History) -> bool {
        let position = history.frames.first().and_then(Frame::position);
        position.is_none_or(|position| self.fanout.clock.is_in(position.epoch()))
    }

    async fn wait_to_retry(&self, channel: &Channel, error: &Error) {
        tracing::debug!(%channel, "reading history failed, retrying: {error}");
        tokio::time::sleep(REPLAY_RETRY).await;
    }

    /// Fills a channel's ring from the broker's history, once for all streams.
    pub(super) async fn backfill(&self, channel: &Channel) {
        let Some(once) = self.fanout.table.with(channel, |entry| entry.ring.backfill()) else {
            return;
        };
        once.get_or_init(|| async {
            // The ring is complete since the first event: there is nothing older.
            if self.complete_since(channel) == 0 {
                return;
            }
            let history = self.read(channel, ReadRange::Newest { count: RING_FRAMES_MAX }).await;
            self.fanout.stats.backfills.add(1);
            self.fanout.table.with(channel, |entry| {
                // A reset of the log replaces the cell; then the history is from the old epoch.
                if Arc::ptr_eq(&entry.ring.backfill(), &once) {
                    entry.ring.prepend(&history);
                }
            });
        })
        .await;
    }

    /// How far back a channel's ring is complete; `None` if nothing is known.
    pub(super) fn ring_begin(&self, channel: &Channel) -> Option<u64> {
        self.fanout.table.with(channel, |entry| entry.ring.complete_since()).flatten()
    }

    /// How far back a channel's ring is complete; 0 if it has every event ever, or if nothing is
    /// known.
    fn complete_since(&self, channel: &Channel) -> u64 {
        self.ring_begin(channel).unwrap_or(0)
    }

    /// The number of channels that have not ended, or whose end still waits in the queue.
    pub(super) fn open_or_ending(&self, channels: &[Channel], queue: &Queue) -> usize {
        let open = self.fanout.table.with_all(channels.iter(), |entries| {
            queue.forget_resets();
            let open = entries.iter().filter(|entry| entry.ring.ended().is_none()).count();
            open + queue.ends()
        });
        open.unwrap_or(channels.len())
    }

    /// The position of a stream with this cursor. It includes the node's own number only if that
    /// matters, since no other node can interpret it.
    pub(super) fn position(&self, channels: &[Channel], epoch: Epoch, cursor: Cursor) -> Position {
        let has_ephemeral = channels.iter().any(|channel| self.fanout.has_ephemeral(channel));
        self.fanout.clock.position(epoch, cursor, has_ephemeral)
    }

    /// The number up to which ephemeral events of a channel are unknown to this node.
    pub(super) fn unknown(&self, channel: &Channel) -> u64 {
        self.fanout.table.with(channel, |entry| entry.ring.unknown()).unwrap_or_default()
    }

    /// Whether a client may or may not have ephemeral events that this node retains.
    pub(super) fn has_doubtful(&self, channel: &Channel, cursor: Cursor, is_foreign: bool) -> bool {
        let doubtful = |entry: &mut ChannelEntry| entry.ring.has_doubtful(cursor, is_foreign);
        self.fanout.table.with(channel, doubtful).unwrap_or(false)
    }

    /// How a position relates to what this node knows.
    pub(super) fn relate(&self, position: Position) -> Relation {
        self.fanout.clock.relate(position)
    }

    /// Waits until this node has heard everything that the log has now.
    pub(super) async fn settle(&self, channel: &Channel) {
        loop {
            match self.broker.head().await {
                Ok(()) => return,
                Err(error) if error.kind() == ErrorKind::PermissionDenied => return,
                Err(error) => self.wait_to_retry(channel, &error).await,
            }
        }
    }

    /// The point before the last `count` retained events of a channel.
    pub(super) async fn before_last(&self, channel: &Channel, count: usize) -> Cursor {
        let in_ring =
            self.fanout.table.with(channel, |entry| entry.ring.before_last(count)).flatten();
        if let Some(point) = in_ring {
            return point;
        }
        // Before the reads: what the ring drops meanwhile is after this.
        let ring_begin = self.complete_since(channel);
        // One answer of the broker may have fewer events, so pages are read until they add up.
        let (mut left, page) = (count.max(1), |left: usize| left.min(RING_FRAMES_MAX));
        let mut history = self.read(channel, ReadRange::Newest { count: page(left) }).await;
        let mut begin = begin_of(&history, ring_begin);
        while let Some(first) = history.frames.first().and_then(Frame::key) {
            begin = begin_of(&history, ring_begin);
            left = left.saturating_sub(history.frames.len());
            if left == 0 || history.previous == 0 {
                break;
            }
            let range = ReadRange::Before { offset: first.offset, count: page(left) };
            history = self.read(channel, range).await;
        }
        begin
    }

    /// The point before the events published at or after a time, in milliseconds since 1970, or a
    /// point before that.
    pub(super) async fn before_time(&self, channel: &Channel, since_ms: u64) -> Cursor {
        let in_ring =
            self.fanout.table.with(channel, |entry| entry.ring.before_time(since_ms)).flatten();
        match in_ring {
            Some(point) => point,
            None => self.before_all(channel).await,
        }
    }

    /// The point before the oldest retained event of a channel.
    pub(super) async fn before_all(&self, channel: &Channel) -> Cursor {
        // Before the read: what the ring drops meanwhile is after this.
        let ring_begin = self.complete_since(channel);
        let range = ReadRange::After { offset: 0, count: 1 };
        begin_of(&self.read_page_to(channel, range, ring_begin).await, ring_begin)
    }

    /// Reads a page of history that has what was published before the ring begins.
    pub(super) async fn read_page_to(
        &self,
        channel: &Channel,
        range: ReadRange,
        ring_begin: u64,
    ) -> History {
        match self.read_page(channel, range).await {
            // The page is shared, and may have been read before the wanted events were published.
            Some(page) if page.frames.is_empty() && page.log_last < ring_begin => {
                self.read(channel, range).await
            }
            page => page.unwrap_or_default(),
        }
    }
}

/// The point before the first event of a history, or if it is empty, before all events of the ring.
fn begin_of(history: &History, ring_begin: u64) -> Cursor {
    let offset = if history.frames.is_empty() { ring_begin } else { history.previous };
    Cursor { offset, number: 0 }
}
