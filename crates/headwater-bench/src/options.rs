//! The options of `headwater bench`. Look here for defaults and bounds.

use std::time::Duration;

use clap::Args;

use crate::error::Error;
use crate::limits::{
    CHANNELS_MAX, EVENT_BYTES, HTTP_IN_FLIGHT_MAX, REDIS_IN_FLIGHT_MAX, STREAMS_MAX,
};
use crate::process;
use crate::publisher::{Amount, Load, Pace};

const EXAMPLES: &str = "\
Examples:
  headwater bench                                        start a server, open 1,000 streams
  headwater bench --streams 5000 --rate 10               5,000 streams on one channel
  headwater bench --streams 5000 --max --in-flight 20    publish as fast as the server responds
  headwater bench --channels 1000 --rate 2000            one stream on each of 1,000 channels
  headwater bench --redis redis://127.0.0.1:6379         publish with Redis PUBLISH
  headwater bench --url http://127.0.0.1:8000 --pid 4711 measure a running server and its process
  headwater bench --json                                 JSON output; times in nanoseconds

Exits with code 1 if an event is missing, duplicated or rejected.
See docs/benchmarks.md for how to read the table.";

/// Measure a server: open streams, publish, check delivery, report the cost
#[derive(Args, Debug, Clone)]
#[command(after_help = EXAMPLES)]
pub struct BenchOptions {
    /// URL of the server to measure [default: start one on a free port]
    ///
    /// Plain HTTP only. A path in the URL is prepended to /sse/stream and /sse/publish.
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Publish to this Redis with PUBLISH instead of over HTTP; a server started here uses it
    #[arg(long, value_name = "URL")]
    pub(crate) redis: Option<String>,
    /// Processes whose CPU time and memory are measured (Linux only)
    #[arg(long, value_name = "PID", value_delimiter = ',', requires = "url")]
    pub(crate) pid: Vec<u32>,
    /// Number of streams
    #[arg(long, default_value_t = 1_000, value_parser = number(1, STREAMS_MAX))]
    pub(crate) streams: u64,
    /// Number of channels; streams and events are spread over them in turn
    #[arg(long, default_value_t = 1, value_parser = number(1, CHANNELS_MAX))]
    pub(crate) channels: u64,
    /// Events per second over all channels
    #[arg(long, value_name = "EVENTS", default_value_t = 10.0, value_parser = rate)]
    pub(crate) rate: f64,
    /// Publish as fast as the server responds
    #[arg(long, conflicts_with = "rate")]
    pub(crate) max: bool,
    /// Events in flight; over HTTP each has its own connection
    /// [default: 20 over HTTP, 1000 with Redis]
    #[arg(long, value_name = "EVENTS", value_parser = number(1, REDIS_IN_FLIGHT_MAX))]
    pub(crate) in_flight: Option<u64>,
    /// Bytes of data per event
    #[arg(long, value_name = "BYTES", default_value_t = 100,
        value_parser = number(*EVENT_BYTES.start(), *EVENT_BYTES.end()))]
    pub(crate) size: u64,
    /// Publishing time in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) duration: u64,
    /// Stream path of a server other than Headwater; {channel} stands for the channel name
    #[arg(long, value_name = "PATH", requires = "url")]
    pub(crate) stream_path: Option<String>,
    /// Publish path of a server other than Headwater; {channel} stands for the channel name
    #[arg(long, value_name = "PATH", requires = "url")]
    pub(crate) publish_path: Option<String>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Run as a generator process
    #[arg(long, hide = true, exclusive = true)]
    pub(crate) worker: bool,
}

impl BenchOptions {
    /// Whether this is a generator process, which calls [`worker::run`](crate::worker::run).
    pub fn is_worker(&self) -> bool {
        self.worker
    }

    /// The load to publish.
    pub(crate) fn load(&self) -> Result<Load, Error> {
        let in_flight_default = if self.redis.is_some() { 1_000 } else { 20 };
        let in_flight = size(self.in_flight.unwrap_or(in_flight_default));
        if self.redis.is_none() && in_flight > HTTP_IN_FLIGHT_MAX {
            return Err(Error::Usage(format!(
                "--in-flight {in_flight}: over HTTP each event has its own connection, so \
                 {HTTP_IN_FLIGHT_MAX} at most; with --redis it can be {REDIS_IN_FLIGHT_MAX}"
            )));
        }
        if !self.pid.is_empty() && !process::IS_SUPPORTED {
            let why = "--pid: processor time and memory can be measured on Linux only";
            return Err(Error::Usage(why.to_owned()));
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

/// Converts a number that is already checked against a bound of type `usize`.
fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn number(min: usize, max: usize) -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(min as u64..=max as u64)
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.1..=1e6).contains(rate));
    rate.ok_or_else(|| "expected events per second from 0.1 to 1000000".to_owned())
}
