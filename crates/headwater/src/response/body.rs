//! The body of an event stream: opening, events, heartbeats, end. Look here for the order of bytes.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame as BodyFrame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::source::Source;
use super::watch::Watch;
use super::{EventSourceResponse, OnClose, Settings, Until};
use crate::close::CloseReason;
use crate::event::encode;

/// The body. Its state is shared with the task that looks after it, if there is one, and with the engine, which may
/// take it.
pub(super) struct StreamBody {
    shared: Arc<Shared>,
    /// Whether the first bytes went out.
    opened: bool,
}

/// What a body and others share.
#[derive(Default)]
pub(super) struct Shared {
    /// `None` when the engine has taken the stream. In a box, so that a body that lives on without it is
    /// small.
    state: Mutex<Option<Box<State>>>,
    /// Whether the body is being asked if it is still the response's: see `Takeover`.
    pub(super) asked: AtomicBool,
    /// Where the first bytes were, to recognise them.
    pub(super) opening: AtomicUsize,
}

pub(super) struct State {
    pub(super) settings: Settings,
    /// `None` when the stream has ended.
    pub(super) source: Option<Source>,
    pub(super) on_close: Option<OnClose>,
    pub(super) until: Option<Until>,
    watch: Option<Watch>,
    timers_run: bool,
    heartbeat_due: Option<Pin<Box<Sleep>>>,
    /// When the stream must end, and why then.
    time_over: Option<(Pin<Box<Sleep>>, CloseReason)>,
    written_at: Instant,
    /// Since when the client has not asked for more, after it was given something.
    waiting_since: Option<Instant>,
}

/// What a body says of its size when it is asked whether it is still the response's. No real size.
pub(super) const IDENTITY_PROBE: u64 = 0x6865_6164_7761_7465;

impl StreamBody {
    pub(super) fn new(response: EventSourceResponse) -> (Self, Option<Watch>) {
        let EventSourceResponse { source, settings, on_close, until } = response;
        let watch = settings.send_timeout.map(Watch::new);
        let state = State {
            settings,
            source: Some(source),
            on_close,
            until,
            watch: watch.clone(),
            timers_run: false,
            heartbeat_due: None,
            time_over: None,
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

    /// The first bytes, at once: browsers fire `open` when they come.
    fn open(&mut self) -> Bytes {
        self.opened = true;
        let mut bytes = Vec::with_capacity(32);
        encode::encode_comment("", &mut bytes);
        if let Some(state) = &mut *self.shared.state() {
            if let Some(watch) = &state.watch
                && !watch.socket_is_watched()
            {
                tokio::spawn(look_after(Arc::downgrade(&self.shared), watch.send_timeout()));
            }
            if let Some(retry) = state.settings.retry {
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
        if self.shared.asked.load(Ordering::Relaxed) {
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
    /// The engine has timers of its own, so these begin when a body is asked for more than its opening.
    fn start_timers(&mut self) {
        self.timers_run = true;
        self.heartbeat_due = self.settings.heartbeat.as_ref().map(|heartbeat| {
            Box::pin(tokio::time::sleep_until(self.written_at + heartbeat.interval))
        });
        let now = Instant::now();
        self.time_over = self
            .settings
            .time_over(now)
            .map(|(time, reason)| (Box::pin(tokio::time::sleep_until(time)), reason));
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if !self.timers_run {
            self.start_timers();
        }
        let Some(source) = &mut self.source else { return Poll::Ready(None) };
        if let Some((over, reason)) = &mut self.time_over
            && over.as_mut().poll(context).is_ready()
        {
            let reason = *reason;
            return Poll::Ready(self.end(reason));
        }
        if let Some(until) = &mut self.until
            && until.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(self.end(CloseReason::Drain));
        }
        match source.poll_bytes(context, self.settings.name_by_channel) {
            Poll::Ready(Ok(bytes)) => {
                self.written_at = Instant::now();
                Poll::Ready(Some(bytes))
            }
            Poll::Ready(Err(reason)) => Poll::Ready(self.end(reason)),
            Poll::Pending => self.poll_heartbeat(context),
        }
    }

    fn poll_heartbeat(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let (Some(heartbeat), Some(due)) = (&self.settings.heartbeat, &mut self.heartbeat_due)
        else {
            return Poll::Pending;
        };
        // The timer is not moved by each event; it looks, when it rings, when the last one was.
        while due.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            let idle_until = self.written_at + heartbeat.interval;
            if idle_until > now {
                due.as_mut().reset(idle_until);
                continue;
            }
            self.written_at = now;
            due.as_mut().reset(now + heartbeat.interval);
            return Poll::Ready(Some(heartbeat.bytes.clone()));
        }
        Poll::Pending
    }

    /// Ends the stream, once; gives the last bytes. The client is told when to come back, each at
    /// another time, if it is we who send it away.
    pub(super) fn end(&mut self, reason: CloseReason) -> Option<Bytes> {
        let source = self.source.take()?;
        let reason = source.close(reason);
        drop(source);
        self.until = None;
        self.heartbeat_due = None;
        self.time_over = None;
        if let Some(on_close) = self.on_close.take() {
            on_close(reason);
        }
        self.settings.last_bytes(reason).map(Bytes::from)
    }
}

impl Settings {
    /// What goes out last. The client is told when to come back, each at another time, if it is we who send
    /// it away.
    pub(crate) fn last_bytes(&self, reason: CloseReason) -> Option<Vec<u8>> {
        let sent_away =
            matches!(reason, CloseReason::Drain | CloseReason::Lifetime | CloseReason::Overflow);
        let retry = self.retry.filter(|_| sent_away)?;
        let mut bytes = Vec::new();
        encode::encode_retry(jittered(retry), &mut bytes);
        Some(bytes)
    }

    /// When a stream that begins now must end, and why then. Up to a tenth is taken off its lifetime, so
    /// that those that began together do not end together.
    pub(crate) fn time_over(&self, now: Instant) -> Option<(Instant, CloseReason)> {
        let lifetime = self.lifetime_max.map(|it| it.mul_f64(1.0 - fastrand::f64() / 10.0));
        let lifetime_over = lifetime.map(|lifetime| (now + lifetime, CloseReason::Lifetime));
        let expired = self.expires_at.map(|time| (time, CloseReason::Expired));
        lifetime_over.into_iter().chain(expired).min_by_key(|(time, _)| *time)
    }
}

/// Between the duration and one and a half times it.
fn jittered(retry: Duration) -> Duration {
    retry.mul_f64(1.0 + fastrand::f64() / 2.0)
}

/// Ends the stream if the client asks for nothing more within the timeout after it was given something.
async fn look_after(shared: Weak<Shared>, timeout: Duration) {
    loop {
        let look_again = {
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
        tokio::time::sleep_until(look_again).await;
    }
}
