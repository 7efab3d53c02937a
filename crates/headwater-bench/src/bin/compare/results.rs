//! What a comparison found: every run with its figures and its raw reports. Look here for the files it writes.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use headwater_bench::Error;
use headwater_bench::report::DeliveryReport;
use serde::Serialize;

use crate::contender::Contender;
use crate::groups::Group;
use crate::machine::{self, Machine};
use crate::programs::Programs;
use crate::sizes::Sizes;
use crate::table;

/// One figure of the table, of each contender that can do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Measure {
    DeliveryCpu,
    DeliveryP99,
    RedisCpu,
    FloodCpu,
    FloodRate,
    ChannelsCpu,
    ChannelsP99,
    ChannelsMissing,
    MemoryOneIdle,
    MemoryOneAfter,
    MemoryManyIdle,
    MemoryManyAfter,
    OpenCpu,
    NodesReached,
    NodesTime,
    NodesMemory,
    ReopenFailed,
    ReopenMemory,
    ReopenTime,
}

/// One contender, one group, one round.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) round: u16,
    pub(crate) group: Group,
    pub(crate) contender: Contender,
    pub(crate) figures: BTreeMap<Measure, f64>,
    /// What went wrong. The figures that there are stay.
    pub(crate) faults: Vec<String>,
    /// Why its figures should not be trusted, though nothing failed.
    pub(crate) doubts: Vec<String>,
    reports: Vec<serde_json::Value>,
    seconds: f64,
}

impl Run {
    pub(crate) fn new(round: u16, group: Group, contender: Contender) -> Self {
        Self {
            round,
            group,
            contender,
            figures: BTreeMap::new(),
            faults: Vec::new(),
            doubts: Vec::new(),
            reports: Vec::new(),
            seconds: 0.0,
        }
    }

    /// Notes a figure, if there is one.
    pub(crate) fn note(&mut self, measure: Measure, figure: Option<f64>) {
        if let Some(figure) = figure {
            self.figures.insert(measure, figure);
        }
    }

    pub(crate) fn fault(&mut self, why: String) {
        println!("  FAILED: {why}");
        self.faults.push(why);
    }

    /// Notes what is wrong with deliveries, if anything is.
    pub(crate) fn check(&mut self, report: &DeliveryReport) {
        if let Some(fault) = report.fault() {
            self.fault(fault);
        }
    }

    /// Notes when events of a steady load had to wait for those before them. Then several go out with one call, or
    /// the machine was busy with something else, and the processor time is not that of this load.
    pub(crate) fn check_steady(&mut self, report: &DeliveryReport, interval: Duration) {
        let p50 = Duration::from_nanos(report.latency.p50_ns);
        if p50 > interval {
            let doubt = format!(
                "half of the events were later than {p50:.0?}: too much for this machine now"
            );
            println!("  IN DOUBT: {doubt}");
            self.doubts.push(doubt);
        }
    }

    /// Keeps a report as it is.
    pub(crate) fn keep(&mut self, report: &impl Serialize) {
        self.reports.extend(serde_json::to_value(report));
    }
}

/// All runs.
#[derive(Debug, Serialize)]
pub(crate) struct Results {
    pub(crate) date: String,
    pub(crate) machine: Machine,
    pub(crate) commit: String,
    pub(crate) sizes: Sizes,
    pub(crate) runs: Vec<Run>,
}

impl Results {
    pub(crate) fn new(machine: Machine, commit: String, sizes: Sizes) -> Self {
        Self { date: machine::today(), machine, commit, sizes, runs: Vec::new() }
    }

    /// Does one run. Whatever fails is noted, and the next run goes on.
    pub(crate) fn run(
        &mut self,
        round: u16,
        group: Group,
        contender: Contender,
        programs: &Programs,
        sizes: &Sizes,
    ) {
        let started = Instant::now();
        let mut run = Run::new(round, group, contender);
        if let Err(error) = group.run(contender, programs, sizes, &mut run) {
            run.fault(error.to_string());
        }
        run.seconds = started.elapsed().as_secs_f64();
        for (measure, figure) in &run.figures {
            println!("  {}: {}", measure.title(), measure.show(*figure));
        }
        self.runs.push(run);
    }

    pub(crate) fn failures(&self) -> usize {
        self.runs.iter().filter(|run| !run.faults.is_empty()).count()
    }

    /// Writes the table and the raw figures, and says where.
    pub(crate) fn write(&self, folder: &Path, quick: bool) -> Result<String, Error> {
        let name = format!("{}-compare{}", self.date, if quick { "-quick" } else { "" });
        let failed = |error: std::io::Error| {
            Error::failed(format!("cannot write the results to {}: {error}", folder.display()))
        };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let json = serde_json::to_string_pretty(self).map_err(|error| failed(error.into()))?;
        std::fs::write(folder.join(format!("{name}.json")), json + "\n").map_err(failed)?;
        let table = folder.join(format!("{name}.md"));
        std::fs::write(&table, table::markdown(self)).map_err(failed)?;
        Ok(format!("written to {}, and the raw figures beside it", table.display()))
    }
}
