//! A subscription to channels: an async stream of frames, in order. Look here for the phases of a
//! stream; `attach` hands it to a shard.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use super::entry::Departure;
use super::inner::HubInner;
use super::replay::{Attached, Replay, Step, Target};
use super::start::{self, Begun, BegunKind, Rewind, Start};
use crate::channel::Channel;
use crate::close::CloseReason;
use crate::error::{Error, ErrorKind};
use crate::frame::Frame;
use crate::limits::CONFIRM_TIMEOUT;
use crate::log::Cursor;
use crate::stream::progress::Progress;
use crate::stream::queue::Queue;

/// An async stream of [`Frame`]s of its channels, from [`Hub::subscribe`](crate::Hub::subscribe).
///
/// Its queue is bounded: a subscription that is not read fast enough is closed with
/// [`CloseReason::Overflow`], without affecting others. Replayed events are not queued: they are
/// read as they are consumed. Dropping the subscription unsubscribes.
///
/// # Cancel safety
/// [`next`](Self::next) can be dropped at any time without losing a frame.
#[must_use = "a subscription that is dropped receives nothing"]
pub struct Subscription {
    pub(super) hub: Arc<HubInner>,
    pub(super) queue: Arc<Queue>,
    /// The channels, each with the key of this subscriber in the channel's entry.
    pub(super) entries: Box<[(Channel, usize)]>,
    pub(super) phase: Phase,
    pub(super) progress: Progress,
    client_id: ClientId,
    /// Why a channel's events will not arrive, if the broker has reported that.
    unconfirmed: Option<Error>,
    /// Whether the stream is on a shard, which counts its end.
    pub(super) is_on_shard: bool,
    /// Its number in the registry; 0 if it is not registered, or if its shard removes it.
    pub(super) number: u64,
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The last event ID that the client has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ClientId {
    /// None, and it has received nothing.
    None,
    /// One older than the last gap event it received: resuming from it would repeat the gap event.
    BeforeGap,
    /// One that covers everything it received.
    Current,
}

/// What a subscription starts with: the result of [`Subscription::ready`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Started {
    /// Live events: there is nothing to replay.
    Live,
    /// Retained events, then live ones.
    Replaying,
    /// Every channel was ended by its publisher, and nothing is left to deliver.
    Ended,
    /// Events of a channel may not arrive: the broker denies it, or has not confirmed it in time.
    /// The subscription stays open and delivers what arrives.
    Unconfirmed(Error),
}

/// The phase of a subscription.
pub(super) enum Phase {
    /// It has not been read yet.
    New(Start),
    /// The broker is confirming the channels.
    Starting(Boxed<Begun>),
    /// It reads past events, in steps.
    Replaying(Boxed<(Replay, Step)>),
    /// It delivers these frames, and then takes the next step of the replay, if any.
    Ready(VecDeque<Frame>, Option<Boxed<(Replay, Step)>>),
    /// It delivers from its queue.
    Live,
}

impl Subscription {
    pub(super) fn new(
        hub: Arc<HubInner>,
        queue: Arc<Queue>,
        entries: Box<[(Channel, usize)]>,
    ) -> Self {
        let channels = open_count(entries.len());
        Self {
            hub,
            queue,
            entries,
            phase: Phase::New(Start::Now),
            progress: Progress { until: Cursor::default(), open: channels, channels },
            client_id: ClientId::None,
            unconfirmed: None,
            is_on_shard: false,
            number: 0,
        }
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Resumes after this event ID, the client's `Last-Event-ID`. With `None` or an empty ID the
    /// subscription starts now.
    ///
    /// Missed events that cannot be found are reported by a frame with a [`gap`](Frame::gap); the
    /// subscription then delivers what is available. Call this before the first read; later it has
    /// no effect.
    pub fn after(self, last_event_id: impl Into<Option<String>>) -> Self {
        match last_event_id.into() {
            Some(id) if !id.is_empty() => {
                let mut subscription = self.start_at(Start::After(id));
                subscription.client_id = ClientId::Current;
                subscription
            }
            _ => self,
        }
    }

    /// Starts with retained events that were published before. Call this before the first read;
    /// later it has no effect.
    pub fn rewind(self, rewind: Rewind) -> Self {
        self.start_at(Start::Rewind(rewind))
    }

    /// Sets the owner, so that [`Hub::revoke`](crate::Hub::revoke) can close the subscription by
    /// its user, its token or its [ID](Self::id). If the token is already revoked, the subscription
    /// is closed at once.
    pub fn owned_by(mut self, user: Option<&str>, token_id: Option<&str>) -> Self {
        if self.number == 0 {
            self.number = self.hub.fanout.registry.insert(&self.queue, user, token_id);
        }
        self
    }

    /// Its ID, unique among all nodes, for
    /// [`Revocation::Stream`](crate::revocation::Revocation::Stream). `None` unless it has an
    /// [owner](Self::owned_by).
    pub fn id(&self) -> Option<String> {
        (self.number > 0).then(|| format!("{}-{}", self.hub.fanout.clock.node(), self.number))
    }

    fn start_at(mut self, start: Start) -> Self {
        if matches!(self.phase, Phase::New(_)) {
            self.queue.pause();
            self.phase = Phase::New(start);
        }
        self
    }

    /// The next frame. `None` when the subscription has ended; [`closed`](Self::closed) returns
    /// why.
    pub async fn next(&mut self) -> Option<Frame> {
        std::future::poll_fn(|context| self.poll_event(context)).await
    }

    /// Waits until events published to the channels from now on are known to arrive and, for a
    /// subscription that starts earlier, until the first event is available; at most for
    /// [`CONFIRM_TIMEOUT`], which is 1 s. With the embedded broker this takes no time; a networked
    /// broker needs one round trip for the first subscriber of a channel.
    ///
    /// Await this before you answer a request: then a client that publishes as soon as its stream
    /// is open receives its own event. Cancel safe.
    pub async fn ready(&mut self) -> Started {
        let started = std::future::poll_fn(|context| self.poll_started(context));
        // A stream whose events may arrive late is better than none, so it opens anyway.
        if tokio::time::timeout(CONFIRM_TIMEOUT, started).await.is_err() {
            return Started::Unconfirmed(Error::new(
                ErrorKind::Unavailable,
                "the broker has not confirmed the channels in time: events published meanwhile may \
                 arrive late",
            ));
        }
        if let Some(error) = self.unconfirmed.take() {
            return Started::Unconfirmed(error);
        }
        match &self.phase {
            Phase::Ready(frames, None) if frames.iter().all(Frame::is_marker) => Started::Live,
            Phase::Live if self.is_finished() => Started::Ended,
            Phase::Live => Started::Live,
            _ => Started::Replaying,
        }
    }

    /// Whether every channel was ended by its publisher and nothing is left to deliver. Known after
    /// [`ready`](Self::ready). An `EventSourceResponse` of such a subscription has the status
    /// `204`, so that clients stop reconnecting.
    pub fn is_finished(&self) -> bool {
        matches!(self.phase, Phase::Live) && self.progress.open == 0 && self.queue.is_empty()
    }

    /// Why the subscription has ended, if it has.
    pub fn closed(&self) -> Option<CloseReason> {
        self.queue.closed()
    }

    /// The channels, sorted, each once.
    pub fn channels(&self) -> impl Iterator<Item = &Channel> {
        self.entries.iter().map(|(channel, _)| channel)
    }

    /// Resolves when there is a frame to deliver, or the subscription is live.
    fn poll_started(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.phase {
                Phase::New(start) => {
                    let start = std::mem::replace(start, Start::Now);
                    let channels = self.entries.iter().map(|(channel, _)| channel.clone());
                    self.phase = Phase::Starting(Box::pin(start::start(
                        Arc::clone(&self.hub.recall),
                        Arc::clone(&self.queue),
                        channels.collect(),
                        start,
                    )));
                }
                Phase::Starting(starting) => {
                    let Begun { kind, unconfirmed } = ready!(starting.as_mut().poll(context));
                    self.unconfirmed = unconfirmed;
                    match kind {
                        BegunKind::Live { open, position } => {
                            self.progress.open = open_count(open);
                            // A client that reconnects before its first event can then resume too.
                            let is_new = open > 0 && self.queue.is_empty();
                            let marker = position.filter(|_| is_new).map(Frame::marker);
                            self.phase = Phase::Ready(marker.into_iter().collect(), None);
                        }
                        BegunKind::Replay(replay) => {
                            self.phase = Phase::Replaying(Box::pin(replay.step()));
                        }
                    }
                }
                Phase::Replaying(step) => {
                    let (replay, Step { mut frames, live }) = ready!(step.as_mut().poll(context));
                    if let Some(last) = frames.back() {
                        let has_id = last.position().is_some();
                        self.client_id =
                            if has_id { ClientId::Current } else { ClientId::BeforeGap };
                    }
                    let next = match live {
                        Some(Attached { progress, position }) => {
                            self.progress = progress;
                            let needs_id = match self.client_id {
                                // Clients do not reconnect to a stream that has ended.
                                ClientId::None => progress.open > 0,
                                ClientId::BeforeGap => true,
                                ClientId::Current => false,
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

    /// The next frame, including markers.
    #[doc(hidden)]
    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Frame>> {
        loop {
            if self.is_revoked() {
                return Poll::Ready(None);
            }
            if self.poll_started(context).is_pending() {
                // Until there is something to read, only a closed queue ends the stream.
                return match self.queue.watch_close(context) {
                    Some(_) => Poll::Ready(None),
                    None => Poll::Pending,
                };
            }
            if let Some(frame) = self.take_ready() {
                return Poll::Ready(Some(frame));
            }
            if !matches!(self.phase, Phase::Live) {
                // A drain ends a replay too, after a complete event.
                if self.queue.closed().is_some() {
                    return Poll::Ready(None);
                }
                continue;
            }
            if self.progress.open == 0 && self.queue.is_empty() {
                self.queue.close(CloseReason::Finished);
            }
            if self.start_missed() {
                continue;
            }
            let popped = self.queue.poll_pop(context);
            if popped.is_pending() && self.queue.must_replay() {
                continue;
            }
            let Some(frame) = ready!(popped) else {
                return Poll::Ready(None);
            };
            if self.progress.note(&frame) {
                return Poll::Ready(Some(frame));
            }
        }
    }

    /// Whether the client may not receive anything more, not even what was read ahead for it. The
    /// queue of a live stream is empty then.
    fn is_revoked(&self) -> bool {
        !matches!(self.phase, Phase::Live) && self.queue.closed() == Some(CloseReason::Revoked)
    }

    /// Starts to replay what the node has missed, if it has and all queued frames are delivered.
    fn start_missed(&mut self) -> bool {
        let Some(missed) = self.queue.take_missed() else { return false };
        let channels: Vec<Channel> = self.channels().cloned().collect();
        let recall = Arc::clone(&self.hub.recall);
        let target = Target::Queue(Arc::clone(&self.queue));
        let until = self.progress.until;
        let replay = Replay::of_missed(recall, target, &channels, &missed, until);
        self.phase = Phase::Replaying(Box::pin(replay.step()));
        true
    }

    /// The next frame if it is available now and has at most `bytes_max` bytes.
    #[doc(hidden)]
    pub fn take_waiting(&mut self, bytes_max: usize) -> Option<Frame> {
        if self.is_revoked() {
            return None;
        }
        match &mut self.phase {
            Phase::Ready(frames, _) => {
                frames.front().is_some_and(|frame| frame.len() <= bytes_max).then_some(())?;
                frames.pop_front()
            }
            Phase::Live => loop {
                let frame = self.queue.pop_if(|frame| frame.len() <= bytes_max)?;
                if self.progress.note(&frame) {
                    return Some(frame);
                }
            },
            _ => None,
        }
    }

    /// All frames that were read ahead; none if the subscription is live. `None` if it is closed.
    pub(super) fn poll_page(&mut self, context: &mut Context<'_>) -> Poll<Option<Vec<Frame>>> {
        if self.is_revoked() {
            return Poll::Ready(None);
        }
        if self.poll_started(context).is_pending() {
            return match self.queue.watch_close(context) {
                Some(_) => Poll::Ready(None),
                None => Poll::Pending,
            };
        }
        let page = match &mut self.phase {
            Phase::Ready(frames, _) => std::mem::take(frames),
            _ => VecDeque::new(),
        };
        Poll::Ready(Some(page.into()))
    }

    /// Whether nothing is left to replay, and nothing that was read ahead is left to deliver.
    pub(super) fn is_live(&self) -> bool {
        match &self.phase {
            Phase::Ready(frames, None) => frames.is_empty(),
            phase => matches!(phase, Phase::Live),
        }
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
        for (channel, key) in &self.entries {
            self.hub.leave(channel, Departure::Subscriber(*key));
        }
        self.hub.forget_owner(self.number);
        if !self.is_on_shard {
            self.hub.stream_ended(self.queue.closed().unwrap_or(CloseReason::ClientGone));
        }
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
