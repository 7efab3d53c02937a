//! The HTTP response that is an event stream. Look here for headers, settings and what users can ask of it.

mod body;
mod source;
mod takeover;
mod watch;

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use tokio::time::Instant;

use crate::close::CloseReason;
use crate::event::{Event, encode};
use crate::hub::Subscription;
use crate::limits::{HEARTBEAT_DEFAULT, RETRY_DEFAULT, SEND_TIMEOUT_DEFAULT};

use body::StreamBody;
use source::Source;
pub use source::StreamItem;
pub(crate) use takeover::{Callbacks, Detached, First, Takeover};
pub(crate) use watch::Watch;

/// An error of a user's stream.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// A response that streams events to a browser's `EventSource`, or to any other client of Server-Sent Events (WHATWG
/// HTML, "Server-sent events"). Its body works under any HTTP server for axum.
///
/// It answers `200` with `text/event-stream` and headers that keep caches and proxies from holding events back. A
/// comment and `retry:` go out at once, so that the client knows it is connected.
///
/// ```
/// use axum::extract::State;
/// use headwater::{Channel, Problem, EventSourceResponse, Hub};
///
/// async fn events(State(hub): State<Hub>) -> Result<EventSourceResponse, Problem> {
///     let subscription = hub.subscribe([Channel::new("news")?])?;
///     Ok(EventSourceResponse::new(subscription))
/// }
/// ```
#[must_use = "a response does nothing until it is returned from a handler"]
pub struct EventSourceResponse {
    source: Source,
    settings: Settings,
    on_close: Option<OnClose>,
    until: Option<Until>,
}

pub(crate) type OnClose = Box<dyn FnOnce(CloseReason) + Send>;
type Until = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What can be set on a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) heartbeat: Option<Heartbeat>,
    pub(crate) retry: Option<Duration>,
    pub(crate) send_timeout: Option<Duration>,
    pub(crate) lifetime_max: Option<Duration>,
    pub(crate) expires_at: Option<Instant>,
    pub(crate) name_by_channel: bool,
}

/// What goes out on a stream that has been idle, so that proxies do not cut it and dead clients are noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Heartbeat {
    bytes: bytes::Bytes,
    interval: Duration,
}

impl Heartbeat {
    /// A comment, which scripts in a browser do not see. This is the default, every 15 s.
    pub fn comment() -> Self {
        let mut bytes = Vec::new();
        encode::encode_comment("", &mut bytes);
        Self { bytes: bytes.into(), interval: HEARTBEAT_DEFAULT }
    }

    /// An event, which scripts do see: they can tell a dead connection from a quiet one. Give it a
    /// name, and no id.
    pub fn event(event: &Event) -> Self {
        Self { bytes: event.encode().into(), interval: HEARTBEAT_DEFAULT }
    }

    /// After how much idle time. At least one second.
    pub fn every(mut self, interval: Duration) -> Self {
        self.interval = interval.max(Duration::from_secs(1));
        self
    }

    pub(crate) fn interval(&self) -> Duration {
        self.interval
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl EventSourceResponse {
    /// Streams what a subscription gets.
    pub fn new(subscription: Subscription) -> Self {
        Self::of(Source::Subscription(subscription))
    }

    /// Streams any stream of [`Event`]s, [`Frame`](crate::Frame)s, or `Result`s of them. An error ends
    /// the stream with [`CloseReason::SourceError`] and is logged; clients come back after `retry`.
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
        let settings = Settings {
            heartbeat: Some(Heartbeat::comment()),
            retry: Some(RETRY_DEFAULT),
            send_timeout: Some(SEND_TIMEOUT_DEFAULT),
            lifetime_max: None,
            expires_at: None,
            name_by_channel: false,
        };
        Self { source, settings, on_close: None, until: None }
    }

    /// What goes out when the stream is idle; `None` for nothing.
    pub fn heartbeat(mut self, heartbeat: impl Into<Option<Heartbeat>>) -> Self {
        self.settings.heartbeat = heartbeat.into();
        self
    }

    /// How long clients wait before they reconnect; `None` leaves it to them. Each is told between this and one and a half
    /// times this, so that they do not all come back at once. Default 2 s.
    pub fn retry(mut self, retry: impl Into<Option<Duration>>) -> Self {
        self.settings.retry = retry.into();
        self
    }

    /// How long a write to the client may make no progress before the stream ends with
    /// [`CloseReason::Stalled`]; `None` for ever. Default 30 s.
    ///
    /// Under [`serve`](crate::serve()) the connection ends too. Another server may hold on to it; then its
    /// buffers stay, and what the stream held is given up.
    pub fn send_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.send_timeout = timeout.into();
        self
    }

    /// How long the stream may last before it ends with [`CloseReason::Lifetime`], and the client comes
    /// back. Up to a tenth is taken off at random, so that streams that began together do not end
    /// together. Default: for ever.
    pub fn lifetime_max(mut self, lifetime: impl Into<Option<Duration>>) -> Self {
        self.settings.lifetime_max = lifetime.into();
        self
    }

    /// Ends the stream at this time, on a whole event, with [`CloseReason::Expired`]: what its client was
    /// allowed is over then. Unlike [`lifetime_max`](Self::lifetime_max) nothing is taken off, and what
    /// waits for the client at that time is not sent. Default: never.
    pub fn expires_at(mut self, time: impl Into<Option<Instant>>) -> Self {
        self.settings.expires_at = time.into();
        self
    }

    /// Puts the channel's name into `event:` of events that the publisher gave no name, so that a
    /// client of several channels can tell them apart.
    pub fn name_by_channel(mut self, on: bool) -> Self {
        self.settings.name_by_channel = on;
        self
    }

    /// Called once when the stream has ended, with the reason.
    pub fn on_close(mut self, on_close: impl FnOnce(CloseReason) + Send + 'static) -> Self {
        self.on_close = Some(Box::new(on_close));
        self
    }

    /// Ends the stream in an orderly way, with [`CloseReason::Drain`], when the future resolves. A
    /// subscription ends with its hub's [`drain`](crate::Hub::drain) without this; it is for streams
    /// of your own.
    pub fn until(mut self, until: impl Future<Output = ()> + Send + 'static) -> Self {
        self.until = Some(Box::pin(until));
        self
    }
}

impl IntoResponse for EventSourceResponse {
    fn into_response(self) -> Response {
        if self.source.is_finished() {
            // The standard's way to say: do not come back.
            self.source.close(CloseReason::Finished);
            if let Some(on_close) = self.on_close {
                on_close(CloseReason::Finished);
            }
            return StatusCode::NO_CONTENT.into_response();
        }
        // A future of the user's needs a task, which the engine has not.
        let can_be_taken = matches!(self.source, Source::Subscription(_)) && self.until.is_none();
        let (body, watch) = StreamBody::new(self);
        let takeover = can_be_taken.then(|| Takeover::new(body.shared()));
        let mut response = Response::new(Body::new(body));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        // no-transform: a proxy that compresses would hold events back.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
        // nginx buffers responses unless told otherwise.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        if let Some(watch) = watch {
            response.extensions_mut().insert(watch);
        }
        if let Some(takeover) = takeover {
            response.extensions_mut().insert(takeover);
        }
        response
    }
}

impl fmt::Debug for EventSourceResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventSourceResponse").field("source", &self.source).finish_non_exhaustive()
    }
}
