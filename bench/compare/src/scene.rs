//! What is measured: a group is one server with its streams, on which several measures are taken.
//! Look here for what exactly is done for a row of the table.

use std::time::{Duration, Instant};

use headwater_bench::Error;
use headwater_bench::publisher::{Amount, Load, Pace, PublishTarget};
use headwater_bench::report::{DeliveryReport, MemoryReport, OpeningReport};
use headwater_bench::session::Session;
use headwater_bench::target::RedisTarget;

use crate::contender::{self, Contender, Running, Setting};
use crate::group::Group;
use crate::measure::Measure;
use crate::median::median;
use crate::programs::Programs;
use crate::redis::Redis;
use crate::run::Run;
use crate::sizes::Sizes;

/// How long the memory may take to settle.
const SETTLE: Duration = Duration::from_secs(3);

/// Measures one contender in one group and round. A failure is recorded in the run.
pub(crate) fn measure(
    round: u16,
    group: Group,
    contender: Contender,
    programs: &Programs,
    sizes: &Sizes,
) -> Run {
    let started = Instant::now();
    let mut run = Run::new(round, group, contender);
    let scene = Scene { contender, programs, sizes };
    let result = match group {
        Group::Fanout => scene.fan_out(&mut run),
        Group::Redis => scene.redis(&mut run),
        Group::Channels => scene.channels(&mut run),
        Group::Memory => scene.memory(&mut run),
        Group::Nodes => scene.nodes(&mut run),
        Group::Reopen => scene.reopen(&mut run),
    };
    if let Err(error) = result {
        run.fault(error.to_string());
    }
    run.seconds = started.elapsed().as_secs_f64();
    run
}

/// A contender and the load it gets.
struct Scene<'a> {
    contender: Contender,
    programs: &'a Programs,
    sizes: &'a Sizes,
}

impl Scene<'_> {
    fn fan_out(&self, run: &mut Run) -> Result<(), Error> {
        let (streams, is_slow) = self.fan_out_streams();
        // The FastAPI pattern distributes events through Redis even over HTTP.
        let redis = is_slow.then(Redis::start).transpose()?;
        let running = self.start(streams, 1, redis.as_ref())?;
        let to = PublishTarget::Http(running.target.clone());
        let mut session = self.session(&running, to, streams, 1)?;
        self.openings(&mut session, run)?;
        session.warm_up(3)?;
        let report = session.load(&self.steady(self.sizes.rate, 20), |_| {})?;
        deliver(run, Measure::DeliveryCpu, &report);
        run.check_steady(&report, self.interval());
        run.record(Measure::DeliveryP99, Some(report.latency.p99_ns as f64));
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
        run.record(Measure::FloodRate, Some(report.rate()));
        Ok(())
    }

    /// Opens the streams several times, since one opening takes a fraction of a second, in which
    /// the machine may be busy with something else. The last streams stay open.
    fn openings(&self, session: &mut Session, run: &mut Run) -> Result<(), Error> {
        let mut costs = Vec::new();
        for opening in 0..self.sizes.openings {
            if opening > 0 {
                session.close()?;
                // Until the server has closed them too, which costs processor time.
                session.settled_memory(SETTLE)?;
            }
            costs.extend(open(session, run)?.cpu_ns_per_stream);
        }
        run.record(Measure::OpenCpu, median(costs));
        Ok(())
    }

    fn redis(&self, run: &mut Run) -> Result<(), Error> {
        let (streams, _) = self.fan_out_streams();
        let redis = Redis::start()?;
        let running = self.start(streams, 1, Some(&redis))?;
        let mut session = self.session(&running, publish_to(&redis), streams, 1)?;
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
        let mut session = self.session(&running, publish_to(&redis), channels, channels)?;
        open(&mut session, run)?;
        session.warm_up(3)?;
        let report = session.load(&self.steady(self.sizes.channels_rate, 10_000), |_| {})?;
        deliver(run, Measure::ChannelsCpu, &report);
        // Events of one channel are far apart, so the fan-out's interval is strict enough here.
        run.check_steady(&report, self.interval());
        run.record(Measure::ChannelsP99, Some(report.latency.p99_ns as f64));
        run.record(Measure::ChannelsMissing, Some(report.missing as f64));
        Ok(())
    }

    fn memory(&self, run: &mut Run) -> Result<(), Error> {
        let streams = self.sizes.memory_streams;
        let one = [Measure::MemoryOneIdle, Measure::MemoryOneAfter];
        self.memory_of(run, 1, self.sizes.memory_events, one)?;
        // One event per channel: the first one touches the memory.
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
        let to = PublishTarget::Http(running.target.clone());
        let mut session = self.session(&running, to, streams, channels)?;
        let before = session.settled_memory(SETTLE)?;
        open(&mut session, run)?;
        let idle = session.settled_memory(SETTLE)?;
        let load = Load {
            pace: Pace::AsAnswered,
            amount: Amount::Events(events),
            event_bytes: self.sizes.event_bytes,
            // Few, so that no client falls behind: backlogs are not measured here.
            in_flight: 2,
        };
        let report = session.load(&load, |_| {})?;
        run.check(&report);
        let after = session.settled_memory(SETTLE)?;
        if let (Some(before), Some(idle), Some(after)) = (before, idle, after) {
            let (idle, after) = MemoryReport { before, idle, after }.per_stream(streams);
            run.record(measures[0], Some(idle));
            run.record(measures[1], Some(after));
        }
        run.add_report(&report);
        Ok(())
    }

    fn nodes(&self, run: &mut Run) -> Result<(), Error> {
        let (nodes, each) = (self.sizes.nodes, self.sizes.node_streams);
        let redis = Redis::start()?;
        let setting = Setting { streams: each, channels: 1, redis: Some(&redis) };
        let running = contender::headwater(self.programs, &setting, nodes)?;
        let mut session = self.session(&running, publish_to(&redis), nodes * each, 1)?;
        open(&mut session, run)?;
        let memory = session.settled_memory(SETTLE)?;
        // A broadcast is one event; its latest delivery is when all streams have it.
        let report = session.warm_up(1)?;
        run.check(&report);
        run.record(Measure::NodesReached, Some(report.received as f64));
        run.record(Measure::NodesTime, Some(report.latency.max_ns as f64));
        run.record(Measure::NodesMemory, memory.map(|memory| memory.pss_bytes as f64));
        run.add_report(&report);
        Ok(())
    }

    fn reopen(&self, run: &mut Run) -> Result<(), Error> {
        let streams = self.sizes.reopen_streams;
        let running = self.start(streams, 1, None)?;
        let to = PublishTarget::Http(running.target.clone());
        let mut session = self.session(&running, to, streams, 1)?;
        open(&mut session, run)?;
        let before = session.settled_memory(SETTLE)?;
        let started = Instant::now();
        let mut failed = 0;
        for _ in 0..self.sizes.reopenings {
            session.close()?;
            failed += open(&mut session, run)?.failed;
        }
        run.record(Measure::ReopenTime, Some(started.elapsed().as_nanos() as f64));
        run.record(Measure::ReopenFailed, Some(failed as f64));
        let after = session.settled_memory(SETTLE)?;
        if let (Some(before), Some(after)) = (before, after) {
            let ratio = after.pss_bytes as f64 / before.pss_bytes as f64;
            run.record(Measure::ReopenMemory, Some(ratio));
        }
        // All streams must work.
        let report = session.warm_up(3)?;
        run.check(&report);
        Ok(())
    }

    /// The number of streams, and whether it is reduced because the contender is slow.
    fn fan_out_streams(&self) -> (usize, bool) {
        match self.contender {
            Contender::Fastapi => (self.sizes.fastapi_streams, true),
            _ => (self.sizes.fan_out_streams, false),
        }
    }

    /// The interval between two events on the one channel.
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
        to: PublishTarget,
        streams: usize,
        channels: usize,
    ) -> Result<Session, Error> {
        let command = &self.programs.worker;
        Session::start(command, &running.target, to, streams, channels, &running.pids)
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

fn publish_to(redis: &Redis) -> PublishTarget {
    PublishTarget::Redis(RedisTarget { address: redis.address, login: None })
}

fn open(session: &mut Session, run: &mut Run) -> Result<OpeningReport, Error> {
    let opening = session.open()?;
    if opening.failed > 0 {
        let why = opening.why.as_deref().unwrap_or("unknown reason");
        run.fault(format!("{} streams failed to open: {why}", opening.failed));
    }
    run.add_report(&opening);
    Ok(opening)
}

fn deliver(run: &mut Run, measure: Measure, report: &DeliveryReport) {
    run.check(report);
    run.record(measure, report.cpu_ns_per_delivery);
    run.add_report(report);
}
