//! The body of an event stream: opening, events, heartbeats, end. Look here for the order of bytes.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame as BodyFrame};
use tokio::time::{Instant, Sleep};

use super::source::Source;
use super::watch::Watch;
use super::{EventSourceResponse, OnClose, Settings, Until};
use crate::closed::Closed;
use crate::event::encode;

/// The body. Its state is shared with the task that looks after it, if there is one.
pub(super) struct StreamBody {
    state: Arc<Mutex<State>>,
    watch: Option<Watch>,
    /// Whether the first bytes went out.
    opened: bool,
}

struct State {
    settings: Settings,
    /// `None` when the stream has ended.
    source: Option<Source>,
    on_close: Option<OnClose>,
    until: Option<Until>,
    heartbeat_due: Option<Pin<Box<Sleep>>>,
    /// When the stream must end, and why then.
    time_over: Option<(Pin<Box<Sleep>>, Closed)>,
    written_at: Instant,
    /// Since when the client has not asked for more, after it was given something.
    waiting_since: Option<Instant>,
}

impl StreamBody {
    pub(super) fn new(response: EventSourceResponse) -> (Self, Option<Watch>) {
        let EventSourceResponse { source, settings, on_close, until } = response;
        let watch = settings.send_timeout.map(Watch::new);
        let state = State {
            settings,
            source: Some(source),
            on_close,
            until,
            heartbeat_due: None,
            time_over: None,
            written_at: Instant::now(),
            waiting_since: None,
        };
        let body = Self { state: Arc::new(Mutex::new(state)), watch: watch.clone(), opened: false };
        (body, watch)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first bytes, at once: browsers fire `open` when they come.
    fn open(&mut self) -> Bytes {
        self.opened = true;
        if let Some(watch) = &self.watch
            && !watch.socket_is_watched()
        {
            tokio::spawn(look_after(Arc::downgrade(&self.state), watch.send_timeout()));
        }
        let mut state = self.state();
        state.start_timers();
        let mut bytes = Vec::with_capacity(32);
        encode::encode_comment("", &mut bytes);
        if let Some(retry) = state.settings.retry {
            encode::encode_retry(jittered(retry), &mut bytes);
        }
        bytes.into()
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
        let mut state = self.state();
        let polled = state.poll(context);
        state.waiting_since = polled.is_ready().then(Instant::now);
        polled.map(|bytes| bytes.map(|bytes| Ok(BodyFrame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.state().source.is_none()
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        let stalled = self.watch.as_ref().is_some_and(Watch::is_stalled);
        self.state().end(if stalled { Closed::Stalled } else { Closed::Client });
    }
}

impl State {
    fn start_timers(&mut self) {
        self.written_at = Instant::now();
        self.heartbeat_due = self
            .settings
            .heartbeat
            .as_ref()
            .map(|heartbeat| Box::pin(tokio::time::sleep(heartbeat.interval)));
        let lifetime_over = self.settings.lifetime_max.map(|lifetime| {
            (Instant::now() + lifetime.mul_f64(1.0 - fastrand::f64() / 10.0), Closed::Lifetime)
        });
        let expired = self.settings.expires_at.map(|time| (time, Closed::Expired));
        // One timer serves both: only the first of them matters.
        self.time_over = lifetime_over
            .into_iter()
            .chain(expired)
            .min_by_key(|(time, _)| *time)
            .map(|(time, reason)| (Box::pin(tokio::time::sleep_until(time)), reason));
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
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
            return Poll::Ready(self.end(Closed::Drain));
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
    fn end(&mut self, reason: Closed) -> Option<Bytes> {
        let source = self.source.take()?;
        let reason = source.close(reason);
        drop(source);
        self.until = None;
        self.heartbeat_due = None;
        self.time_over = None;
        if let Some(on_close) = self.on_close.take() {
            on_close(reason);
        }
        let sent_away = matches!(reason, Closed::Drain | Closed::Lifetime | Closed::Overflow);
        let retry = self.settings.retry.filter(|_| sent_away)?;
        let mut bytes = Vec::new();
        encode::encode_retry(jittered(retry), &mut bytes);
        Some(bytes.into())
    }
}

/// Between the duration and one and a half times it.
fn jittered(retry: Duration) -> Duration {
    retry.mul_f64(1.0 + fastrand::f64() / 2.0)
}

/// Ends the stream if the client asks for nothing more within the timeout after it was given something.
async fn look_after(state: Weak<Mutex<State>>, timeout: Duration) {
    loop {
        let look_again = {
            let Some(state) = state.upgrade() else { return };
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.source.is_none() {
                return;
            }
            match state.waiting_since {
                Some(since) if since.elapsed() >= timeout => {
                    state.end(Closed::Stalled);
                    return;
                }
                Some(since) => since + timeout,
                None => Instant::now() + timeout,
            }
        };
        tokio::time::sleep_until(look_again).await;
    }
}
