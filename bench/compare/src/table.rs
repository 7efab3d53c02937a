//! The table of a comparison: medians, and ratios to the floor. Look here for how it is written.

use std::fmt::Write as _;

use crate::contender::Contender;
use crate::goals;
use crate::measure::Measure;
use crate::results::Results;
use crate::run::Run;

/// The whole result as a Markdown document.
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
        "the server ran on one core, everything else on another"
    } else {
        "cores were shared, so the figures are less exact"
    };
    format!(
        "Commit {}. {} cores, {:.0} GiB of memory, Linux {}; {pinned}. {}.\n\n\
         Medians of {rounds} rounds, contenders interleaved; `x` is the median of the ratios to \
         the floor within each round. Steady load: {} streams on one channel ({} for FastAPI), \
         opened {} times, {} events/s of {} B. As fast as answered: {} in flight. Many channels: \
         {} with one stream each, {} events/s. Memory: {} streams. Several processes: {} with {} \
         streams each. Closing and opening: {} streams, {} times.\n\n",
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
        text += &format!("\nIn doubt:\n\n{doubted}");
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
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine was twice as slow in the second round.
        let rounds = [[1000.0, 1100.0, 1300.0], [2000.0, 2200.0, 2600.0], [1000.0, 1200.0, 1300.0]];
        let results = Results::of(Measure::DeliveryCpu, &rounds);
        let expected = "\
| measure | floor | headwater | nchan |
|---|---|---|---|
| CPU per delivery, steady load over HTTP | 1.00 us | 1.20 us, 1.10 x | 1.30 us, 1.30 x |
";
        assert_eq!(figures(&results), expected);
    }

    #[test]
    fn failures_are_listed() {
        let mut results = Results::of(Measure::FloodCpu, &[[1.0, 2.0, 3.0]]);
        let nchan = results.runs.pop().expect("a run");
        let mut failed = Run::new(0, nchan.group, nchan.contender);
        failed.fault("out of memory".to_owned());
        results.runs.push(failed);
        let text = markdown(&results);
        assert!(text.contains("| 1 ns | 2 ns, 2.00 x | failed |"), "{text}");
        assert!(text.ends_with("- round 1, fanout, nchan: out of memory\n"), "{text}");
    }
}
