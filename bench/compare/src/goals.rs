//! The goals for headwater, as ratios and bounds, and whether they are reached. Look here to change
//! a goal.

use std::fmt::Write as _;

use crate::contender::Contender;
use crate::measure::Measure;
use crate::results::Results;

/// What a figure of headwater is compared with.
enum Goal {
    /// At most this many times the figure of another contender in the same round.
    Ratio(Contender, f64),
    AtMost(f64),
    AtLeast(f64),
}

/// Events may cost 10 % more memory than idle streams.
const AFTER_EVENTS: f64 = 1.1;

const GOALS: [(Measure, Goal); 16] = [
    (Measure::DeliveryCpu, Goal::Ratio(Contender::Floor, 1.10)),
    (Measure::DeliveryCpu, Goal::Ratio(Contender::Nchan, 0.80)),
    (Measure::RedisCpu, Goal::Ratio(Contender::Floor, 1.15)),
    (Measure::FloodCpu, Goal::Ratio(Contender::Nchan, 0.10)),
    (Measure::FloodRate, Goal::AtLeast(1e6)),
    (Measure::ChannelsMissing, Goal::AtMost(0.0)),
    (Measure::ChannelsP99, Goal::AtMost(50e6)),
    (Measure::ChannelsCpu, Goal::Ratio(Contender::Floor, 1.6)),
    (Measure::MemoryOneIdle, Goal::AtMost(1.5 * 1024.0)),
    (Measure::MemoryOneAfter, Goal::AtMost(1.5 * 1024.0 * AFTER_EVENTS)),
    (Measure::MemoryManyIdle, Goal::AtMost(2.5 * 1024.0)),
    (Measure::MemoryManyAfter, Goal::AtMost(2.5 * 1024.0 * AFTER_EVENTS)),
    (Measure::OpenCpu, Goal::Ratio(Contender::Floor, 1.6)),
    (Measure::DeliveryP99, Goal::Ratio(Contender::Floor, 1.15)),
    (Measure::ReopenFailed, Goal::AtMost(0.0)),
    (Measure::ReopenMemory, Goal::AtMost(1.05)),
];

/// Each goal that was measured, and whether it is reached.
pub(crate) fn markdown(results: &Results) -> String {
    let mut text = String::new();
    for (measure, goal) in &GOALS {
        let Some((found, is_reached)) = goal.found(results, *measure) else { continue };
        let reached = if is_reached { "yes" } else { "no" };
        let wanted = goal.wanted(*measure);
        let _ = writeln!(text, "| {} | {wanted} | {found} | {reached} |", measure.title());
    }
    if text.is_empty() {
        return text;
    }
    format!("\n| goal of headwater | to reach | found | reached |\n|---|---|---|---|\n{text}")
}

impl Goal {
    fn wanted(&self, measure: Measure) -> String {
        match self {
            Self::Ratio(base, ratio) => format!("at most {ratio:.2} x {}", base.name()),
            Self::AtMost(bound) => format!("at most {}", measure.show(*bound)),
            Self::AtLeast(bound) => format!("at least {}", measure.show(*bound)),
        }
    }

    fn found(&self, results: &Results, measure: Measure) -> Option<(String, bool)> {
        let median = || results.median(measure, Contender::Headwater);
        Some(match self {
            Self::Ratio(base, ratio) => {
                let found = results.ratio(measure, Contender::Headwater, *base)?;
                (format!("{found:.2} x"), found <= *ratio)
            }
            Self::AtMost(bound) => median().map(|it| (measure.show(it), it <= *bound))?,
            Self::AtLeast(bound) => median().map(|it| (measure.show(it), it >= *bound))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_reached_or_not() {
        let results = Results::of(Measure::DeliveryCpu, &[[1000.0, 1050.0, 1300.0]]);
        let expected = "
| goal of headwater | to reach | found | reached |
|---|---|---|---|
| CPU per delivery, steady load over HTTP | at most 1.10 x floor | 1.05 x | yes |
| CPU per delivery, steady load over HTTP | at most 0.80 x nchan | 0.81 x | no |
";
        assert_eq!(markdown(&results), expected);
    }

    #[test]
    fn a_measure_without_a_goal_is_not_listed() {
        assert_eq!(markdown(&Results::of(Measure::NodesTime, &[[1.0, 1.0, 1.0]])), "");
    }
}
