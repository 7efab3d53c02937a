//! What can be set on a stream: heartbeat, retry, timeouts, lifetime. Look here for their defaults.

use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use headwater_core::Event;
use headwater_core::close::CloseReason;
use headwater_core::transport::encode;
use tokio::time::Instant;

use crate::limits::{HEARTBEAT_DEFAULT, RETRY_DEFAULT, SEND_TIMEOUT_DEFAULT};

/// An error of a user's stream.
pub type BoxError = Box<dyn StdError + Send + Sync>;

pub(crate) type OnClose = Box<dyn FnOnce(CloseReason) + Send>;
pub(super) type Until = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What can be set on a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamOptions {
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
pub(super) fn jittered(retry: Duration) -> Duration {
    retry.mul_f64(1.0 + fastrand::f64() / 2.0)
}
