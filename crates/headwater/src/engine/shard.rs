//! The tables of one shard, and the writes to its streams. Look here for what a shard's thread
//! owns; its loop is in `turn`.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use headwater_core::close::CloseReason;
use headwater_core::frame::Frame;
use headwater_core::transport::{Message, ShardPort, Tick, WaitingBounds};
use mio::{Interest, Poll, Token};
use slab::Slab;
use tokio::sync::oneshot;

use super::batch::Batch;
use super::channels::Channels;
use super::replays::Replays;
use super::stream::{Profile, Stream};
use super::wheel::TimerWheel;

/// The poll token of the mailbox. A stream's token is its key.
pub(super) const MAILBOX: Token = Token(usize::MAX);

/// The state of a shard's thread.
pub(super) struct Shard {
    /// Shared, because cleaning up after a failed shard needs it.
    pub(super) port: Arc<ShardPort>,
    pub(super) poll: Poll,
    pub(super) streams: Slab<Stream>,
    pub(super) channels: Channels,
    pub(super) replays: Replays,
    pub(super) wheel: TimerWheel,
    pub(super) began: Instant,
    /// The current tick, counted from `began`.
    pub(super) now: Tick,
    pub(super) bounds: WaitingBounds,
    pub(super) profiles: Vec<Rc<Profile>>,
    /// Empty between turns; swapped with the mailbox's queue.
    pub(super) inbox: Vec<Message>,
    /// Messages taken out of the mailbox and not processed yet.
    pub(super) pending: VecDeque<Message>,
    /// Pages of replays, which are written after the live frames of a turn.
    pub(super) pages: VecDeque<ReplayPage>,
    /// The slots of the frames that the turn has processed; empty between turns.
    pub(super) handled: Vec<u32>,
    pub(super) batch: Batch,
    pub(super) scratch: Box<[u8]>,
    pub(super) looked: Looked,
}

/// A page of a replay that is not written yet.
pub(super) struct ReplayPage {
    /// The replay's number.
    pub(super) replay: u64,
    pub(super) frames: Vec<Frame>,
    pub(super) written: oneshot::Sender<()>,
}

/// When a shard looked at its backlogs last, and how large they were.
#[derive(Default)]
pub(super) struct Looked {
    pub(super) tick: u32,
    pub(super) backlog_bytes: usize,
}

impl Shard {
    pub(super) fn new(port: ShardPort, poll: Poll) -> Self {
        let bounds = port.backlog_bounds();
        Self {
            port: Arc::new(port),
            poll,
            streams: Slab::new(),
            channels: Channels::default(),
            replays: Replays::default(),
            wheel: TimerWheel::at(0),
            began: Instant::now(),
            now: 0,
            bounds,
            profiles: Vec::new(),
            inbox: Vec::new(),
            pending: VecDeque::new(),
            pages: VecDeque::new(),
            handled: Vec::new(),
            batch: Batch::default(),
            scratch: vec![0; 4096].into(),
            looked: Looked::default(),
        }
    }
}

impl Shard {
    /// Writes bytes and frames that must be sent whatever waits, after what waits: the head of a
    /// response, and a page of a replay.
    pub(super) fn write_page(&mut self, key: u32, head: &[u8], frames: &[Frame]) -> io::Result<()> {
        let Some(stream) = self.streams.get_mut(key as usize) else { return Ok(()) };
        let (before, named) = (stream.state.backlog_bytes(), stream.profile.is_named());
        stream.state.queue_bytes(head, 0, self.now);
        let (mut events, mut bytes) = (0, 0);
        for frame in frames {
            stream.state.push_replayed(frame, named, self.now);
            events += u64::from(!frame.is_marker());
            bytes += frame.body_len(named);
        }
        self.port.sent(events, bytes);
        self.flush(key, before)
    }

    /// Writes what waits for a stream, which had a backlog of `before` bytes when they were counted
    /// last.
    pub(super) fn flush(&mut self, key: u32, before: usize) -> io::Result<()> {
        let Some(stream) = self.streams.get_mut(key as usize) else { return Ok(()) };
        let wrote = stream.flush(self.now);
        self.count_backlog(key, before);
        self.port.mailbox().counts.writes.add(wrote?);
        Ok(())
    }

    /// Counts what has changed in a stream's backlog.
    pub(super) fn count_backlog(&mut self, key: u32, before: usize) {
        let Some(stream) = self.streams.get_mut(key as usize) else { return };
        let held = stream.state.settle();
        self.port.backlog_changed(before, stream.state.backlog_bytes(), held);
    }

    /// Sets a stream's timer, and waits for its socket to become writable if it has a backlog.
    pub(super) fn watch(&mut self, key: u32) {
        let Some(stream) = self.streams.get_mut(key as usize) else { return };
        match stream.next() {
            Some(due) => self.wheel.set(key, due),
            None => self.wheel.clear(key),
        }
        if stream.state.backlog().is_none() || stream.watches_writes {
            return;
        }
        stream.watches_writes = true;
        let both = Interest::READABLE | Interest::WRITABLE;
        let token = Token(key as usize);
        if let Err(error) = self.poll.registry().reregister(&mut stream.socket, token, both) {
            tracing::error!("closing a stream whose socket cannot be polled: {error}");
            self.finish(key, CloseReason::Internal);
        }
    }
}
