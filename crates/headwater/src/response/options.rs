//! The options of a stream: heartbeat, retry, timeouts, lifetime. Look here for their defaults.

use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use headwater_core::Event;
use headwater_core::close::CloseReason;
use headwater_core::transport::{Intervals, Tick, encode, ticks};
use tokio::time::Instant;

use crate::limits::{HEARTBEAT_DEFAULT, RETRY_DEFAULT, SEND_TIMEOUT_DEFAULT};

/// An error of a stream passed to
/// [`EventSourceResponse::from_stream`](crate::EventSourceResponse::from_stream).
pub type BoxError = Box<dyn StdError + Send + Sync>;

pub(crate) type OnClose = Box<dyn FnOnce(CloseReason) + Send>;
pub(super) type Until = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The options of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamOptions {
    pub(crate) heartbeat: Option<Heartbeat>,
    pub(crate) retry: Option<Duration>,
    pub(crate) send_timeout: Option<Duration>,
    pub(crate) lifetime_max: Option<Duration>,
    pub(crate) expires_at: Option<Instant>,
    pub(crate) name_by_channel: bool,
}

/// What is sent on an idle stream, so that proxies do not close it and dead clients are detected.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Heartbeat {
    bytes: bytes::Bytes,
    interval: Duration,
}

impl Heartbeat {
    /// A comment, which is invisible to scripts in a browser. The default, every 15 s.
    pub fn comment() -> Self {
        let mut bytes = Vec::new();
        encode::encode_comment("", &mut bytes);
        Self { bytes: bytes.into(), interval: HEARTBEAT_DEFAULT }
    }

    /// An event, which scripts see: they can distinguish a dead connection from an idle one. Set
    /// its name, and no ID. Every 15 s by default.
    pub fn event(event: &Event) -> Self {
        Self { bytes: event.encode().into(), interval: HEARTBEAT_DEFAULT }
    }

    /// Sets the idle time after which the heartbeat is sent. At least one second; a shorter
    /// interval becomes one second.
    pub fn every(mut self, interval: Duration) -> Self {
        self.interval = interval.max(Duration::from_secs(1));
        self
    }

    pub(crate) fn interval(&self) -> Duration {
        self.interval
    }

    pub(crate) fn frame(&self) -> bytes::Bytes {
        self.bytes.clone()
    }
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            heartbeat: Some(Heartbeat::comment()),
            retry: Some(RETRY_DEFAULT),
            send_timeout: Some(SEND_TIMEOUT_DEFAULT),
            lifetime_max: None,
            expires_at: None,
            name_by_channel: false,
        }
    }
}

impl StreamOptions {
    /// The heartbeat and the send timeout, in ticks.
    pub(crate) fn intervals(&self) -> Intervals {
        Intervals::new(self.heartbeat.as_ref().map(Heartbeat::interval), self.send_timeout)
    }

    /// The tick at which a stream that starts now, at this tick, must end, and the reason then. Its
    /// lifetime is shortened by up to a tenth, so that streams that started together do not end
    /// together.
    pub(crate) fn ends(&self, now: Tick) -> Option<(Tick, CloseReason)> {
        let lifetime = self.lifetime_max.map(|it| it.mul_f64(1.0 - fastrand::f64() / 10.0));
        let lifetime = lifetime.map(|lifetime| (lifetime, CloseReason::Lifetime));
        let expiry = self.expires_at.map(|time| time.saturating_duration_since(Instant::now()));
        let expiry = expiry.map(|expiry| (expiry, CloseReason::Expired));
        let (left, reason) = lifetime.into_iter().chain(expiry).min_by_key(|(left, _)| *left)?;
        // The current tick has begun.
        Some((now.saturating_add(ticks(left)).saturating_add(1), reason))
    }
}
