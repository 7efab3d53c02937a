//! The HTTP response that is an event stream. Look here for its headers and options.

mod body;
#[cfg_attr(not(feature = "serve"), allow(dead_code, reason = "only serve uses handles"))]
mod handle;
mod options;
mod source;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use axum_core::body::Body;
use axum_core::response::{IntoResponse, Response};
use futures_core::Stream;
use headwater_core::Subscription;
use headwater_core::close::CloseReason;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use tokio::time::Instant;

use body::StreamBody;
use handle::StreamHandle as Handle;
#[cfg(feature = "serve")]
pub(crate) use handle::{Callbacks, DetachedStream, First, StreamHandle};
use options::Until;
pub use options::{BoxError, Heartbeat};
pub(crate) use options::{OnClose, StreamOptions};
use source::Source;
pub use source::StreamItem;

/// A response that streams events to a browser's `EventSource`, or to any other client of
/// Server-Sent Events (WHATWG HTML, "Server-sent events"). Its body works under any HTTP server for
/// axum.
///
/// The status is `200`, with `text/event-stream` and headers that prevent caches and proxies from
/// delaying events. A comment and `retry:` are sent at once, so that the client knows that it is
/// connected. If a subscription that is [`ready`](crate::Subscription::ready) has nothing to
/// deliver any more, because its channels have ended, the status is `204`: browsers then stop
/// reconnecting.
///
/// ```
/// use axum::extract::State;
/// use headwater::{Channel, EventSourceResponse, Hub, Problem};
///
/// async fn events(State(hub): State<Hub>) -> Result<EventSourceResponse, Problem> {
///     let subscription = hub.subscribe([Channel::new("news")?])?;
///     Ok(EventSourceResponse::new(subscription))
/// }
/// ```
#[must_use = "a response does nothing until it is returned from a handler"]
pub struct EventSourceResponse {
    source: Source,
    options: StreamOptions,
    on_close: Option<OnClose>,
    until: Option<Until>,
}

impl EventSourceResponse {
    /// Streams the frames of a subscription.
    pub fn new(subscription: Subscription) -> Self {
        Self::of(Source::Subscription(subscription))
    }

    /// Streams any stream of [`Event`](crate::Event)s, [`Frame`](crate::stream::Frame)s, or
    /// `Result`s of them. An error is logged and closes the stream with
    /// [`CloseReason::SourceError`]; clients reconnect after `retry`.
    ///
    /// ```
    /// use futures_util::stream;
    /// use headwater::{Event, EventSourceResponse};
    ///
    /// async fn countdown() -> EventSourceResponse {
    ///     let events = stream::iter((0..3).rev()).map(|n| Event::json(&n));
    ///     EventSourceResponse::from_stream(events)
    /// }
    /// # use futures_util::StreamExt;
    /// ```
    pub fn from_stream<S>(stream: S) -> Self
    where
        S: Stream + Send + 'static,
        S::Item: StreamItem,
    {
        Self::of(Source::from_stream(stream))
    }

    fn of(source: Source) -> Self {
        let options = StreamOptions::default();
        Self { source, options, on_close: None, until: None }
    }

    /// Sets what is sent when the stream is idle; `None` disables heartbeats. Default: a comment
    /// every 15 s.
    pub fn heartbeat(mut self, heartbeat: impl Into<Option<Heartbeat>>) -> Self {
        self.options.heartbeat = heartbeat.into();
        self
    }

    /// Sets how long clients wait before they reconnect; `None` leaves that to the client. Each
    /// client gets a random value between this and one and a half times this, so that clients do
    /// not all reconnect at once. Default 2 s.
    pub fn retry(mut self, retry: impl Into<Option<Duration>>) -> Self {
        self.options.retry = retry.into();
        self
    }

    /// Sets how long a write to the client may make no progress before the stream is closed with
    /// [`CloseReason::Stalled`]; `None` disables the timeout. Default 30 s.
    ///
    /// Under [`serve`](crate::serve()) the connection is closed too. Another server may keep it
    /// open: then its buffers remain, and what the stream held is released.
    pub fn send_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.options.send_timeout = timeout.into();
        self
    }

    /// Sets the maximum lifetime of the stream. It is then closed with [`CloseReason::Lifetime`],
    /// and the client reconnects. The lifetime is shortened by a random part of up to a tenth, so
    /// that streams that started together do not end together. Default: unlimited.
    pub fn lifetime_max(mut self, lifetime: impl Into<Option<Duration>>) -> Self {
        self.options.lifetime_max = lifetime.into();
        self
    }

    /// Closes the stream at this time, after a whole event, with [`CloseReason::Expired`], because
    /// the client's authorization expires. Unlike [`lifetime_max`](Self::lifetime_max), the time is
    /// not randomized, and events queued for the client at that time are not sent. Default: never.
    pub fn expires_at(mut self, time: impl Into<Option<Instant>>) -> Self {
        self.options.expires_at = time.into();
        self
    }

    /// Names events after their channel, in `event:`, unless the publisher named them, so that a
    /// client of several channels can distinguish them. Default: off.
    pub fn name_by_channel(mut self, on: bool) -> Self {
        self.options.name_by_channel = on;
        self
    }

    /// Calls `on_close` once, when the stream has ended, with the reason.
    pub fn on_close(mut self, on_close: impl FnOnce(CloseReason) + Send + 'static) -> Self {
        self.on_close = Some(Box::new(on_close));
        self
    }

    /// Closes the stream in an orderly way, with [`CloseReason::Drain`], when the future resolves.
    /// It is for sources other than subscriptions, which end with their hub's
    /// [`drain`](crate::Hub::drain) anyway. A stream with such a future does not move to the
    /// engine.
    pub fn until(mut self, until: impl Future<Output = ()> + Send + 'static) -> Self {
        self.until = Some(Box::pin(until));
        self
    }
}

impl IntoResponse for EventSourceResponse {
    fn into_response(self) -> Response {
        if self.source.is_finished() {
            // By the standard, clients do not reconnect after a 204.
            self.source.close(CloseReason::Finished);
            if let Some(on_close) = self.on_close {
                on_close(CloseReason::Finished);
            }
            return StatusCode::NO_CONTENT.into_response();
        }
        let Self { source, options, on_close, until } = self;
        let body = StreamBody::new(source, options, on_close, until);
        let handle = Handle::new(body.shared());
        let mut response = Response::new(Body::new(body));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        // no-transform: a proxy that compresses would delay events.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
        // nginx buffers responses by default.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response.extensions_mut().insert(handle);
        response
    }
}

impl fmt::Debug for EventSourceResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventSourceResponse").field("source", &self.source).finish_non_exhaustive()
    }
}
