//! All runs of a comparison, and the medians and ratios of their figures.

use serde::Serialize;

use crate::contender::Contender;
use crate::machine::{self, Machine};
use crate::measure::Measure;
use crate::median::median;
use crate::run::Run;
use crate::sizes::Sizes;

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

    /// The number of runs with a failure.
    pub(crate) fn failures(&self) -> usize {
        self.runs.iter().filter(|run| !run.faults.is_empty()).count()
    }

    /// The figures of all rounds, by round.
    fn figures(&self, measure: Measure, contender: Contender) -> Vec<(u16, f64)> {
        let of_contender = self.runs.iter().filter(|run| run.contender == contender);
        of_contender.filter_map(|run| Some((run.round, *run.figures.get(&measure)?))).collect()
    }

    /// The median of all rounds.
    pub(crate) fn median(&self, measure: Measure, contender: Contender) -> Option<f64> {
        median(self.figures(measure, contender).into_iter().map(|(_, figure)| figure).collect())
    }

    /// The median of the ratios within each round: a machine that becomes slower does not change
    /// it.
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

    /// Whether a contender has no figure for a measure because it failed.
    pub(crate) fn has_failed(&self, measure: Measure, contender: Contender) -> bool {
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

#[cfg(test)]
impl Results {
    /// Results with figures of one measure, per round: floor, headwater, nchan.
    pub(crate) fn of(measure: Measure, rounds: &[[f64; 3]]) -> Self {
        use crate::group::Group;

        let machine = Machine {
            cores: 2,
            memory_gib: 8.0,
            kernel: "6.1".to_owned(),
            is_pinned: true,
            versions: vec!["redis 7".to_owned()],
        };
        let mut results = Self::new(machine, "abc".to_owned(), Sizes::FULL);
        "2026-11-24".clone_into(&mut results.date);
        for (round, figures) in (0..).zip(rounds) {
            let contenders = [Contender::Floor, Contender::Headwater, Contender::Nchan];
            for (contender, figure) in contenders.into_iter().zip(figures) {
                let mut run = Run::new(round, Group::Fanout, contender);
                run.record(measure, Some(*figure));
                results.runs.push(run);
            }
        }
        results
    }
}
