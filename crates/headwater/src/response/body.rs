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
use headwater_core::transport::encode;
use http_body::{Body, Frame as BodyFrame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::options::{OnClose, StreamOptions, Until, jittered};
use super::source::Source;
use super::watch::Watch;

/// The body. Its state is shared with the task that watches for stalls, if there is one, and with
/// the engine, which may take it.
pub(super) struct StreamBody {
    shared: Arc<Shared>,
    /// Whether the opening bytes were returned.
    opened: bool,
}

/// What a body shares with its watching task and with the engine.
#[derive(Default)]
pub(super) struct Shared {
    /// `None` once the engine has taken the stream. Boxed, so that the empty body, which outlives
    /// it, is small.
    state: Mutex<Option<Box<State>>>,
    /// Whether `DetachHandle` is probing if the response's body is still this one.
    pub(super) probing: AtomicBool,
    /// The address of the opening bytes, which identifies them.
    pub(super) opening: AtomicUsize,
}

pub(super) struct State {
    pub(super) options: StreamOptions,
    /// `None` once the stream has ended.
    pub(super) source: Option<Source>,
    pub(super) on_close: Option<OnClose>,
    pub(super) until: Option<Until>,
    watch: Option<Watch>,
    timers_started: bool,
    heartbeat_due: Option<Pin<Box<Sleep>>>,
    /// When the stream must end, and the reason then.
    deadline: Option<(Pin<Box<Sleep>>, CloseReason)>,
    written_at: Instant,
    /// When the last bytes were returned, unless the body was polled again since.
    waiting_since: Option<Instant>,
}

/// The size that a body reports while it is probed. Not a real size.
pub(super) const IDENTITY_PROBE: u64 = 0x6865_6164_7761_7465;

impl StreamBody {
    pub(super) fn new(
        source: Source,
        options: StreamOptions,
        on_close: Option<OnClose>,
        until: Option<Until>,
    ) -> (Self, Option<Watch>) {
        let watch = options.send_timeout.map(Watch::new);
        let state = State {
            options,
            source: Some(source),
            on_close,
            until,
            watch: watch.clone(),
            timers_started: false,
            heartbeat_due: None,
            deadline: None,
            written_at: Instant::now(),
            waiting_since: None,
        };
        let state = Mutex::new(Some(Box::new(state)));
        let shared = Arc::new(Shared { state, ..Shared::default() });
        (Self { shared, opened: false }, watch)
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// The opening bytes, which are sent at once: browsers fire `open` when they receive them.
    fn open(&mut self) -> Bytes {
        self.opened = true;
        let mut bytes = Vec::with_capacity(32);
        encode::encode_comment("", &mut bytes);
        if let Some(state) = &mut *self.shared.state() {
            if let Some(watch) = &state.watch
                && !watch.socket_is_watched()
            {
                tokio::spawn(watch_for_stall(Arc::downgrade(&self.shared), watch.send_timeout()));
            }
            if let Some(retry) = state.options.retry {
                encode::encode_retry(jittered(retry), &mut bytes);
            }
            state.written_at = Instant::now();
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
        state.waiting_since = polled.is_ready().then(Instant::now);
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
        if let Some(state) = &mut *self.shared.state() {
            let stalled = state.watch.as_ref().is_some_and(Watch::is_stalled);
            state.end(if stalled { CloseReason::Stalled } else { CloseReason::ClientGone });
        }
    }
}

impl State {
    /// Runs when a body is polled beyond its opening: the engine has separate timers.
    fn start_timers(&mut self) {
        self.timers_started = true;
        self.heartbeat_due = self.options.heartbeat.as_ref().map(|heartbeat| {
            Box::pin(tokio::time::sleep_until(self.written_at + heartbeat.interval()))
        });
        let now = Instant::now();
        self.deadline = self
            .options
            .deadline(now)
            .map(|(time, reason)| (Box::pin(tokio::time::sleep_until(time)), reason));
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if !self.timers_started {
            self.start_timers();
        }
        let Some(source) = &mut self.source else { return Poll::Ready(None) };
        if let Some((due, reason)) = &mut self.deadline
            && due.as_mut().poll(context).is_ready()
        {
            let reason = *reason;
            return Poll::Ready(self.end(reason));
        }
        if let Some(until) = &mut self.until
            && until.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(self.end(CloseReason::Drain));
        }
        match source.poll_bytes(context, self.options.name_by_channel) {
            Poll::Ready(Ok(bytes)) => {
                self.written_at = Instant::now();
                Poll::Ready(Some(bytes))
            }
            Poll::Ready(Err(reason)) => Poll::Ready(self.end(reason)),
            Poll::Pending => self.poll_heartbeat(context),
        }
    }

    fn poll_heartbeat(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let (Some(heartbeat), Some(due)) = (&self.options.heartbeat, &mut self.heartbeat_due)
        else {
            return Poll::Pending;
        };
        // Moving the timer for each event would cost more: it checks the last write when it fires.
        while due.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            let idle_until = self.written_at + heartbeat.interval();
            if idle_until > now {
                due.as_mut().reset(idle_until);
                continue;
            }
            self.written_at = now;
            due.as_mut().reset(now + heartbeat.interval());
            return Poll::Ready(Some(heartbeat.frame()));
        }
        Poll::Pending
    }

    /// Ends the stream, and returns the last bytes: see `StreamOptions::last_bytes`. Has no effect
    /// on a stream that has ended.
    pub(super) fn end(&mut self, reason: CloseReason) -> Option<Bytes> {
        let source = self.source.take()?;
        let reason = source.close(reason);
        drop(source);
        self.until = None;
        self.heartbeat_due = None;
        self.deadline = None;
        if let Some(on_close) = self.on_close.take() {
            on_close(reason);
        }
        self.options.last_bytes(reason).map(Bytes::from)
    }
}

/// Closes the stream if the body is not polled within the timeout after it returned bytes.
async fn watch_for_stall(shared: Weak<Shared>, timeout: Duration) {
    loop {
        let next_check = {
            let Some(shared) = shared.upgrade() else { return };
            let mut state = shared.state();
            let Some(state) = &mut *state else { return };
            if state.source.is_none() {
                return;
            }
            match state.waiting_since {
                Some(since) if since.elapsed() >= timeout => {
                    state.end(CloseReason::Stalled);
                    return;
                }
                Some(since) => since + timeout,
                None => Instant::now() + timeout,
            }
        };
        tokio::time::sleep_until(next_check).await;
    }
}
