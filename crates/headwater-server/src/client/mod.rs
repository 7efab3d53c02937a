//! The client of a request, by address, and its limits. Look here for the limits per address and
//! per user, and for which address counts behind a proxy.

mod address;
mod address_rate;
mod failed_logins;
mod forwarded;
mod rate_limit;
mod refusal;
mod stream_limits;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use address::{AddressKey, ClientAddress};
pub(crate) use failed_logins::ShownCredential;
pub use forwarded::client_address;
pub(crate) use rate_limit::{OneRate, RateLimit};
pub(crate) use refusal::{Limit, LimitExceeded};
pub(crate) use stream_limits::StreamPlace;

use crate::settings::LimitSettings;
use crate::throttled_log::ThrottledLog;
use address_rate::AddressRate;
use failed_logins::FailedLogins;
use stream_limits::StreamLimits;

/// Every limit that clients have.
pub(crate) struct ClientLimits {
    streams: Arc<StreamLimits>,
    publishes_per_address: Option<AddressRate>,
    publishes_per_user: Option<RateLimit>,
    failed_logins: Option<FailedLogins>,
    refusals: [AtomicU64; Limit::ALL.len()],
    /// For the report that the server is full.
    full: ThrottledLog,
}

impl ClientLimits {
    pub(crate) fn new(settings: &LimitSettings) -> Self {
        let streams = StreamLimits {
            total_max: settings.max_streams,
            per_address_max: settings.max_streams_per_address,
            per_user_max: settings.max_streams_per_user,
            ..StreamLimits::default()
        };
        Self {
            streams: Arc::new(streams),
            publishes_per_address: settings.max_publishes_per_address.map(AddressRate::new),
            publishes_per_user: settings.max_publishes_per_user.map(RateLimit::new),
            failed_logins: settings.max_failed_logins.map(FailedLogins::new),
            refusals: Default::default(),
            full: ThrottledLog::default(),
        }
    }

    /// A slot for one more stream, released when the returned value is dropped.
    pub(crate) fn acquire_stream(
        &self,
        address: ClientAddress,
        user: Option<&str>,
    ) -> Result<StreamPlace, LimitExceeded> {
        let outcome = self.counted(self.streams.acquire(address, user));
        if matches!(outcome, Err(LimitExceeded { limit: Limit::Streams, .. })) {
            self.full.warn(|_| {
                tracing::warn!("max-streams reached: asking new clients to reconnect later");
            });
        }
        outcome
    }

    /// Whether this address may open one more stream; checked before its credentials are, since a
    /// refusal must cost less than a stream.
    pub(crate) fn check_streams(&self, address: ClientAddress) -> Result<(), LimitExceeded> {
        self.counted(self.streams.check_address(address))
    }

    /// Whether this client may publish now; checked before its body is read.
    pub(crate) fn check_publisher(
        &self,
        address: ClientAddress,
        user: Option<&str>,
    ) -> Result<(), LimitExceeded> {
        self.counted(self.has_publishes_left(address, user))
    }

    /// Counts events that a client is about to publish. A client below its rate may publish a batch
    /// that exceeds it, and then waits longer, so that batches need no size limit here.
    pub(crate) fn take_publishes(
        &self,
        address: ClientAddress,
        user: Option<&str>,
        events: usize,
    ) -> Result<(), LimitExceeded> {
        let take = || {
            self.has_publishes_left(address, user)?;
            self.spend_of_address(address, events)?;
            match user {
                Some(user) => {
                    spend(self.publishes_per_user.as_ref(), Limit::PublishesPerUser, user, events)
                }
                None => Ok(()),
            }
        };
        self.counted(take())
    }

    fn has_publishes_left(
        &self,
        address: ClientAddress,
        user: Option<&str>,
    ) -> Result<(), LimitExceeded> {
        self.spend_of_address(address, 0)?;
        match user {
            Some(user) => spend(self.publishes_per_user.as_ref(), Limit::PublishesPerUser, user, 0),
            None => Ok(()),
        }
    }

    fn spend_of_address(&self, address: ClientAddress, events: usize) -> Result<(), LimitExceeded> {
        let limit = Limit::PublishesPerAddress;
        let Some(rate) = &self.publishes_per_address else { return Ok(()) };
        rate.take(address, events).map_err(|retry_after| LimitExceeded { limit, retry_after })
    }

    /// Whether a credential is to be looked at; checked before it is.
    pub(crate) fn check_login(
        &self,
        address: ClientAddress,
        shown: &ShownCredential,
    ) -> Result<(), LimitExceeded> {
        self.of_logins(|logins| logins.check(address, shown))
    }

    /// Records an invalid credential; an error if its address had shown too many already.
    pub(crate) fn login_failed(
        &self,
        address: ClientAddress,
        shown: &ShownCredential,
    ) -> Result<(), LimitExceeded> {
        self.of_logins(|logins| logins.failed(address, shown))
    }

    /// Records a credential that was accepted.
    pub(crate) fn login_succeeded(&self, shown: &ShownCredential) {
        if let Some(logins) = &self.failed_logins {
            logins.accepted(shown);
        }
    }

    fn of_logins(
        &self,
        ask: impl FnOnce(&FailedLogins) -> Result<(), Duration>,
    ) -> Result<(), LimitExceeded> {
        let limit = Limit::FailedLogins;
        let asked = self.failed_logins.as_ref().map_or(Ok(()), ask);
        self.counted(asked.map_err(|retry_after| LimitExceeded { limit, retry_after }))
    }

    /// How many requests were rejected because of this limit.
    pub(crate) fn refusals(&self, limit: Limit) -> u64 {
        self.refusals[limit as usize].load(Ordering::Relaxed)
    }

    fn counted<T>(&self, outcome: Result<T, LimitExceeded>) -> Result<T, LimitExceeded> {
        if let Err(exceeded) = &outcome {
            self.refusals[exceeded.limit as usize].fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }
}

/// Spends tokens of a key's rate. Zero only checks whether there are any.
fn spend(
    rate_limit: Option<&RateLimit>,
    limit: Limit,
    key: impl std::hash::Hash,
    cost: usize,
) -> Result<(), LimitExceeded> {
    let Some(rate_limit) = rate_limit else { return Ok(()) };
    rate_limit.take(key, cost).map_err(|retry_after| LimitExceeded { limit, retry_after })
}
