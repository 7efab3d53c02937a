//! Who sends a request, by address, and how much one may. Look here for the limits per address and per user, and for
//! whose address counts behind a proxy.

mod address;
mod forwarded;
mod rate_limit;
mod stream_limits;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use address::{AddressKey, ClientAddress, TrustedProxies};
pub use forwarded::{AddressHeader, client_address};
pub use rate_limit::Rate;
pub(crate) use stream_limits::StreamPlace;

use crate::limits::FULL_LOG_INTERVAL;
use crate::settings::Settings;
use rate_limit::RateLimit;
use stream_limits::StreamLimits;

/// What can be used up.
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

    /// What a client is told.
    pub(crate) fn advice(self) -> &'static str {
        match self {
            Self::Streams => "the server has as many streams as it takes: come back later",
            Self::StreamsPerAddress => {
                "too many streams from this address: close one, or take several channels on one stream"
            }
            Self::StreamsPerUser => {
                "too many streams of this user: close one, or take several channels on one stream"
            }
            Self::PublishesPerAddress => "too many events from this address: publish more slowly",
            Self::PublishesPerUser => "too many events of this user: publish more slowly",
            Self::FailedLogins => "too many failed logins from this address: wait, then try again",
        }
    }
}

/// Why a request is refused, and when to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) limit: Limit,
    pub(crate) retry_after: Duration,
}

/// Every limit that clients have.
pub(crate) struct ClientLimits {
    streams: Arc<StreamLimits>,
    publishes_per_address: Option<RateLimit>,
    publishes_per_user: Option<RateLimit>,
    failed_logins: Option<RateLimit>,
    refusals: [AtomicU64; Limit::ALL.len()],
    /// When the log said last that the server is full.
    full_logged_at: Mutex<Option<Instant>>,
}

impl ClientLimits {
    pub(crate) fn new(settings: &Settings) -> Self {
        let streams = StreamLimits {
            total_max: settings.max_streams.unwrap_or(settings.max_connections),
            per_address_max: settings.max_streams_per_address,
            per_user_max: settings.max_streams_per_user,
            ..StreamLimits::default()
        };
        Self {
            streams: Arc::new(streams),
            publishes_per_address: settings.max_publishes_per_address.map(RateLimit::new),
            publishes_per_user: settings.max_publishes_per_user.map(RateLimit::new),
            failed_logins: settings.max_failed_logins.map(RateLimit::new),
            refusals: Default::default(),
            full_logged_at: Mutex::default(),
        }
    }

    /// A place for one more stream. It is free again when what is returned is dropped.
    pub(crate) fn enter_stream(
        &self,
        address: ClientAddress,
        user: Option<&str>,
    ) -> Result<StreamPlace, Refusal> {
        let outcome = self.counted(self.streams.enter(address.key(), user));
        if matches!(outcome, Err(Refusal { limit: Limit::Streams, .. })) {
            self.log_that_it_is_full();
        }
        outcome
    }

    fn log_that_it_is_full(&self) {
        let mut logged_at = self.full_logged_at.lock().unwrap_or_else(PoisonError::into_inner);
        if logged_at.is_none_or(|at| at.elapsed() >= FULL_LOG_INTERVAL) {
            *logged_at = Some(Instant::now());
            tracing::warn!("max-streams is reached: new clients are asked to come back later");
        }
    }

    /// Whether this client may publish at all now: asked before its body is read.
    pub(crate) fn admit_publisher(
        &self,
        address: ClientAddress,
        user: Option<&str>,
    ) -> Result<(), Refusal> {
        self.counted(self.check_publisher(address, user))
    }

    /// Counts events that a client is about to publish. A client below its rate may publish a batch that
    /// goes beyond it, and then waits the longer: that way the size of batches needs no rule.
    pub(crate) fn take_publishes(
        &self,
        address: ClientAddress,
        user: Option<&str>,
        events: usize,
    ) -> Result<(), Refusal> {
        let take = || {
            self.check_publisher(address, user)?;
            let limit = Limit::PublishesPerAddress;
            spend(self.publishes_per_address.as_ref(), limit, address.key(), events)?;
            match user {
                Some(user) => {
                    spend(self.publishes_per_user.as_ref(), Limit::PublishesPerUser, user, events)
                }
                None => Ok(()),
            }
        };
        self.counted(take())
    }

    fn check_publisher(&self, address: ClientAddress, user: Option<&str>) -> Result<(), Refusal> {
        let limit = Limit::PublishesPerAddress;
        spend(self.publishes_per_address.as_ref(), limit, address.key(), 0)?;
        match user {
            Some(user) => spend(self.publishes_per_user.as_ref(), Limit::PublishesPerUser, user, 0),
            None => Ok(()),
        }
    }

    /// Whether credentials from this address are looked at: asked before they are.
    pub(crate) fn admit_login(&self, address: ClientAddress) -> Result<(), Refusal> {
        let limit = Limit::FailedLogins;
        self.counted(spend(self.failed_logins.as_ref(), limit, address.key(), 0))
    }

    /// Credentials from this address were wrong.
    pub(crate) fn login_failed(&self, address: ClientAddress) {
        let limit = Limit::FailedLogins;
        // It is refused already; what counts is that the next one is.
        let _ = spend(self.failed_logins.as_ref(), limit, address.key(), 1);
    }

    /// How often something was refused because of this limit.
    pub(crate) fn refusals(&self, limit: Limit) -> u64 {
        self.refusals[limit as usize].load(Ordering::Relaxed)
    }

    fn counted<T>(&self, outcome: Result<T, Refusal>) -> Result<T, Refusal> {
        if let Err(refusal) = &outcome {
            self.refusals[refusal.limit as usize].fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }
}

/// Takes so much of what a rate gives to a key. Nothing is taken to ask whether there is anything left.
fn spend(
    rate_limit: Option<&RateLimit>,
    limit: Limit,
    key: impl std::hash::Hash,
    cost: usize,
) -> Result<(), Refusal> {
    let Some(rate_limit) = rate_limit else { return Ok(()) };
    rate_limit.take(key, cost).map_err(|retry_after| Refusal { limit, retry_after })
}
