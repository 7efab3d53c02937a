//! The protocol between the benchmark and its generator processes: one JSON value per line,
//! requests on a process's standard input, replies on its standard output. Look here for what a
//! process can be asked to do.

use std::net::{Ipv4Addr, SocketAddr};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::limits::LATENCY_NS_MAX;

/// A request to a process. Each but `Record` has a reply, and is sent after the previous reply.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Open these streams.
    Open(Opening),
    /// Reset the recorded latencies.
    Record,
    /// Wait until everything that was published has arrived, and count.
    Drain { published: u64, timeout_ms: u64 },
    /// Close all streams.
    Close,
}

/// Which streams to open.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Opening {
    pub(crate) address: SocketAddr,
    /// The source address, so that ports are not exhausted.
    pub(crate) source: Option<Ipv4Addr>,
    pub(crate) host: String,
    pub(crate) path: String,
    /// The streams have the numbers from `first` on; stream i subscribes to channel i mod
    /// `channels`.
    pub(crate) first: usize,
    pub(crate) count: usize,
    pub(crate) channels: usize,
    /// The number of events published before, which do not count.
    pub(crate) published: u64,
}

/// A message from a process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// Sent periodically, without a request.
    Progress {
        open: usize,
        received: u64,
        cut: usize,
    },
    Opened {
        open: usize,
        failed: usize,
        why: Option<String>,
    },
    Counted(Counted),
    Closed,
}

/// The counts since the streams were opened.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counted {
    /// Expected deliveries.
    pub(crate) expected: u64,
    /// Deliveries, without duplicates.
    pub(crate) received: u64,
    pub(crate) duplicates: u64,
    /// Events that this benchmark did not publish.
    pub(crate) foreign: u64,
    /// Streams that the server ended.
    pub(crate) cut: usize,
    /// When the last event arrived.
    pub(crate) last_at_ns: u64,
    /// The latencies since they were last reset, each with its count.
    pub(crate) latencies: Vec<(u64, u64)>,
}

impl Reply {
    /// The name, for error messages.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Progress { .. } => "progress",
            Self::Opened { .. } => "opened",
            Self::Counted(_) => "counted",
            Self::Closed => "closed",
        }
    }
}

/// How many of the published events are on a channel: channels are published to in turn.
pub(crate) fn events_on(channel: usize, channels: usize, published: u64) -> u64 {
    let (channel, channels) = (channel as u64, channels as u64);
    published / channels + u64::from(channel < published % channels)
}

/// A histogram of latencies, with an error of at most 0.1 %.
pub(crate) fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("valid bounds")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_published_to_in_turn() {
        let check = |published: u64, expected: [u64; 3]| {
            assert_eq!([0, 1, 2].map(|channel| events_on(channel, 3, published)), expected);
        };
        check(0, [0, 0, 0]);
        check(1, [1, 0, 0]);
        check(5, [2, 2, 1]);
        check(6, [2, 2, 2]);
    }
}
