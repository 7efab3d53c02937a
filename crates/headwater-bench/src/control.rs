//! What the benchmark and its generator processes say to each other: one JSON value per line, over the socket
//! that a process gets as its standard input. Look here for what a process can be told.

use std::net::{Ipv4Addr, SocketAddr};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::limits::LATENCY_NS_MAX;

/// What a process is told. Each but `Record` is answered, and they are told one at a time.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Open these streams.
    Open(Opening),
    /// Forget the latencies up to here.
    Record,
    /// Wait until everything that was published has come, and count.
    Drain { published: u64, timeout_ms: u64 },
    /// Close all streams.
    Close,
}

/// Which streams to open.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Opening {
    pub(crate) address: SocketAddr,
    /// The address to connect from, so that ports do not run out.
    pub(crate) source: Option<Ipv4Addr>,
    pub(crate) host: String,
    pub(crate) path: String,
    /// The streams are those from `first` on, and stream i listens to channel i mod `channels`.
    pub(crate) first: usize,
    pub(crate) count: usize,
    pub(crate) channels: usize,
    /// How many events were published before: these do not count.
    pub(crate) published: u64,
}

/// What a process says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Now and then, unasked.
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

/// What came.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counted {
    /// Deliveries that there should be, since the streams were opened.
    pub(crate) expected: u64,
    /// Those that there were, each counted once.
    pub(crate) received: u64,
    pub(crate) duplicates: u64,
    /// Events that are not of this benchmark.
    pub(crate) foreign: u64,
    /// Streams that were ended by the other side.
    pub(crate) cut: usize,
    /// When the last event came.
    pub(crate) last_at_ns: u64,
    /// The latencies since they were last forgotten: how often each was measured.
    pub(crate) latencies: Vec<(u64, u64)>,
}

/// Which events of `published` are on a channel: they are given to the channels in turn.
pub(crate) fn events_on(channel: usize, channels: usize, published: u64) -> u64 {
    let (channel, channels) = (channel as u64, channels as u64);
    published / channels + u64::from(channel < published % channels)
}

/// A histogram for latencies, true to 0.1 %.
pub(crate) fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("bounds that make sense")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_given_to_the_channels_in_turn() {
        let check = |published: u64, expected: [u64; 3]| {
            assert_eq!([0, 1, 2].map(|channel| events_on(channel, 3, published)), expected);
        };
        check(0, [0, 0, 0]);
        check(1, [1, 0, 0]);
        check(5, [2, 2, 1]);
        check(6, [2, 2, 2]);
    }
}
