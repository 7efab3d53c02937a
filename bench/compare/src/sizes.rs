//! The sizes of a comparison. Look here for the numbers behind the table.

use std::time::Duration;

/// The numbers of one comparison.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Sizes {
    /// Streams on one channel.
    pub(crate) fan_out_streams: usize,
    /// The same for the FastAPI pattern, which takes ten times as long per delivery and needs a
    /// Redis connection per stream.
    pub(crate) fastapi_streams: usize,
    /// How often they are opened to measure the cost.
    pub(crate) openings: usize,
    /// Events per second on that channel.
    pub(crate) rate: f64,
    /// How long events are published.
    pub(crate) load: Duration,
    /// Events in flight when publishing as fast as answered.
    pub(crate) flood_in_flight: usize,
    /// How long events are published so.
    pub(crate) flood: Duration,
    /// Channels with one stream each.
    pub(crate) channels: usize,
    /// Events per second on all of them.
    pub(crate) channels_rate: f64,
    /// Streams whose memory is measured.
    pub(crate) memory_streams: usize,
    /// Events after which it is measured again.
    pub(crate) memory_events: u64,
    /// Processes on one Redis.
    pub(crate) nodes: usize,
    /// Streams of each process.
    pub(crate) node_streams: usize,
    /// Streams that are closed and reopened.
    pub(crate) reopen_streams: usize,
    /// How often they are reopened.
    pub(crate) reopenings: usize,
    /// Bytes of the data of each event.
    pub(crate) event_bytes: usize,
}

impl Sizes {
    /// The sizes of the published tables. Times are short, so that five rounds take about 20
    /// minutes; streams are limited by the 20,000 descriptors of a process.
    pub(crate) const FULL: Self = Self {
        fan_out_streams: 5_000,
        fastapi_streams: 500,
        openings: 5,
        rate: 10.0,
        load: Duration::from_secs(6),
        flood_in_flight: 20,
        flood: Duration::from_secs(5),
        channels: 10_000,
        channels_rate: 20_000.0,
        memory_streams: 15_000,
        memory_events: 100,
        nodes: 8,
        node_streams: 15_000,
        reopen_streams: 15_000,
        reopenings: 10,
        event_bytes: 100,
    };

    /// Enough to check that everything works.
    pub(crate) const QUICK: Self = Self {
        fan_out_streams: 100,
        fastapi_streams: 20,
        openings: 2,
        rate: 20.0,
        load: Duration::from_millis(500),
        flood_in_flight: 20,
        flood: Duration::from_millis(500),
        channels: 100,
        channels_rate: 500.0,
        memory_streams: 200,
        memory_events: 10,
        nodes: 2,
        node_streams: 50,
        reopen_streams: 200,
        reopenings: 2,
        event_bytes: 100,
    };
}
