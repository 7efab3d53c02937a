//! The body of an event stream: opening, events, heartbeats, end. Look here for the order of the
//! bytes.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use headwater_core::close::CloseReason;
use headwater_core::transport::{Due, Ending, Framing, Intervals, StreamState, Tick, opening};
use http_body::{Body, Frame as BodyFrame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::options::{OnClose, StreamOptions, Until};
use super::source::Source;
use crate::limits::TICK;

/// The body. Its state is shared with the task that watches for stalls, if there is one, and with
/// the server, which watches the socket, or lets the engine take the stream.
pub(super) struct StreamBody {
    shared: Arc<Shared>,
    /// Whether the opening bytes were returned.
    opened: bool,
}

/// What a body shares with its watching task and with the server.
#[derive(Default)]
pub(super) struct Shared {
    /// `None` once the engine has taken the stream. Boxed, so that the empty body, which outlives
    /// it, is small.
    state: Mutex<Option<Box<State>>>,
    /// Whether the server watches the socket, and reports a client that accepts no data.
    pub(super) socket_is_watched: AtomicBool,
    /// Whether `StreamHandle` is probing if the response's body is still this one.
    pub(super) probing: AtomicBool,
    /// The address of the opening bytes, which identifies them.
    pub(super) opening: AtomicUsize,
}

pub(super) struct State {
    pub(super) options: StreamOptions,
    intervals: Intervals,
    /// `None` once the stream has ended.
    pub(super) source: Option<Source>,
    pub(super) on_close: Option<OnClose>,
    pub(super) until: Option<Until>,
    /// Its clock begins when the body is polled beyond its opening: until then the engine may take
    /// the stream, and has its own.
    stream: StreamState,
    began: Instant,
    /// Wakes the body when something is due; `None` until it is polled beyond its opening.
    timer: Option<Pin<Box<Sleep>>>,
}

/// The size that a body reports while it is probed. Not a real size.
pub(super) const IDENTITY_PROBE: u64 = 0x6865_6164_7761_7465;

impl StreamBody {
    pub(super) fn new(
        source: Source,
        options: StreamOptions,
        on_close: Option<OnClose>,
        until: Option<Until>,
    ) -> Self {
        let state = State {
            intervals: options.intervals(),
            options,
            source: Some(source),
            on_close,
            until,
            stream: StreamState::new(0, None),
            began: Instant::now(),
            timer: None,
        };
        let state = Mutex::new(Some(Box::new(state)));
        Self { shared: Arc::new(Shared { state, ..Shared::default() }), opened: false }
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    fn open(&mut self) -> Bytes {
        self.opened = true;
        let mut bytes = Vec::new();
        if let Some(state) = &mut *self.shared.state() {
            if let Some(send_timeout) = state.options.send_timeout
                && !self.shared.socket_is_watched.load(Ordering::Relaxed)
            {
                tokio::spawn(watch_for_stall(Arc::downgrade(&self.shared), send_timeout));
            }
            bytes = opening(state.options.retry);
            state.began = Instant::now();
        }
        let bytes = Bytes::from(bytes);
        self.shared.opening.store(bytes.as_ptr().addr(), Ordering::Relaxed);
        bytes
    }
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, Option<Box<State>>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the stream, unless it has ended.
    pub(super) fn end(&self, reason: CloseReason) {
        if let Some(state) = &mut *self.state() {
            state.end(reason);
        }
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        if !self.opened {
            let opening = self.open();
            return Poll::Ready(Some(Ok(BodyFrame::data(opening))));
        }
        let mut state = self.shared.state();
        let Some(state) = &mut *state else { return Poll::Ready(None) };
        let polled = state.poll(context);
        if polled.is_ready() {
            // The client has not taken it before the body is polled again.
            state.stream.waits(state.now());
        }
        polled.map(|bytes| bytes.map(|bytes| Ok(BodyFrame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.shared.state().as_ref().is_none_or(|state| state.source.is_none())
    }

    fn size_hint(&self) -> SizeHint {
        if self.shared.probing.load(Ordering::Relaxed) {
            return SizeHint::with_exact(IDENTITY_PROBE);
        }
        SizeHint::default()
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        self.shared.end(CloseReason::ClientGone);
    }
}

impl State {
    /// The current tick.
    fn now(&self) -> Tick {
        let ticks = self.began.elapsed().as_millis() / TICK.as_millis();
        Tick::try_from(ticks).unwrap_or(Tick::MAX)
    }

    fn at(&self, tick: Tick) -> Instant {
        self.began + TICK * tick
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.source.is_none() {
            return Poll::Ready(None);
        }
        self.stream.took_all();
        let due = self.poll_timer(context);
        if let Some(Due::End(reason)) = due {
            return Poll::Ready(self.end(reason));
        }
        if let Some(until) = &mut self.until
            && until.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(self.end(CloseReason::Drain));
        }
        let Some(source) = &mut self.source else { return Poll::Ready(None) };
        let bytes = match source.poll_bytes(context, self.options.name_by_channel) {
            Poll::Ready(Ok(bytes)) => bytes,
            Poll::Ready(Err(reason)) => return Poll::Ready(self.end(reason)),
            Poll::Pending => match &self.options.heartbeat {
                Some(heartbeat) if due == Some(Due::Heartbeat) => heartbeat.frame(),
                _ => return Poll::Pending,
            },
        };
        self.stream.wrote(self.now());
        Poll::Ready(Some(bytes))
    }

    /// What is due. If nothing is, the body is woken when something is.
    fn poll_timer(&mut self, context: &mut Context<'_>) -> Option<Due> {
        if self.timer.is_none() {
            let now = self.now();
            self.stream = StreamState::new(now, self.options.ends(now));
            let first = self.at(self.stream.next(&self.intervals)?);
            self.timer = Some(Box::pin(tokio::time::sleep_until(first)));
        }
        loop {
            if let Some(due) = self.stream.due(self.now(), &self.intervals) {
                return Some(due);
            }
            // Moving the timer for each event would cost more: it may fire early.
            let next = self.at(self.stream.next(&self.intervals)?);
            let timer = self.timer.as_mut()?.as_mut();
            if timer.poll(context).is_pending() {
                return None;
            }
            self.timer.as_mut()?.as_mut().reset(next);
        }
    }

    /// Ends the stream, and returns its last bytes. Has no effect on a stream that has ended.
    pub(super) fn end(&mut self, reason: CloseReason) -> Option<Bytes> {
        let source = self.source.take()?;
        let reason = source.close(reason);
        drop(source);
        (self.until, self.timer) = (None, None);
        if let Some(on_close) = self.on_close.take() {
            on_close(reason);
        }
        let StreamOptions { retry, name_by_channel: named, .. } = self.options;
        self.stream.close(&Ending { reason, retry, framing: Framing::Bare, named }, self.now());
        self.stream.take_end().map(Bytes::from)
    }
}

/// Closes the stream if the body is not polled within the timeout after it returned bytes. A body
/// that is not polled has no other way to notice.
async fn watch_for_stall(shared: Weak<Shared>, timeout: Duration) {
    loop {
        let next_check = {
            let Some(shared) = shared.upgrade() else { return };
            let mut state = shared.state();
            let Some(state) = &mut *state else { return };
            if state.source.is_none() {
                return;
            }
            if state.stream.due(state.now(), &state.intervals) == Some(Due::Stall) {
                state.end(CloseReason::Stalled);
                return;
            }
            let stalls_at = state.stream.waiting_since().map(|it| state.intervals.stalls_at(it));
            stalls_at.flatten().map_or_else(|| Instant::now() + timeout, |tick| state.at(tick))
        };
        tokio::time::sleep_until(next_check).await;
    }
}
