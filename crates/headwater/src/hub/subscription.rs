//! A stream's interest in channels: frames come out, in order. Look here for the async side of the hub.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use super::HubInner;
use super::mailbox::{Given, Mailbox, Message, Newcomer};
use super::queue::Queue;
use super::resume::{self, Attached, Replay, Rewind, Start, Started, Step};
use super::table::Departure;
use crate::channel::Channel;
use crate::close::CloseReason;
use crate::frame::Frame;
use crate::limits::CONFIRM_TIMEOUT;
use crate::position::Key;

/// An async stream of [`Frame`]s of the channels it was made for, from
/// [`Hub::subscribe`](crate::Hub::subscribe).
///
/// Its queue is bounded: a subscription that is not read fast enough ends, with
/// [`CloseReason::Overflow`], and costs the others nothing. What it replays is not queued but read on as it is taken.
/// Dropping it unsubscribes.
///
/// # Cancel safety
/// [`next`](Self::next) can be dropped at any time without losing a frame.
#[must_use = "a subscription that is dropped gets nothing"]
pub struct Subscription {
    hub: Arc<HubInner>,
    queue: Arc<Queue>,
    /// The channels, each with the place of this subscriber in the channel table.
    entries: Box<[(Channel, usize)]>,
    phase: Phase,
    given: Given,
    told: Told,
    /// Whether a shard has the stream now.
    handed_over: bool,
    /// Its place in the registry; 0 if it has none.
    number: u64,
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a client can come back with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    /// It has no id, and was given nothing.
    Nothing,
    /// The last that it was given is a gap that has no id: with an older one it would be told again.
    GapOnly,
    /// It has an id that covers all that it was given.
    Id,
}

/// How far a subscription is.
enum Phase {
    /// It was not read yet.
    New(Start),
    /// The broker is confirming the channels.
    Starting(Boxed<Started>),
    /// It reads what was published before, in steps.
    Replaying(Boxed<(Replay, Step)>),
    /// Frames that are ready, and what comes after them.
    Ready(VecDeque<Frame>, Option<Boxed<(Replay, Step)>>),
    /// The queue gives what is published.
    Live,
}

impl Subscription {
    pub(super) fn new(
        hub: Arc<HubInner>,
        queue: Arc<Queue>,
        entries: Box<[(Channel, usize)]>,
    ) -> Self {
        let given = Given { until: Key::default(), open: open_count(entries.len()) };
        let phase = Phase::New(Start::Now);
        Self {
            hub,
            queue,
            entries,
            phase,
            given,
            told: Told::Nothing,
            handed_over: false,
            number: 0,
        }
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Begins after the event with this id, which a client says it got last: see
    /// [`LastEventId`](crate::LastEventId). With `None`, or an empty id, it begins now.
    ///
    /// What cannot be found is announced, by a frame with a [`gap`](Frame::gap); then the subscription goes on with
    /// what is there. To be called before the first read; later it has no effect.
    pub fn after(self, last_event_id: impl Into<Option<String>>) -> Self {
        match last_event_id.into() {
            Some(id) if !id.is_empty() => {
                let mut subscription = self.begin(Start::After(id));
                subscription.told = Told::Id;
                subscription
            }
            _ => self,
        }
    }

    /// Begins with events that were published before. To be called before the first read; later it has
    /// no effect.
    pub fn rewind(self, rewind: Rewind) -> Self {
        self.begin(Start::Rewind(rewind))
    }

    /// Says whose it is, so that [`Hub::revoke`](crate::Hub::revoke) can end it by its user, its token
    /// or its [id](Self::id). If the token is revoked already, it ends at once.
    pub fn owned_by(mut self, user: Option<&str>, token_id: Option<&str>) -> Self {
        if self.number == 0 {
            self.number = self.hub.registry.insert(&self.queue, user, token_id);
        }
        self
    }

    /// Its id among all nodes, for [`Revocation::Stream`](crate::Revocation::Stream); `None` unless it
    /// has an [owner](Self::owned_by).
    pub fn id(&self) -> Option<String> {
        (self.number > 0).then(|| format!("{}-{}", self.hub.node, self.number))
    }

    fn begin(mut self, start: Start) -> Self {
        if matches!(self.phase, Phase::New(_)) {
            self.queue.pause();
            self.phase = Phase::New(start);
        }
        self
    }

    /// The next frame; `None` when the subscription has ended, and [`closed`](Self::closed) says why.
    pub async fn next(&mut self) -> Option<Frame> {
        std::future::poll_fn(|context| self.poll_event(context)).await
    }

    /// Waits until what is published to the channels from now on is known to arrive and, for a
    /// subscription that begins earlier, until the first event is there; for a second at most. With the
    /// embedded broker that is at once; with Redis it takes one round trip for the first subscriber of a
    /// channel.
    ///
    /// Wait for it before you answer a request, and a client that publishes as soon as its stream is
    /// open gets its own event. Cancel safe.
    pub async fn ready(&mut self) {
        let started = std::future::poll_fn(|context| self.poll_started(context));
        // Late is better than never: the stream opens all the same.
        let _ = tokio::time::timeout(CONFIRM_TIMEOUT, started).await;
    }

    /// Whether every channel was ended by its publisher and nothing is left to give. Known after
    /// [`ready`](Self::ready); [`EventSourceResponse`](crate::EventSourceResponse) answers such
    /// a subscription with `204`, so that clients do not come back.
    pub fn is_finished(&self) -> bool {
        matches!(self.phase, Phase::Live) && self.given.open == 0 && self.queue.is_empty()
    }

    /// Why the subscription ended, if it did.
    pub fn closed(&self) -> Option<CloseReason> {
        self.queue.closed()
    }

    /// The channels, sorted, each once.
    pub fn channels(&self) -> impl Iterator<Item = &Channel> {
        self.entries.iter().map(|(channel, _)| channel)
    }

    /// Resolves when there is something to read, or it is known that there is nothing yet.
    fn poll_started(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.phase {
                Phase::New(start) => {
                    let start = std::mem::replace(start, Start::Now);
                    let channels = self.entries.iter().map(|(channel, _)| channel.clone());
                    self.phase = Phase::Starting(Box::pin(resume::start(
                        Arc::clone(&self.hub),
                        Arc::clone(&self.queue),
                        channels.collect(),
                        start,
                    )));
                }
                Phase::Starting(starting) => match ready!(starting.as_mut().poll(context)) {
                    Started::Live { open, position } => {
                        self.given.open = open_count(open);
                        // With its position from the beginning, a client that got nothing yet loses
                        // nothing either.
                        let is_new = open > 0 && self.queue.is_empty();
                        let marker = position.filter(|_| is_new).map(Frame::marker);
                        self.phase = Phase::Ready(marker.into_iter().collect(), None);
                    }
                    Started::Replay(replay) => {
                        self.phase = Phase::Replaying(Box::pin(replay.step()));
                    }
                },
                Phase::Replaying(step) => {
                    let (replay, Step { mut frames, live }) = ready!(step.as_mut().poll(context));
                    if let Some(last) = frames.back() {
                        let has_id = last.position().is_some();
                        self.told = if has_id { Told::Id } else { Told::GapOnly };
                    }
                    let next = match live {
                        Some(Attached { open, given, position }) => {
                            self.given = Given { until: given, open: open_count(open) };
                            let needs_id = match self.told {
                                // Nobody comes back to what has ended.
                                Told::Nothing => open > 0,
                                Told::GapOnly => true,
                                Told::Id => false,
                            };
                            if needs_id {
                                frames.push_back(Frame::marker(position));
                            }
                            None
                        }
                        None => Some(Box::pin(replay.step()) as _),
                    };
                    self.phase = Phase::Ready(frames, next);
                }
                Phase::Ready(frames, next) if frames.is_empty() => {
                    self.phase = next.take().map_or(Phase::Live, Phase::Replaying);
                }
                Phase::Ready(..) | Phase::Live => return Poll::Ready(()),
            }
        }
    }

    /// The next frame, markers too.
    pub(crate) fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Frame>> {
        loop {
            if self.poll_started(context).is_pending() {
                // While nothing can be read, only the end of the hub matters.
                return match self.queue.watch_close(context) {
                    Some(_) => Poll::Ready(None),
                    None => Poll::Pending,
                };
            }
            if let Some(frame) = self.take_ready() {
                return Poll::Ready(Some(frame));
            }
            if !matches!(self.phase, Phase::Live) {
                // A drain ends a replay too, on a whole event.
                if self.queue.closed().is_some() {
                    return Poll::Ready(None);
                }
                continue;
            }
            if self.given.open == 0 && self.queue.is_empty() {
                self.queue.close(CloseReason::Finished);
            }
            let Some(frame) = ready!(self.queue.poll_pop(context)) else {
                return Poll::Ready(None);
            };
            if self.given.note(&frame) {
                return Poll::Ready(Some(frame));
            }
        }
    }

    /// A frame that waits already, if it has at most so many bytes.
    pub(crate) fn take_waiting(&mut self, bytes_max: usize) -> Option<Frame> {
        match &mut self.phase {
            Phase::Ready(frames, _) => {
                frames.front().is_some_and(|frame| frame.len() <= bytes_max).then_some(())?;
                frames.pop_front()
            }
            Phase::Live => loop {
                let frame = self.queue.pop_if(|frame| frame.len() <= bytes_max)?;
                if self.given.note(&frame) {
                    return Some(frame);
                }
            },
            _ => None,
        }
    }

    /// A frame that was read ahead, or the stream's first marker, if it has at most so many bytes.
    pub(crate) fn take_replayed(&mut self, bytes_max: usize) -> Option<Frame> {
        let Phase::Ready(frames, _) = &mut self.phase else { return None };
        frames.front().is_some_and(|frame| frame.len() <= bytes_max).then_some(())?;
        frames.pop_front()
    }

    fn take_ready(&mut self) -> Option<Frame> {
        match &mut self.phase {
            Phase::Ready(frames, _) => frames.pop_front(),
            _ => None,
        }
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Frame>> {
        loop {
            match ready!(self.poll_frame(context)) {
                Some(frame) if frame.is_marker() => {}
                frame => return Poll::Ready(frame),
            }
        }
    }

    /// Whether nothing is left to replay and nothing that was read ahead waits, so that a shard can have it.
    pub(crate) fn is_live(&mut self) -> bool {
        if let Phase::Ready(frames, None) = &self.phase
            && frames.is_empty()
        {
            self.phase = Phase::Live;
        }
        matches!(self.phase, Phase::Live)
    }

    /// Hands a [live](Self::is_live) subscription over to a shard. If the shard is gone, the stream has
    /// ended with it, and the luggage comes back.
    ///
    /// Under the locks of all its channels its queue leaves the fan-out, what waits in it is packed, and
    /// the packet is put into the shard's mailbox. What is delivered afterwards is put behind it, so
    /// nothing is missed, nothing comes twice, and the order stays.
    pub(crate) fn attach(
        mut self,
        mailbox: &Arc<Mailbox>,
        luggage: Box<dyn Any + Send>,
    ) -> Result<(), Box<dyn Any + Send>> {
        debug_assert!(self.is_live());
        self.handed_over = true;
        mailbox.counts.streams.fetch_add(1, Ordering::Relaxed);
        let entries = std::mem::take(&mut self.entries);
        let mut channels = Vec::with_capacity(entries.len());
        let mut newcomer = Newcomer {
            channels: Box::default(),
            waiting: VecDeque::new(),
            given: self.given,
            closed: None,
            number: self.number,
            luggage,
        };
        let names = entries.iter().map(|(channel, _)| channel);
        let mut held = self.hub.table.lock_all(names);
        for (channel, key) in &entries {
            channels.extend(held.attach(channel, *key, mailbox));
        }
        let (waiting, closed) = self.queue.attach();
        (newcomer.waiting, newcomer.closed) = (waiting, closed);
        newcomer.channels = channels.into();
        let pushed = mailbox.push(Message::Attach(Box::new(newcomer)));
        drop(held);
        let closed_before = closed;
        let Err(Message::Attach(newcomer)) = pushed else {
            if self.number > 0 {
                // Whoever ends it from now on tells the shard; who did so a moment ago told the queue.
                let is_late = || {
                    let revoked = Some(CloseReason::Revoked);
                    self.queue.closed() == revoked && closed_before != revoked
                };
                self.hub.registry.attach(self.number, mailbox, is_late);
            }
            return Ok(());
        };
        self.hub.forget_owner(self.number);
        for (channel, _) in &entries {
            self.hub.leave(channel, Departure::Stream(mailbox));
        }
        self.hub.shard_stream_ended(mailbox, CloseReason::Internal);
        Err(newcomer.luggage)
    }

    pub(crate) fn hub(&self) -> &Arc<HubInner> {
        &self.hub
    }

    /// Ends the subscription for a reason of its owner's.
    pub(crate) fn close(&self, reason: CloseReason) {
        self.queue.close(reason);
    }

    pub(crate) fn count_sent(&self, frames: u64, bytes: usize) {
        self.hub.stats.sent.add(frames);
        self.hub.stats.sent_bytes.add(bytes as u64);
    }
}

fn open_count(channels: usize) -> u32 {
    u32::try_from(channels).unwrap_or(u32::MAX)
}

impl Stream for Subscription {
    type Item = Frame;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Frame>> {
        self.poll_event(context)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if self.handed_over {
            return;
        }
        for (channel, key) in &self.entries {
            self.hub.leave(channel, Departure::Subscriber(*key));
        }
        self.hub.forget_owner(self.number);
        self.hub.stream_ended(self.queue.closed().unwrap_or(CloseReason::ClientGone));
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("channels", &self.entries)
            .field("closed", &self.closed())
            .finish_non_exhaustive()
    }
}
