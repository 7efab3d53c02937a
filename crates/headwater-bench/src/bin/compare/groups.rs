//! What is measured. A group is one server with its streams, on which several measures are taken. Look here for
//! what exactly is done for a row of the table.

use std::time::{Duration, Instant};

use headwater_bench::Error;
use headwater_bench::publisher::{Amount, Load, Pace, Road};
use headwater_bench::report::{DeliveryReport, MemoryReport, OpeningReport};
use headwater_bench::session::Session;
use headwater_bench::target::RedisTarget;

use crate::contender::{self, Contender, Running, Setting};
use crate::programs::Programs;
use crate::redis::Redis;
use crate::results::{Measure, Run};
use crate::sizes::Sizes;
use crate::table::median;

/// How long memory may take to settle.
const SETTLE: Duration = Duration::from_secs(3);

/// Measures that are taken on one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Group {
    /// Many streams on one channel, published to over HTTP: opening, delivering, flooding
    Fanout,
    /// The same, published to by Redis' PUBLISH
    Redis,
    /// Many channels with one stream each, through Redis
    Channels,
    /// Memory of streams on one channel, and on a channel each
    Memory,
    /// Several processes on one Redis
    Nodes,
    /// Closing and opening all streams again and again
    Reopen,
}

impl Group {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fanout => "fanout",
            Self::Redis => "redis",
            Self::Channels => "channels",
            Self::Memory => "memory",
            Self::Nodes => "nodes",
            Self::Reopen => "reopen",
        }
    }

    /// The last two take long, and are about whether it works more than about how much it costs.
    pub(crate) fn rounds_max(self) -> u16 {
        match self {
            Self::Fanout | Self::Redis | Self::Channels | Self::Memory => u16::MAX,
            Self::Nodes => 1,
            Self::Reopen => 2,
        }
    }

    /// Whether a contender can do it.
    pub(crate) fn has(self, contender: Contender) -> bool {
        use Contender::{Axum, Fastapi, Floor, Headwater, Nchan};
        match self {
            Self::Fanout => true,
            // nchan and axum know no plain PUBLISH.
            Self::Redis => matches!(contender, Floor | Headwater | Fastapi),
            Self::Channels => matches!(contender, Floor | Headwater),
            // The FastAPI pattern cannot hold so many: each stream takes two descriptors.
            Self::Memory => matches!(contender, Floor | Headwater | Nchan | Axum),
            Self::Nodes => matches!(contender, Headwater),
            Self::Reopen => matches!(contender, Floor | Headwater),
        }
    }

    /// Takes its measures with one contender.
    pub(crate) fn run(
        self,
        contender: Contender,
        programs: &Programs,
        sizes: &Sizes,
        run: &mut Run,
    ) -> Result<(), Error> {
        let scene = Scene { contender, programs, sizes };
        match self {
            Self::Fanout => scene.fan_out(run),
            Self::Redis => scene.redis(run),
            Self::Channels => scene.channels(run),
            Self::Memory => scene.memory(run),
            Self::Nodes => scene.nodes(run),
            Self::Reopen => scene.reopen(run),
        }
    }
}

/// A contender, and what to do with it.
struct Scene<'a> {
    contender: Contender,
    programs: &'a Programs,
    sizes: &'a Sizes,
}

impl Scene<'_> {
    fn fan_out(&self, run: &mut Run) -> Result<(), Error> {
        let (streams, is_slow) = self.fan_out_streams();
        // The FastAPI pattern has no road of its own.
        let redis = is_slow.then(Redis::start).transpose()?;
        let running = self.start(streams, 1, redis.as_ref())?;
        let road = Road::Http(running.target.clone());
        let mut session = self.session(&running, road, streams, 1)?;
        self.openings(&mut session, run)?;
        session.warm_up(3)?;
        let report = session.load(&self.steady(self.sizes.rate, 20), |_| {})?;
        deliver(run, Measure::DeliveryCpu, &report);
        run.check_steady(&report, self.interval());
        run.note(Measure::DeliveryP99, Some(report.latency.p99_ns as f64));
        if is_slow {
            return Ok(());
        }
        let flood = Load {
            pace: Pace::AsAnswered,
            amount: Amount::Time(self.sizes.flood),
            event_bytes: self.sizes.event_bytes,
            in_flight: self.sizes.flood_in_flight,
        };
        let report = session.load(&flood, |_| {})?;
        deliver(run, Measure::FloodCpu, &report);
        run.note(Measure::FloodRate, Some(report.rate()));
        Ok(())
    }

    /// Opens the streams several times: it takes a fraction of a second, in which a machine may do other things
    /// too. The last ones stay open.
    fn openings(&self, session: &mut Session, run: &mut Run) -> Result<(), Error> {
        let mut costs = Vec::new();
        for opening in 0..self.sizes.openings {
            if opening > 0 {
                session.close()?;
                // Until the server has seen it, since that costs something too.
                session.settled_memory(SETTLE)?;
            }
            costs.extend(open(session, run)?.cpu_ns_per_stream);
        }
        run.note(Measure::OpenCpu, median(costs));
        Ok(())
    }

    fn redis(&self, run: &mut Run) -> Result<(), Error> {
        let (streams, _) = self.fan_out_streams();
        let redis = Redis::start()?;
        let running = self.start(streams, 1, Some(&redis))?;
        let mut session = self.session(&running, road_of(&redis), streams, 1)?;
        open(&mut session, run)?;
        session.warm_up(3)?;
        let report = session.load(&self.steady(self.sizes.rate, 1_000), |_| {})?;
        deliver(run, Measure::RedisCpu, &report);
        run.check_steady(&report, self.interval());
        Ok(())
    }

    fn channels(&self, run: &mut Run) -> Result<(), Error> {
        let channels = self.sizes.channels;
        let redis = Redis::start()?;
        let running = self.start(channels, channels, Some(&redis))?;
        let mut session = self.session(&running, road_of(&redis), channels, channels)?;
        open(&mut session, run)?;
        session.warm_up(3)?;
        let report = session.load(&self.steady(self.sizes.channels_rate, 10_000), |_| {})?;
        deliver(run, Measure::ChannelsCpu, &report);
        // There is time enough from one event of a channel to the next, so the time of the fan-out is taken here too.
        run.check_steady(&report, self.interval());
        run.note(Measure::ChannelsP99, Some(report.latency.p99_ns as f64));
        run.note(Measure::ChannelsMissing, Some(report.missing as f64));
        Ok(())
    }

    fn memory(&self, run: &mut Run) -> Result<(), Error> {
        let streams = self.sizes.memory_streams;
        let one = [Measure::MemoryOneIdle, Measure::MemoryOneAfter];
        self.memory_of(run, 1, self.sizes.memory_events, one)?;
        // One event for each channel, since it is the first one that touches memory.
        let many = [Measure::MemoryManyIdle, Measure::MemoryManyAfter];
        self.memory_of(run, streams, streams as u64, many)
    }

    fn memory_of(
        &self,
        run: &mut Run,
        channels: usize,
        events: u64,
        measures: [Measure; 2],
    ) -> Result<(), Error> {
        let streams = self.sizes.memory_streams;
        let running = self.start(streams, channels, None)?;
        let road = Road::Http(running.target.clone());
        let mut session = self.session(&running, road, streams, channels)?;
        let before = session.settled_memory(SETTLE)?;
        open(&mut session, run)?;
        let idle = session.settled_memory(SETTLE)?;
        let load = Load {
            pace: Pace::AsAnswered,
            amount: Amount::Events(events),
            event_bytes: self.sizes.event_bytes,
            // Few, so that no client falls behind: it is not about what waits for slow ones.
            in_flight: 2,
        };
        let report = session.load(&load, |_| {})?;
        run.check(&report);
        let after = session.settled_memory(SETTLE)?;
        if let (Some(before), Some(idle), Some(after)) = (before, idle, after) {
            let (idle, after) = MemoryReport { before, idle, after }.per_stream(streams);
            run.note(measures[0], Some(idle));
            run.note(measures[1], Some(after));
        }
        run.keep(&report);
        Ok(())
    }

    fn nodes(&self, run: &mut Run) -> Result<(), Error> {
        let (nodes, each) = (self.sizes.nodes, self.sizes.node_streams);
        let redis = Redis::start()?;
        let setting = Setting { streams: each, channels: 1, redis: Some(&redis) };
        let running = contender::headwater(self.programs, &setting, nodes)?;
        let mut session = self.session(&running, road_of(&redis), nodes * each, 1)?;
        open(&mut session, run)?;
        let memory = session.settled_memory(SETTLE)?;
        // A broadcast is one event; its latest delivery is when all have it.
        let report = session.warm_up(1)?;
        run.check(&report);
        run.note(Measure::NodesReached, Some(report.received as f64));
        run.note(Measure::NodesTime, Some(report.latency.max_ns as f64));
        run.note(Measure::NodesMemory, memory.map(|memory| memory.pss_bytes as f64));
        run.keep(&report);
        Ok(())
    }

    fn reopen(&self, run: &mut Run) -> Result<(), Error> {
        let streams = self.sizes.reopen_streams;
        let running = self.start(streams, 1, None)?;
        let road = Road::Http(running.target.clone());
        let mut session = self.session(&running, road, streams, 1)?;
        open(&mut session, run)?;
        let before = session.settled_memory(SETTLE)?;
        let started = Instant::now();
        let mut failed = 0;
        for _ in 0..self.sizes.reopenings {
            session.close()?;
            failed += open(&mut session, run)?.failed;
        }
        run.note(Measure::ReopenTime, Some(started.elapsed().as_nanos() as f64));
        run.note(Measure::ReopenFailed, Some(failed as f64));
        let after = session.settled_memory(SETTLE)?;
        if let (Some(before), Some(after)) = (before, after) {
            let ratio = after.pss_bytes as f64 / before.pss_bytes as f64;
            run.note(Measure::ReopenMemory, Some(ratio));
        }
        // All of them must work.
        let report = session.warm_up(3)?;
        run.check(&report);
        Ok(())
    }

    /// How many, and whether they are fewer because the contender is slow.
    fn fan_out_streams(&self) -> (usize, bool) {
        match self.contender {
            Contender::Fastapi => (self.sizes.fastapi_streams, true),
            _ => (self.sizes.fan_out_streams, false),
        }
    }

    /// From one event on the one channel to the next.
    fn interval(&self) -> Duration {
        Duration::from_secs_f64(1.0 / self.sizes.rate)
    }

    fn start(
        &self,
        streams: usize,
        channels: usize,
        redis: Option<&Redis>,
    ) -> Result<Running, Error> {
        self.contender.start(self.programs, &Setting { streams, channels, redis })
    }

    fn session(
        &self,
        running: &Running,
        road: Road,
        streams: usize,
        channels: usize,
    ) -> Result<Session, Error> {
        let command = &self.programs.worker;
        Session::start(command, &running.target, road, streams, channels, &running.pids)
    }

    fn steady(&self, rate: f64, in_flight: usize) -> Load {
        Load {
            pace: Pace::PerSecond(rate),
            amount: Amount::Time(self.sizes.load),
            event_bytes: self.sizes.event_bytes,
            in_flight,
        }
    }
}

fn road_of(redis: &Redis) -> Road {
    Road::Redis(RedisTarget { address: redis.address, login: None })
}

fn open(session: &mut Session, run: &mut Run) -> Result<OpeningReport, Error> {
    let opening = session.open()?;
    if opening.failed > 0 {
        let why = opening.why.as_deref().unwrap_or("the reason is not known");
        run.fault(format!("{} streams could not be opened: {why}", opening.failed));
    }
    run.keep(&opening);
    Ok(opening)
}

fn deliver(run: &mut Run, measure: Measure, report: &DeliveryReport) {
    run.check(report);
    run.note(measure, report.cpu_ns_per_delivery);
    run.keep(report);
}
