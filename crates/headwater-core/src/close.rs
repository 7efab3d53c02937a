//! Why a stream closed. Look here for the reasons in log fields and metric labels.

use std::fmt;

/// Why a stream closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The client disconnected.
    ClientGone,
    /// The source of events ended: for a subscription, every channel was ended by its publisher.
    Finished,
    /// The source of events failed.
    SourceError,
    /// The client fell behind by more than its queue holds.
    Overflow,
    /// A write to the client made no progress for the send timeout.
    Stalled,
    /// The stream reached its maximum lifetime.
    Lifetime,
    /// The node drained its streams because it shuts down.
    Drain,
    /// A bug in Headwater, recorded in the log.
    Internal,
    /// The client's permission expired: see `EventSourceResponse::expires_at` of the crate
    /// `headwater`.
    Expired,
    /// The stream was revoked: see [`Hub::revoke`](crate::Hub::revoke).
    Revoked,
}

impl CloseReason {
    /// Every reason, in the order of declaration.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter()
    }

    pub(crate) const ALL: [Self; 10] = [
        Self::ClientGone,
        Self::Finished,
        Self::SourceError,
        Self::Overflow,
        Self::Stalled,
        Self::Lifetime,
        Self::Drain,
        Self::Internal,
        Self::Expired,
        Self::Revoked,
    ];

    /// The reason as one word, as used in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClientGone => "client",
            Self::Finished => "finished",
            Self::SourceError => "source",
            Self::Overflow => "overflow",
            Self::Stalled => "stalled",
            Self::Lifetime => "lifetime",
            Self::Drain => "drain",
            Self::Internal => "failed",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
