//! One run: a contender in a group in a round, with its figures and raw reports.

use std::collections::BTreeMap;
use std::time::Duration;

use headwater_bench::report::DeliveryReport;
use serde::Serialize;

use crate::contender::Contender;
use crate::group::Group;
use crate::measure::Measure;

/// One contender, one group, one round.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) round: u16,
    pub(crate) group: Group,
    pub(crate) contender: Contender,
    pub(crate) figures: BTreeMap<Measure, f64>,
    /// What failed. Figures taken before remain.
    pub(crate) faults: Vec<String>,
    /// Why the figures are in doubt, though nothing failed.
    pub(crate) doubts: Vec<String>,
    reports: Vec<serde_json::Value>,
    pub(crate) seconds: f64,
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

    /// Records a figure, if there is one.
    pub(crate) fn record(&mut self, measure: Measure, figure: Option<f64>) {
        if let Some(figure) = figure {
            self.figures.insert(measure, figure);
        }
    }

    /// Records a failure.
    pub(crate) fn fault(&mut self, why: String) {
        println!("  FAILED: {why}");
        self.faults.push(why);
    }

    /// Records what is wrong with the deliveries, if anything.
    pub(crate) fn check(&mut self, report: &DeliveryReport) {
        if let Some(fault) = report.fault() {
            self.fault(fault);
        }
    }

    /// Records a doubt when the events of a steady load had to wait for earlier ones. Then several
    /// are written with one call, or the machine was busy, and the processor time is not that of
    /// this load.
    pub(crate) fn check_steady(&mut self, report: &DeliveryReport, interval: Duration) {
        let p50 = Duration::from_nanos(report.latency.p50_ns);
        if p50 > interval {
            let doubt = format!(
                "half of the events took longer than {}: the machine was too slow for this load",
                Measure::DeliveryP99.show(report.latency.p50_ns as f64)
            );
            println!("  IN DOUBT: {doubt}");
            self.doubts.push(doubt);
        }
    }

    /// Adds a raw report.
    pub(crate) fn add_report(&mut self, report: &impl Serialize) {
        self.reports.extend(serde_json::to_value(report));
    }
}
