//! The table of a comparison: medians, and ratios to the floor and to nchan. Look here for how it is written.

use std::fmt::Write as _;

use crate::contender::Contender;
use crate::goals;
use crate::results::{Measure, Results, Run};

/// What a figure is a number of.
enum Unit {
    Time,
    Bytes,
    Count,
    /// Deliveries in a second.
    Rate,
    Ratio,
}

impl Measure {
    const ALL: [Self; 19] = [
        Self::DeliveryCpu,
        Self::RedisCpu,
        Self::FloodCpu,
        Self::FloodRate,
        Self::ChannelsMissing,
        Self::ChannelsP99,
        Self::ChannelsCpu,
        Self::MemoryOneIdle,
        Self::MemoryOneAfter,
        Self::MemoryManyIdle,
        Self::MemoryManyAfter,
        Self::OpenCpu,
        Self::DeliveryP99,
        Self::NodesReached,
        Self::NodesTime,
        Self::NodesMemory,
        Self::ReopenFailed,
        Self::ReopenMemory,
        Self::ReopenTime,
    ];

    /// What stands in its row.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::DeliveryCpu => "CPU per delivery, steady load over HTTP",
            Self::DeliveryP99 => "p99 latency at that load",
            Self::RedisCpu => "CPU per delivery, by Redis PUBLISH",
            Self::FloodCpu => "CPU per delivery, as fast as answered",
            Self::FloodRate => "deliveries per second, as fast as answered",
            Self::ChannelsCpu => "CPU per delivery, many channels through Redis",
            Self::ChannelsP99 => "p99 latency, many channels through Redis",
            Self::ChannelsMissing => "missing, many channels through Redis",
            Self::MemoryOneIdle => "memory per idle stream, one channel",
            Self::MemoryOneAfter => "the same after events",
            Self::MemoryManyIdle => "memory per idle stream, a channel each",
            Self::MemoryManyAfter => "the same after one event each",
            Self::OpenCpu => "CPU to open a stream",
            Self::NodesReached => "several processes: streams that a broadcast reached",
            Self::NodesTime => "several processes: until all had it",
            Self::NodesMemory => "several processes: memory of all",
            Self::ReopenFailed => "closing and opening: failures",
            Self::ReopenMemory => "closing and opening: memory after to before",
            Self::ReopenTime => "closing and opening: time",
        }
    }

    fn unit(self) -> Unit {
        match self {
            Self::DeliveryCpu
            | Self::RedisCpu
            | Self::FloodCpu
            | Self::ChannelsCpu
            | Self::OpenCpu
            | Self::DeliveryP99
            | Self::ChannelsP99
            | Self::NodesTime
            | Self::ReopenTime => Unit::Time,
            Self::MemoryOneIdle
            | Self::MemoryOneAfter
            | Self::MemoryManyIdle
            | Self::MemoryManyAfter
            | Self::NodesMemory => Unit::Bytes,
            Self::ChannelsMissing | Self::NodesReached | Self::ReopenFailed => Unit::Count,
            Self::FloodRate => Unit::Rate,
            Self::ReopenMemory => Unit::Ratio,
        }
    }

    /// A figure for people.
    pub(crate) fn show(self, figure: f64) -> String {
        match self.unit() {
            Unit::Time if figure < 1e3 => format!("{figure:.0} ns"),
            Unit::Time if figure < 1e6 => format!("{:.2} us", figure / 1e3),
            Unit::Time if figure < 1e9 => format!("{:.1} ms", figure / 1e6),
            Unit::Time => format!("{:.2} s", figure / 1e9),
            Unit::Bytes if figure < f64::from(1 << 20) => format!("{:.2} KiB", figure / 1024.0),
            Unit::Bytes => format!("{:.1} MiB", figure / f64::from(1 << 20)),
            Unit::Count | Unit::Rate => format!("{figure:.0}"),
            Unit::Ratio => format!("{figure:.3}"),
        }
    }

    fn has_ratio(self) -> bool {
        matches!(self.unit(), Unit::Time | Unit::Bytes | Unit::Rate)
    }
}

impl Results {
    /// The figures of all rounds, by round.
    fn figures(&self, measure: Measure, contender: Contender) -> Vec<(u16, f64)> {
        let of_contender = self.runs.iter().filter(|run| run.contender == contender);
        of_contender.filter_map(|run| Some((run.round, *run.figures.get(&measure)?))).collect()
    }

    /// The median of all rounds.
    pub(crate) fn median(&self, measure: Measure, contender: Contender) -> Option<f64> {
        median(self.figures(measure, contender).into_iter().map(|(_, figure)| figure).collect())
    }

    /// The median of the ratios within each round, which a machine that grows slower does not change.
    pub(crate) fn ratio(
        &self,
        measure: Measure,
        contender: Contender,
        base: Contender,
    ) -> Option<f64> {
        let bases = self.figures(measure, base);
        let ratios = self.figures(measure, contender).into_iter().filter_map(|(round, figure)| {
            let (_, base) = bases.iter().find(|(other, _)| *other == round)?;
            (*base > 0.0).then(|| figure / base)
        });
        median(ratios.collect())
    }

    fn has_failed(&self, measure: Measure, contender: Contender) -> bool {
        self.median(measure, contender).is_none()
            && self.runs.iter().any(|run| run.contender == contender && !run.faults.is_empty())
            && self.runs.iter().any(|run| {
                run.figures.contains_key(&measure)
                    && self
                        .runs
                        .iter()
                        .any(|other| other.contender == contender && other.group == run.group)
            })
    }
}

pub(crate) fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    let upper = *figures.get(middle)?;
    Some(if figures.len() % 2 == 1 { upper } else { f64::midpoint(figures[middle - 1], upper) })
}

/// The whole result as a document.
pub(crate) fn markdown(results: &Results) -> String {
    let mut text = format!("# Comparison of {}\n\n", results.date);
    text += &introduction(results);
    text += &figures(results);
    text += &goals::markdown(results);
    text += &faults(results);
    text
}

fn introduction(results: &Results) -> String {
    let machine = &results.machine;
    let rounds = results.runs.iter().map(|run| run.round + 1).max().unwrap_or(0);
    let sizes = &results.sizes;
    let pinned = if machine.is_pinned {
        "the server had one core, everything else another"
    } else {
        "cores were shared, so that figures are less exact"
    };
    format!(
        "Commit {}. {} cores, {:.0} GiB of memory, Linux {}; {pinned}. {}.\n\n\
         Medians of {rounds} rounds, contenders interleaved; `x` is the median of the ratios to the floor within each \
         round. Steady load: {} streams on one channel ({} for FastAPI), opened {} times, {} events/s of {} B. \
         As fast as answered: {} in flight. Many channels: {} with one stream each, {} events/s. Memory: {} streams. \
         Several processes: {} with {} streams each. Closing and opening: {} streams, {} times.\n\n",
        results.commit,
        machine.cores,
        machine.memory_gib,
        machine.kernel,
        machine.versions.join("; "),
        sizes.fan_out_streams,
        sizes.fastapi_streams,
        sizes.openings,
        sizes.rate,
        sizes.event_bytes,
        sizes.flood_in_flight,
        sizes.channels,
        sizes.channels_rate,
        sizes.memory_streams,
        sizes.nodes,
        sizes.node_streams,
        sizes.reopen_streams,
        sizes.reopenings,
    )
}

fn figures(results: &Results) -> String {
    let mut contenders: Vec<Contender> = results.runs.iter().map(|run| run.contender).collect();
    contenders.sort();
    contenders.dedup();
    let mut text = String::from("| measure |");
    for contender in &contenders {
        let _ = write!(text, " {} |", contender.name());
    }
    text += "\n|---|";
    text += &"---|".repeat(contenders.len());
    text += "\n";
    for measure in Measure::ALL {
        if contenders.iter().all(|it| results.median(measure, *it).is_none()) {
            continue;
        }
        let _ = write!(text, "| {} |", measure.title());
        for contender in &contenders {
            let _ = write!(text, " {} |", cell(results, measure, *contender));
        }
        text += "\n";
    }
    text
}

fn cell(results: &Results, measure: Measure, contender: Contender) -> String {
    let Some(median) = results.median(measure, contender) else {
        return if results.has_failed(measure, contender) { "failed" } else { "" }.to_owned();
    };
    let shown = measure.show(median);
    match results.ratio(measure, contender, Contender::Floor) {
        Some(ratio) if contender != Contender::Floor && measure.has_ratio() => {
            format!("{shown}, {ratio:.2} x")
        }
        _ => shown,
    }
}

fn faults(results: &Results) -> String {
    let failed = list(results, |run| &run.faults);
    let doubted = list(results, |run| &run.doubts);
    let mut text = if failed.is_empty() {
        "\nNothing failed.\n".to_owned()
    } else {
        format!("\nFailed:\n\n{failed}")
    };
    if !doubted.is_empty() {
        text += &format!("\nNot to be trusted:\n\n{doubted}");
    }
    text
}

fn list(results: &Results, of: impl Fn(&Run) -> &[String]) -> String {
    let mut text = String::new();
    for run in &results.runs {
        for line in of(run) {
            let (round, group, contender) = (run.round + 1, run.group.name(), run.contender.name());
            let _ = writeln!(text, "- round {round}, {group}, {contender}: {line}");
        }
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::groups::Group;
    use crate::machine::Machine;
    use crate::sizes::Sizes;

    /// Results with figures of one measure: of the floor, of headwater and of nchan, by round.
    pub(crate) fn results(measure: Measure, rounds: &[[f64; 3]]) -> Results {
        let machine = Machine {
            cores: 2,
            memory_gib: 8.0,
            kernel: "6.1".to_owned(),
            is_pinned: true,
            versions: vec!["redis 7".to_owned()],
        };
        let mut results = Results::new(machine, "abc".to_owned(), Sizes::FULL);
        results.date = "2026-11-24".to_owned();
        for (round, figures) in (0..).zip(rounds) {
            let contenders = [Contender::Floor, Contender::Headwater, Contender::Nchan];
            for (contender, figure) in contenders.into_iter().zip(figures) {
                let mut run = Run::new(round, Group::Fanout, contender);
                run.note(measure, Some(*figure));
                results.runs.push(run);
            }
        }
        results
    }

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn ratios_are_made_within_a_round() {
        // The machine was twice as slow in the second round.
        let rounds = [[1000.0, 1100.0, 1300.0], [2000.0, 2200.0, 2600.0], [1000.0, 1200.0, 1300.0]];
        let results = results(Measure::DeliveryCpu, &rounds);
        let expected = "\
| measure | floor | headwater | nchan |
|---|---|---|---|
| CPU per delivery, steady load over HTTP | 1.00 us | 1.20 us, 1.10 x | 1.30 us, 1.30 x |
";
        assert_eq!(figures(&results), expected);
    }

    #[test]
    fn failures_are_shown() {
        let mut results = results(Measure::FloodCpu, &[[1.0, 2.0, 3.0]]);
        let nchan = results.runs.pop().expect("a run");
        let mut failed = Run::new(0, nchan.group, nchan.contender);
        failed.fault("it burns".to_owned());
        results.runs.push(failed);
        let text = markdown(&results);
        assert!(text.contains("| 1 ns | 2 ns, 2.00 x | failed |"), "{text}");
        assert!(text.ends_with("- round 1, fanout, nchan: it burns\n"), "{text}");
    }
}
