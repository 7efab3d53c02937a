//! The messages from the hub to a shard of the engine, in order. Look here for how events and
//! streams reach a shard's thread.
//!
//! A lock around a vector, which the shard takes as a whole: a push is a few nanoseconds under the
//! lock, the shard locks once per batch, and the order is evidently first in, first out. Attaching
//! a stream relies on that order: see `Subscription::attach`. Pages of replays are outside of it:
//! the shard writes them last, and what must come after a page is pushed once that is accepted.
//! `loom_tests.rs` checks, over the possible interleavings of the threads, that no wake-up of the
//! shard is lost.

use std::any::Any;
use std::collections::VecDeque;
use std::mem;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicIsize, AtomicU64, AtomicUsize, Ordering, fence};

use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;

use super::sync::{AtomicBool, Mutex, MutexGuard};
use crate::channel::Channel;
use crate::close::CloseReason;
use crate::counter::Counter;
use crate::frame::Frame;
use crate::limits::{
    MAILBOX_BYTES_FULL, MAILBOX_BYTES_MAX, MAILBOX_MESSAGES_FULL, MAILBOX_MESSAGES_MAX,
};
use crate::log::{Cursor, Epoch};
use crate::stream::progress::Progress;

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
    /// A stream comes to the shard.
    Attach(Box<Attachment>),
    /// A stream of the shard that replayed joins its channels: it is live.
    Join {
        /// The replay.
        replay: u64,
        /// The stream's channels, and what it has received.
        joined: Box<Joined>,
    },
    /// A stream of the shard closes before it has joined its channels.
    Close {
        /// The replay.
        replay: u64,
        /// Why.
        reason: CloseReason,
    },
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
    /// A stream has replayed what its node had missed: it is live again.
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
#[derive(Debug, Clone)]
pub enum Revoked {
    /// The streams with these numbers in the registry, in ascending order.
    Streams(Box<[u64]>),
    /// The streams on the channel with this slot.
    Channel(u32),
}

/// A stream that comes to a shard.
pub struct Attachment {
    /// How it begins there.
    pub start: StreamStart,
    /// The stream's number in the registry; 0 if it has none.
    pub number: u64,
    /// What the engine needs besides; opaque to the hub.
    pub payload: Box<dyn Any + Send>,
}

/// How a stream begins on a shard.
pub enum StreamStart {
    /// It is live.
    Live(Joined),
    /// It has not joined its channels: it replays, or the broker has not confirmed them.
    Replaying(StartReplay),
}

impl StreamStart {
    /// The size of the frames that were read ahead.
    pub fn replayed_bytes(&self) -> usize {
        match self {
            Self::Live(joined) => joined.replayed.iter().map(Frame::len).sum(),
            Self::Replaying(_) => 0,
        }
    }
}

/// Starts the replay of a stream, under this number, as [`Message::Page`]s until
/// [`Message::Join`]. Returns the task, to be aborted when the stream closes; `None` if there is
/// no runtime to run it.
pub type StartReplay = Box<dyn FnOnce(u64) -> Option<AbortHandle> + Send>;

/// What a stream has when it joins its channels on a shard.
pub struct Joined {
    /// The stream's channels, with their slots.
    pub channels: Box<[ChannelSlot]>,
    /// Frames that were read ahead for the stream.
    pub replayed: VecDeque<Frame>,
    /// Frames that were queued after them.
    pub waiting: VecDeque<Frame>,
    /// What the stream has received.
    pub progress: Progress,
    /// Set if the stream must replay after these.
    pub missed: Option<Missed>,
    /// Why the stream closed before, if it did.
    pub closed: Option<CloseReason>,
}

/// A channel of a stream.
pub struct ChannelSlot {
    /// The channel.
    pub channel: Channel,
    /// The channel's slot in the mailbox.
    pub slot: u32,
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
    /// Whether any channel is congested.
    has_congested: AtomicBool,
    /// The shard's counts.
    pub counts: Counts,
}

#[derive(Default)]
struct State {
    messages: Vec<Message>,
    /// The shard is gone, and messages are returned to the caller.
    closed: bool,
    /// For each slot, the number of frames that are not handled yet.
    queued: Vec<u32>,
    /// The slots of channels of which a frame was dropped, because too many are queued.
    overrun: Vec<u32>,
    /// The slots of channels most of whose streams have a large backlog, in ascending order.
    congested: Vec<u32>,
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
    /// What the shard has added to the bytes in all backlogs, those that streams share counted
    /// once.
    pub held_bytes: AtomicIsize,
    /// Streams with a backlog.
    pub blocked: AtomicUsize,
    /// Writes to sockets.
    pub writes: Counter,
    /// Turns of the shard's loop.
    pub turns: Counter,
    /// How many times the shard panicked and was restarted.
    pub panics: AtomicU64,
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
            has_congested: AtomicBool::new(false),
            counts: Counts::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message, and wakes the shard. Drops a frame if far too many are queued, which
    /// [`take`](Self::take) reports. Before that, the shard discards those of the channels that
    /// have the most.
    ///
    /// # Errors
    /// The message, if the shard is gone.
    pub fn push(&self, message: Message) -> Result<(), Message> {
        let mut state = self.state();
        if state.closed {
            return Err(message);
        }
        if let Message::Deliver { slot, frame } = &message {
            let is_full = self.depth() >= 2 * MAILBOX_MESSAGES_MAX
                || self.bytes.load(Ordering::Relaxed) >= 4 * MAILBOX_BYTES_MAX;
            // A reset of the log pushes one gap for each channel, and no more. Closing all streams
            // for it would make all clients reconnect at once.
            if is_full && frame.gap().is_none() {
                if !state.overrun.contains(slot) {
                    state.overrun.push(*slot);
                }
                return Ok(());
            }
            self.bytes.fetch_add(frame.len(), Ordering::Relaxed);
            let slot = *slot as usize;
            if slot >= state.queued.len() {
                state.queued.resize(slot + 1, 0);
            }
            state.queued[slot] += 1;
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
    /// ones. Returns the slots of the channels of which frames were dropped since the last call:
    /// their streams have missed events. Called by the shard.
    pub fn take(&self, into: &mut Vec<Message>) -> Vec<u32> {
        debug_assert!(into.is_empty());
        // Before the messages are taken, so that every later push wakes the shard again.
        self.woken.store(false, Ordering::Release);
        let mut state = self.state();
        mem::swap(&mut state.messages, into);
        mem::take(&mut state.overrun)
    }

    /// Records that the shard handled messages, with this many bytes of frames. `slots` has the
    /// slot of each of the frames, and is empty afterwards.
    pub fn done(&self, messages: usize, bytes: usize, slots: &mut Vec<u32>) {
        let was_full = self.is_full();
        if !slots.is_empty() {
            let queued = &mut self.state().queued;
            for slot in slots.drain(..) {
                queued[slot as usize] -= 1;
            }
        }
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

    /// Whether so much is queued that the shard must discard a part of it.
    pub fn is_overrun(&self) -> bool {
        self.depth() > MAILBOX_MESSAGES_MAX
            || self.bytes.load(Ordering::Relaxed) > MAILBOX_BYTES_MAX
    }

    /// Whether publishers whose events wait here should wait: the shard has not processed what it
    /// has.
    pub fn is_full(&self) -> bool {
        self.depth.load(Ordering::Acquire) >= MAILBOX_MESSAGES_FULL
            || self.bytes.load(Ordering::Acquire) >= MAILBOX_BYTES_FULL
    }

    /// Whether publishers to any channel should wait because its streams are far behind.
    pub fn has_congested(&self) -> bool {
        self.has_congested.load(Ordering::Acquire)
    }

    /// Whether publishers to these channels should wait, given by their slots: for their own
    /// events, and for their own streams.
    pub fn delays(&self, slots: &[u32]) -> bool {
        let (is_full, has_congested) = (self.is_full(), self.has_congested());
        if !is_full && !has_congested {
            return false;
        }
        let state = self.state();
        slots.iter().any(|slot| {
            let is_queued = state.queued.get(*slot as usize).is_some_and(|frames| *frames > 0);
            (is_full && is_queued) || state.congested.binary_search(slot).is_ok()
        })
    }

    /// Records the channels most of whose streams have a large backlog, by their slots in ascending
    /// order. Called by the shard.
    pub fn set_congested(&self, slots: Vec<u32>) {
        let has_congested = !slots.is_empty();
        let before = mem::replace(&mut self.state().congested, slots);
        self.has_congested.store(has_congested, Ordering::Release);
        if !before.is_empty() {
            self.room.notify_waiters();
        }
    }

    /// Wakes the shard, so that it looks at its streams.
    pub fn wake(&self) {
        (self.wake)();
    }

    /// Wakes waiting publishers if none of them must wait. Called by the shard after it wrote.
    pub fn look_for_room(&self) {
        // Pairs with the fence in `has_room`: either this thread sees the waiter, or the waiter
        // sees the room.
        fence(Ordering::SeqCst);
        let must_wait = || self.is_full() || self.has_congested();
        if self.has_waiters.load(Ordering::Relaxed) && !must_wait() {
            self.has_waiters.store(false, Ordering::Relaxed);
            self.room.notify_waiters();
        }
    }

    /// Resolves when publishers to the channels with these slots need not wait for the shard.
    /// Cancel safe.
    pub async fn has_room(&self, slots: &[u32]) {
        loop {
            let notified = self.room.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            self.has_waiters.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if !self.delays(slots) {
                return;
            }
            notified.await;
        }
    }

    /// Closes the mailbox, and returns the remaining messages.
    pub fn close(&self) -> Vec<Message> {
        let mut state = self.state();
        state.closed = true;
        state.queued = Vec::new();
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
