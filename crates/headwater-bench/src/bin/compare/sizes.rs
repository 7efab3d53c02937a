//! How much of everything a comparison does. Look here for the numbers behind the table.

use std::time::Duration;

/// The numbers of one comparison.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Sizes {
    /// Streams on one channel.
    pub(crate) fan_out_streams: usize,
    /// The same for the FastAPI pattern, which takes ten times as long for each delivery and has a connection to
    /// Redis for each stream.
    pub(crate) fastapi_streams: usize,
    /// How often they are opened to see what that costs.
    pub(crate) openings: usize,
    /// Events in a second on that channel.
    pub(crate) rate: f64,
    /// How long they are published.
    pub(crate) load: Duration,
    /// Events in flight when publishing as fast as answered, and for how long that is done.
    pub(crate) flood_in_flight: usize,
    pub(crate) flood: Duration,
    /// Channels with one stream each, and events in a second on all of them.
    pub(crate) channels: usize,
    pub(crate) channels_rate: f64,
    /// Streams whose memory is measured, and events after which it is measured again.
    pub(crate) memory_streams: usize,
    pub(crate) memory_events: u64,
    /// Processes on one Redis, and streams of each.
    pub(crate) nodes: usize,
    pub(crate) node_streams: usize,
    /// Streams that are closed and opened again, and how often.
    pub(crate) reopen_streams: usize,
    pub(crate) reopenings: usize,
    /// Bytes of the data of each event.
    pub(crate) event_bytes: usize,
}

impl Sizes {
    /// Those of the published tables. The times are short, so that five rounds take about 20 minutes; the
    /// streams are what one process with 20,000 descriptors can hold.
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

    /// Enough to see that everything works.
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
