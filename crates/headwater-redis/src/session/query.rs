//! The queries of a session that are not complete: what they are for, and what has arrived of them.

use std::collections::BTreeMap;

use headwater_core::Channel;
use headwater_core::log::Epoch;
use redis::RedisResult;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::history::LogState;

/// The answer to a query.
pub(super) enum Answer {
    State(LogState),
    /// The log cannot be used; the marker reached this many subscribers.
    Published(u64),
}

/// What a query is for.
pub(super) enum Purpose {
    /// Channels start at its point.
    Start(Vec<Channel>),
    /// Part of the restore with this number.
    Restore(u64, Vec<Channel>),
    /// Shows that events arrive, and where the log is. Notifies those that wait for that.
    Probe(Vec<oneshot::Sender<()>>),
}

/// A query that is not complete.
pub(super) struct Query {
    pub(super) purpose: Purpose,
    pub(super) sent_at: Instant,
    /// The log's epoch then, as far as the hub knew.
    pub(super) epoch: Option<Epoch>,
    pub(super) answer: Option<Answer>,
    pub(super) answered_at: Option<Instant>,
    pub(super) is_marked: bool,
}

/// The queries of a session, by their numbers.
pub(super) struct Queries {
    pub(super) open: BTreeMap<u64, Query>,
    pub(super) count: u64,
    pub(super) answered: mpsc::UnboundedSender<(u64, RedisResult<Answer>)>,
}

impl Purpose {
    pub(super) fn channels(&self) -> &[Channel] {
        match self {
            Self::Start(channels) | Self::Restore(_, channels) => channels,
            Self::Probe(_) => &[],
        }
    }
}

impl Queries {
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<(u64, RedisResult<Answer>)>) {
        // Bounded by the queries in flight.
        let (answered, answers) = mpsc::unbounded_channel();
        (Self { open: BTreeMap::new(), count: 0, answered }, answers)
    }

    /// Since when a marker is due that was published and has not arrived.
    pub(super) fn due_since(&self) -> Option<Instant> {
        self.open.values().filter(|it| !it.is_marked).filter_map(|it| it.answered_at).min()
    }

    pub(super) fn is_probing(&self) -> bool {
        self.open.values().any(|query| matches!(query.purpose, Purpose::Probe(_)))
    }

    pub(super) fn is_starting(&self) -> bool {
        self.open.values().any(|query| matches!(query.purpose, Purpose::Start(_)))
    }
}
