//! What the hub tells a shard of the engine, in order. Look here for how events and streams cross to a shard's thread.
//!
//! A lock around a vector, which the shard takes whole: a push is a few nanoseconds under the lock, there is
//! one lock for a batch on the other side, and first in, first out is plain to see. That order is what the
//! hand-over of a stream rests on: see `Subscription::attach`. That no wake-up of the shard is lost is
//! checked in the orders that the threads can have, in `loom_tests.rs`.

use std::any::Any;
use std::collections::VecDeque;
use std::mem;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

use tokio::sync::Notify;

use super::stats::Counter;
use super::sync::{AtomicBool, Mutex, MutexGuard};
use crate::channel::Channel;
use crate::close::CloseReason;
use crate::frame::Frame;
use crate::limits::{
    CONGESTED_BYTES, CONGESTED_STREAMS_MIN, MAILBOX_BYTES_FULL, MAILBOX_BYTES_MAX,
    MAILBOX_MESSAGES_FULL, MAILBOX_MESSAGES_MAX,
};
use crate::position::Key;

/// One message to a shard.
pub(crate) enum Message {
    /// A frame for the shard's streams on the channel with this slot.
    Deliver { slot: u32, frame: Frame },
    /// A frame for all streams of the shard.
    DeliverToAll(Frame),
    /// A stream joins the shard.
    Attach(Box<Newcomer>),
    /// All streams end in an orderly way.
    Drain,
    /// Some streams end because their clients may not have more.
    Revoke(Revoked),
    /// The shard's thread ends.
    Stop,
}

/// Whose streams end.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Revoked {
    /// The one with this number in the registry.
    Stream(u64),
    /// Those on the channel with this slot.
    Channel(u32),
}

/// A stream on its way to a shard.
pub(crate) struct Newcomer {
    /// The stream's channels, with their slots.
    pub(crate) channels: Box<[ChannelSlot]>,
    /// Frames that waited when the stream was handed over.
    pub(crate) waiting: VecDeque<Frame>,
    pub(crate) given: Given,
    /// Whether the stream was ended before it was handed over.
    pub(crate) closed: Option<CloseReason>,
    /// Its place in the registry; 0 if it has none.
    pub(crate) number: u64,
    /// What the engine needs beside: the hub does not look into it.
    pub(crate) luggage: Box<dyn Any + Send>,
}

/// A channel that a stream is on.
pub(crate) struct ChannelSlot {
    pub(crate) channel: Channel,
    pub(crate) slot: u32,
}

/// How far a stream is: what it must not be given again, and when it is over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Given {
    /// Everything up to here was given when the stream was attached.
    pub(crate) until: Key,
    /// Channels that are not finished.
    pub(crate) open: u32,
}

impl Given {
    /// Keeps account of a live frame; says whether it is to be given.
    pub(crate) fn note(&mut self, frame: &Frame) -> bool {
        use crate::gap::GapReason;

        if frame.gap().is_some_and(|gap| gap.reason == GapReason::Epoch) {
            // Positions begin anew.
            self.until = Key::default();
        }
        // The client is ahead of this node. Nothing else comes twice, and what is healed late is late,
        // not given already.
        if frame.key().is_some_and(|key| key <= self.until) {
            return false;
        }
        if frame.is_end() {
            self.open = self.open.saturating_sub(1);
        }
        true
    }
}

/// The messages that wait for one shard, and what the shard tells of itself.
pub(crate) struct Mailbox {
    state: Mutex<State>,
    /// Whether the shard was woken and has not looked since: one wake-up is enough.
    woken: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
    /// Messages that were not worked off, those that the shard has taken too.
    depth: AtomicUsize,
    /// Bytes of the frames among them.
    bytes: AtomicUsize,
    /// Tells publishers that there is room again.
    room: Notify,
    /// Whether a publisher waits for room.
    is_waited_for: AtomicBool,
    pub(crate) counts: Counts,
}

#[derive(Default)]
struct State {
    messages: Vec<Message>,
    /// Nothing is taken any more: the shard is gone.
    closed: bool,
    /// A frame was dropped because too many wait.
    overrun: bool,
    /// Released slots, and the next slot that was never used.
    free: Vec<u32>,
    next: u32,
}

/// What a shard tells of itself.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) streams: AtomicUsize,
    pub(crate) outbox_bytes: AtomicUsize,
    /// Streams with something in their outbox.
    pub(crate) blocked: AtomicUsize,
    pub(crate) writes: Counter,
    pub(crate) turns: Counter,
    pub(crate) panics: AtomicU64,
}

impl Counts {
    /// Whether most streams cannot be written to as fast as events come: then it is not a few slow clients.
    fn is_congested(&self) -> bool {
        let blocked = self.blocked.load(Ordering::Relaxed);
        blocked >= CONGESTED_STREAMS_MIN
            && blocked > self.streams.load(Ordering::Relaxed) / 2
            && self.outbox_bytes.load(Ordering::Relaxed) > blocked * CONGESTED_BYTES
    }
}

impl Mailbox {
    /// A mailbox whose shard is woken by calling `wake`.
    pub(crate) fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            state: Mutex::default(),
            woken: AtomicBool::new(false),
            wake: Box::new(wake),
            depth: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            room: Notify::new(),
            is_waited_for: AtomicBool::new(false),
            counts: Counts::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message, and wakes the shard. Gives it back if the shard is gone.
    pub(crate) fn push(&self, message: Message) -> Result<(), Message> {
        let mut state = self.state();
        if state.closed {
            return Err(message);
        }
        if let Message::Deliver { frame, .. } = &message {
            let is_full = self.depth() >= MAILBOX_MESSAGES_MAX
                || self.bytes.load(Ordering::Relaxed) >= MAILBOX_BYTES_MAX;
            // When the log began anew there is one gap for each channel, and no more: that many streams must
            // not end for it, and come back all at once.
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

    /// Takes all messages into an empty vector, which is left behind for the next ones. Says whether
    /// frames were dropped since the last time: then every stream of the shard has a hole. For the shard.
    pub(crate) fn take(&self, into: &mut Vec<Message>) -> bool {
        debug_assert!(into.is_empty());
        // Before looking: whoever pushes after the look wakes again.
        self.woken.store(false, Ordering::Release);
        let mut state = self.state();
        mem::swap(&mut state.messages, into);
        mem::take(&mut state.overrun)
    }

    /// So many messages, with frames of so many bytes, were worked off.
    pub(crate) fn done(&self, messages: usize, bytes: usize) {
        let was_full = self.is_full();
        self.depth.fetch_sub(messages, Ordering::AcqRel);
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        if was_full && !self.is_full() {
            self.room.notify_waiters();
        }
    }

    pub(crate) fn depth(&self) -> usize {
        self.depth.load(Ordering::Relaxed)
    }

    /// Whether publishers should wait.
    pub(crate) fn is_full(&self) -> bool {
        self.depth.load(Ordering::Acquire) >= MAILBOX_MESSAGES_FULL
            || self.bytes.load(Ordering::Acquire) >= MAILBOX_BYTES_FULL
            || self.counts.is_congested()
    }

    /// Lets publishers go on if they wait and there is room. For the shard, after it wrote.
    pub(crate) fn look_for_room(&self) {
        // Either this sees who waits, or who waits sees the room: see `has_room`.
        fence(Ordering::SeqCst);
        if self.is_waited_for.load(Ordering::Relaxed) && !self.is_full() {
            self.is_waited_for.store(false, Ordering::Relaxed);
            self.room.notify_waiters();
        }
    }

    /// Resolves when publishers need not wait for the shard. Cancel safe.
    pub(crate) async fn has_room(&self) {
        loop {
            let notified = self.room.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            self.is_waited_for.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if !self.is_full() {
                return;
            }
            notified.await;
        }
    }

    /// Takes nothing from now on; gives what is left.
    pub(crate) fn close(&self) -> Vec<Message> {
        let mut state = self.state();
        state.closed = true;
        let left = mem::take(&mut state.messages);
        drop(state);
        self.depth.store(0, Ordering::Release);
        self.bytes.store(0, Ordering::Release);
        self.room.notify_waiters();
        left
    }

    /// Whether the shard is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// An unused slot for a channel. Called with the channel's lock held.
    pub(super) fn allocate_slot(&self) -> u32 {
        let mut state = self.state();
        state.free.pop().unwrap_or_else(|| {
            state.next += 1;
            state.next - 1
        })
    }

    /// Releases the slot of a channel. Its last frames may still be in the mailbox; they are before
    /// whatever is pushed for the slot's next channel.
    pub(super) fn free_slot(&self, slot: u32) {
        self.state().free.push(slot);
    }
}
