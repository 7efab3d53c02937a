//! The options of `headwater bench`. Look here for defaults, and for what is refused.

use std::time::Duration;

use clap::Args;

use crate::error::Error;
use crate::limits::{
    CHANNELS_MAX, EVENT_BYTES, HTTP_IN_FLIGHT_MAX, REDIS_IN_FLIGHT_MAX, STREAMS_MAX,
};
use crate::publisher::{Amount, Load, Pace};

const EXAMPLES: &str = "\
Examples:
  headwater bench                                        a server of its own, 1,000 streams
  headwater bench --streams 5000 --rate 10               5,000 streams on one channel
  headwater bench --streams 5000 --max --in-flight 20    publish as fast as it is answered
  headwater bench --channels 1000 --rate 2000            one stream on each of 1,000 channels
  headwater bench --redis redis://127.0.0.1:6379         publish with Redis' PUBLISH
  headwater bench --url http://127.0.0.1:8000 --pid 4711 a server that runs, and its process
  headwater bench --json                                 for programs; times in nanoseconds

It fails, with code 1, when anything is missing, comes twice, or is refused. docs/benchmarks.md tells
how to read the table.";

/// Measure a server: open streams, publish, check that all arrives, and tell what it cost
#[derive(Args, Debug, Clone)]
#[command(after_help = EXAMPLES)]
pub struct BenchOptions {
    /// The server to measure; without it, one of its own is started on a free port
    ///
    /// It is plain HTTP, and a path is put before /sse/stream and /sse/publish.
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Publish with PUBLISH to this Redis instead of over HTTP; the server of its own listens to it
    #[arg(long, value_name = "URL")]
    pub(crate) redis: Option<String>,
    /// Measure the processor time and memory of these processes (Linux)
    #[arg(long, value_name = "PID", value_delimiter = ',', requires = "url")]
    pub(crate) pid: Vec<u32>,
    /// Streams to open
    #[arg(long, default_value_t = 1_000, value_parser = number(1, STREAMS_MAX))]
    pub(crate) streams: u64,
    /// Channels that the streams listen to in turn, and that events are published to in turn
    #[arg(long, default_value_t = 1, value_parser = number(1, CHANNELS_MAX))]
    pub(crate) channels: u64,
    /// Events to publish in a second, on all channels together
    #[arg(long, value_name = "EVENTS", default_value_t = 10.0, value_parser = rate)]
    pub(crate) rate: f64,
    /// Publish as fast as it is answered
    #[arg(long, conflicts_with = "rate")]
    pub(crate) max: bool,
    /// Events that may wait for their answer; over HTTP each has a connection
    /// [default: 20 over HTTP, 1000 with Redis]
    #[arg(long, value_name = "EVENTS", value_parser = number(1, REDIS_IN_FLIGHT_MAX))]
    pub(crate) in_flight: Option<u64>,
    /// Bytes of the data of each event
    #[arg(long, value_name = "BYTES", default_value_t = 100,
        value_parser = number(*EVENT_BYTES.start(), *EVENT_BYTES.end()))]
    pub(crate) size: u64,
    /// Publish for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) duration: u64,
    /// The path of a stream, for other servers than Headwater, with {channel} for the channel's name
    #[arg(long, value_name = "PATH", requires = "url")]
    pub(crate) stream_path: Option<String>,
    /// The path to publish to, with {channel} for the channel's name
    #[arg(long, value_name = "PATH", requires = "url")]
    pub(crate) publish_path: Option<String>,
    /// Write one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Be one of the processes that hold the streams
    #[arg(long, hide = true, exclusive = true)]
    pub(crate) worker: bool,
}

impl BenchOptions {
    /// Whether this process was started to hold streams, and [`worker::run`](crate::worker::run) is what to do.
    pub fn is_worker(&self) -> bool {
        self.worker
    }

    /// What to publish.
    pub(crate) fn load(&self) -> Result<Load, Error> {
        let in_flight_default = if self.redis.is_some() { 1_000 } else { 20 };
        let in_flight = size(self.in_flight.unwrap_or(in_flight_default));
        if self.redis.is_none() && in_flight > HTTP_IN_FLIGHT_MAX {
            return Err(Error::Usage(format!(
                "--in-flight {in_flight}: over HTTP each has a connection of its own, so {HTTP_IN_FLIGHT_MAX} \
                 at most; with --redis it can be {REDIS_IN_FLIGHT_MAX}"
            )));
        }
        Ok(Load {
            pace: if self.max { Pace::AsAnswered } else { Pace::PerSecond(self.rate) },
            amount: Amount::Time(Duration::from_secs(self.duration)),
            event_bytes: size(self.size),
            in_flight,
        })
    }

    pub(crate) fn streams(&self) -> usize {
        size(self.streams)
    }

    pub(crate) fn channels(&self) -> usize {
        size(self.channels)
    }
}

/// Numbers are checked against bounds that a `usize` holds.
fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn number(min: usize, max: usize) -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(min as u64..=max as u64)
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.1..=1e6).contains(rate));
    rate.ok_or_else(|| "give a number of events in a second from 0.1 to 1000000".to_owned())
}
