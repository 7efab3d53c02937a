//! The limits of clients, and the response to a request that exceeds one.

use std::time::Duration;

use headwater::Problem;
use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    Streams,
    StreamsPerAddress,
    StreamsPerUser,
    PublishesPerAddress,
    PublishesPerUser,
    FailedLogins,
}

impl Limit {
    pub(crate) const ALL: [Self; 6] = [
        Self::Streams,
        Self::StreamsPerAddress,
        Self::StreamsPerUser,
        Self::PublishesPerAddress,
        Self::PublishesPerUser,
        Self::FailedLogins,
    ];

    /// The name in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Streams => "streams",
            Self::StreamsPerAddress => "streams-per-address",
            Self::StreamsPerUser => "streams-per-user",
            Self::PublishesPerAddress => "publishes-per-address",
            Self::PublishesPerUser => "publishes-per-user",
            Self::FailedLogins => "failed-logins",
        }
    }

    /// The message for the client.
    pub(crate) fn advice(self) -> &'static str {
        match self {
            Self::Streams => "the server is full: reconnect later",
            Self::StreamsPerAddress => {
                "too many streams from this address: close one, or take several channels on one \
                 stream"
            }
            Self::StreamsPerUser => {
                "too many streams of this user: close one, or take several channels on one stream"
            }
            Self::PublishesPerAddress => "too many events from this address: publish more slowly",
            Self::PublishesPerUser => "too many events of this user: publish more slowly",
            Self::FailedLogins => {
                "too many failed logins from this address or with these credentials: wait, then \
                 try again"
            }
        }
    }
}

/// Which limit a request exceeds, and when to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LimitExceeded {
    pub(crate) limit: Limit,
    pub(crate) retry_after: Duration,
}

impl From<LimitExceeded> for Problem {
    fn from(exceeded: LimitExceeded) -> Self {
        // Whole seconds, rounded up.
        let seconds = exceeded.retry_after.as_secs_f64().ceil().max(1.0);
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, exceeded.limit.advice());
        match HeaderValue::from_str(&format!("{seconds:.0}")) {
            Ok(seconds) => problem.with_header(RETRY_AFTER, seconds),
            Err(_) => problem,
        }
    }
}
