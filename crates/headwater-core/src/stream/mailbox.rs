//! The messages from the hub to a shard of the engine, in order. Look here for how events and
//! streams reach a shard's thread.
//!
//! A lock around a vector, which the shard takes as a whole: a push is a few nanoseconds under the
//! lock, the shard locks once per batch, and the order is evidently first in, first out. Attaching
//! a stream relies on that order: see `Subscription::attach`. `loom_tests.rs` checks, over the
//! possible interleavings of the threads, that no wake-up of the shard is lost.

use std::any::Any;
use std::collections::VecDeque;
use std::mem;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

use tokio::sync::{Notify, oneshot};

use super::sync::{AtomicBool, Mutex, MutexGuard};
use crate::channel::Channel;
use crate::close::CloseReason;
use crate::counter::Counter;
use crate::frame::Frame;
use crate::limits::{
    CONGESTED_BYTES, CONGESTED_STREAMS_MIN, MAILBOX_BYTES_FULL, MAILBOX_BYTES_MAX,
    MAILBOX_MESSAGES_FULL, MAILBOX_MESSAGES_MAX,
};
use crate::log::{Cursor, Epoch};

/// One message to a shard.
pub enum Message {
    /// A frame for the shard's streams on the channel with this slot.
    Deliver {
        /// The channel's slot.
        slot: u32,
        /// What to deliver.
        frame: Frame,
    },
    /// A frame for all streams of the shard.
    DeliverToAll(Frame),
    /// A stream joins the shard.
    Attach(Box<Attachment>),
    /// All streams close in an orderly way.
    Drain,
    /// Some streams close because they were revoked.
    Revoke(Revoked),
    /// Events of the channel with this slot are missing: its streams replay.
    Replay {
        /// The channel's slot.
        slot: u32,
        /// Where they replay from.
        from: ReplayFrom,
    },
    /// A page of a stream's replay.
    Page {
        /// The replay.
        replay: u64,
        /// The stream's frames.
        frames: Vec<Frame>,
        /// Sent, or dropped, when the socket has accepted all of them.
        written: oneshot::Sender<()>,
    },
    /// A stream has replayed everything: it is live again.
    Live {
        /// The replay.
        replay: u64,
        /// What the stream has received.
        progress: Progress,
    },
    /// The shard's thread stops.
    Stop,
}

/// Where the streams of a channel replay from, because the node has missed events of it.
#[derive(Debug, Clone, Copy)]
pub struct ReplayFrom {
    /// The epoch of the log.
    pub epoch: Epoch,
    /// What all streams of the node have.
    pub cursor: Cursor,
    /// The channel's last offset that the node has. A stream of this channel alone replays from
    /// there. A stream of several may have moved past missing events.
    pub after: u64,
}

/// A channel of which the node has missed events.
#[derive(Debug, Clone)]
pub struct Missed {
    /// The channel.
    pub channel: Channel,
    /// Where its streams replay from.
    pub from: ReplayFrom,
}

/// Which streams close.
#[derive(Debug, Clone, Copy)]
pub enum Revoked {
    /// The stream with this number in the registry.
    Stream(u64),
    /// The streams on the channel with this slot.
    Channel(u32),
}

/// A stream that joins a shard.
pub struct Attachment {
    /// The stream's channels, with their slots.
    pub channels: Box<[ChannelSlot]>,
    /// Frames that were queued when the stream was attached.
    pub waiting: VecDeque<Frame>,
    /// What the stream has received.
    pub progress: Progress,
    /// Set if the stream must replay after these.
    pub missed: Option<Missed>,
    /// Why the stream closed before it was attached, if it did.
    pub closed: Option<CloseReason>,
    /// The stream's number in the registry; 0 if it has none.
    pub number: u64,
    /// What the engine needs besides; opaque to the hub.
    pub payload: Box<dyn Any + Send>,
}

/// A channel of a stream.
pub struct ChannelSlot {
    /// The channel.
    pub channel: Channel,
    /// The channel's slot in the mailbox.
    pub slot: u32,
}

/// The progress of a stream: what must not be delivered again, and when the stream ends.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// What had been delivered when the stream was attached; [`Cursor::END`] while it replays.
    pub until: Cursor,
    /// Number of channels that have not ended.
    pub open: u32,
    /// Number of channels.
    pub channels: u32,
}

impl Progress {
    /// Records a live frame, and returns whether to deliver it.
    pub fn note(&mut self, frame: &Frame) -> bool {
        use crate::gap::GapReason;

        if self.is_replaying() {
            return false;
        }
        if frame.gap().is_some_and(|gap| gap.reason == GapReason::Epoch) {
            // The log was reset: offsets start over, and it knows no ends.
            self.until.offset = 0;
            self.open = self.channels;
        }
        // An end counts even if the client has it already: its channel is closed.
        if frame.is_end() {
            self.open = self.open.saturating_sub(1);
        }
        // Only a client that is ahead of this node has such a frame already. Nothing else is pushed
        // twice.
        !frame.key().is_some_and(|key| self.until.has(key))
    }

    /// Whether the stream replays: live frames are not for it.
    pub fn is_replaying(&self) -> bool {
        self.until == Cursor::END
    }
}

/// The queued messages of one shard, and the shard's counts.
pub struct Mailbox {
    state: Mutex<State>,
    /// Whether the shard was woken and has not taken messages since: one wake-up is enough.
    woken: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
    /// Number of messages that are not handled yet, including those that the shard has taken.
    depth: AtomicUsize,
    /// Bytes of the frames among them.
    bytes: AtomicUsize,
    /// Notifies publishers that there is room again.
    room: Notify,
    /// Whether a publisher waits for room.
    has_waiters: AtomicBool,
    /// The shard's counts.
    pub counts: Counts,
}

#[derive(Default)]
struct State {
    messages: Vec<Message>,
    /// The shard is gone, and messages are returned to the caller.
    closed: bool,
    /// A frame was dropped because too many are queued.
    overrun: bool,
    /// Released slots, and the next slot that was never used.
    free: Vec<u32>,
    next: u32,
}

/// What a shard reports.
#[derive(Default)]
pub struct Counts {
    /// Streams of the shard.
    pub streams: AtomicUsize,
    /// Bytes in the backlogs of its streams.
    pub backlog_bytes: AtomicUsize,
    /// Streams with a backlog.
    pub blocked: AtomicUsize,
    /// Writes to sockets.
    pub writes: Counter,
    /// Turns of the shard's loop.
    pub turns: Counter,
    /// How many times the shard panicked and was restarted.
    pub panics: AtomicU64,
}

impl Counts {
    /// Whether most streams have a large backlog: the node is then at its limit, which a few slow
    /// clients do not indicate.
    fn is_congested(&self) -> bool {
        let blocked = self.blocked.load(Ordering::Relaxed);
        blocked >= CONGESTED_STREAMS_MIN
            && blocked > self.streams.load(Ordering::Relaxed) / 2
            && self.backlog_bytes.load(Ordering::Relaxed) > blocked * CONGESTED_BYTES
    }
}

impl Mailbox {
    /// A mailbox whose shard is woken by calling `wake`.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            state: Mutex::default(),
            woken: AtomicBool::new(false),
            wake: Box::new(wake),
            depth: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            room: Notify::new(),
            has_waiters: AtomicBool::new(false),
            counts: Counts::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message, and wakes the shard. Drops a frame if too many are queued, which
    /// [`take`](Self::take) reports.
    ///
    /// # Errors
    /// The message, if the shard is gone.
    pub fn push(&self, message: Message) -> Result<(), Message> {
        let mut state = self.state();
        if state.closed {
            return Err(message);
        }
        if let Message::Deliver { frame, .. } = &message {
            let is_full = self.depth() >= MAILBOX_MESSAGES_MAX
                || self.bytes.load(Ordering::Relaxed) >= MAILBOX_BYTES_MAX;
            // A reset of the log pushes one gap for each channel, and no more. Closing all streams
            // for it would make all clients reconnect at once.
            if is_full && frame.gap().is_none() {
                state.overrun = true;
                return Ok(());
            }
            self.bytes.fetch_add(frame.len(), Ordering::Relaxed);
        }
        self.depth.fetch_add(1, Ordering::Relaxed);
        state.messages.push(message);
        drop(state);
        if !self.woken.swap(true, Ordering::AcqRel) {
            (self.wake)();
        }
        Ok(())
    }

    /// Swaps all messages into `into`, which must be empty and becomes the buffer for the next
    /// ones. Returns whether frames were dropped since the last call: any stream of the shard may
    /// then have missed events. Called by the shard.
    pub fn take(&self, into: &mut Vec<Message>) -> bool {
        debug_assert!(into.is_empty());
        // Before the messages are taken, so that every later push wakes the shard again.
        self.woken.store(false, Ordering::Release);
        let mut state = self.state();
        mem::swap(&mut state.messages, into);
        mem::take(&mut state.overrun)
    }

    /// Records that the shard handled messages, with this many bytes of frames.
    pub fn done(&self, messages: usize, bytes: usize) {
        let was_full = self.is_full();
        self.depth.fetch_sub(messages, Ordering::AcqRel);
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        if was_full && !self.is_full() {
            self.room.notify_waiters();
        }
    }

    /// Number of messages that are not handled yet.
    pub fn depth(&self) -> usize {
        self.depth.load(Ordering::Relaxed)
    }

    /// Whether publishers should wait.
    pub fn is_full(&self) -> bool {
        self.depth.load(Ordering::Acquire) >= MAILBOX_MESSAGES_FULL
            || self.bytes.load(Ordering::Acquire) >= MAILBOX_BYTES_FULL
            || self.counts.is_congested()
    }

    /// Wakes waiting publishers if there is room. Called by the shard after it wrote.
    pub fn look_for_room(&self) {
        // Pairs with the fence in `has_room`: either this thread sees the waiter, or the waiter
        // sees the room.
        fence(Ordering::SeqCst);
        if self.has_waiters.load(Ordering::Relaxed) && !self.is_full() {
            self.has_waiters.store(false, Ordering::Relaxed);
            self.room.notify_waiters();
        }
    }

    /// Resolves when publishers need not wait for the shard. Cancel safe.
    pub async fn has_room(&self) {
        loop {
            let notified = self.room.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            self.has_waiters.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if !self.is_full() {
                return;
            }
            notified.await;
        }
    }

    /// Closes the mailbox, and returns the remaining messages.
    pub fn close(&self) -> Vec<Message> {
        let mut state = self.state();
        state.closed = true;
        let rest = mem::take(&mut state.messages);
        drop(state);
        self.depth.store(0, Ordering::Release);
        self.bytes.store(0, Ordering::Release);
        self.room.notify_waiters();
        rest
    }

    /// Whether the shard is gone.
    pub fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Allocates a slot for a channel. Called with the channel's lock held.
    pub fn allocate_slot(&self) -> u32 {
        let mut state = self.state();
        state.free.pop().unwrap_or_else(|| {
            state.next += 1;
            state.next - 1
        })
    }

    /// Releases the slot of a channel. Frames of the channel may still be in the mailbox, in front
    /// of all that is pushed for the slot's next channel.
    pub fn free_slot(&self, slot: u32) {
        self.state().free.push(slot);
    }
}
