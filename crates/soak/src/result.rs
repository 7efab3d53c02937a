//! The result of a run as a Markdown file, for `bench/results/`. Look here for its columns.

use std::fmt::Write as _;
use std::path::Path;

use crate::tally::Counts;

/// Counterexamples in the file, at most: the first ones show what is wrong.
const COUNTEREXAMPLES_MAX: usize = 20;

/// Lines of each counterexample in the file, at most.
const LINES_MAX: usize = 60;

/// What a run has shown so far.
#[derive(Default)]
pub struct RunResult {
    scenarios: Vec<Row>,
    counterexamples: Vec<(String, String)>,
}

struct Row {
    name: &'static str,
    rounds: u64,
    lossless: u64,
    counts: Counts,
}

impl RunResult {
    /// Adds a round: what would repeat it, its counts, and what it found.
    pub fn add(&mut self, name: &'static str, again: &str, counts: Counts, found: &[String]) {
        let at = self.scenarios.iter().position(|row| row.name == name).unwrap_or_else(|| {
            self.scenarios.push(Row { name, rounds: 0, lossless: 0, counts: Counts::default() });
            self.scenarios.len() - 1
        });
        let row = &mut self.scenarios[at];
        row.rounds += 1;
        row.lossless += u64::from(found.is_empty());
        row.counts.add(counts);
        let found = found.iter().map(|what| (again.to_owned(), what.clone()));
        let room = COUNTEREXAMPLES_MAX.saturating_sub(self.counterexamples.len());
        self.counterexamples.extend(found.take(room));
    }

    /// The file, for a run that was started with this command at a commit.
    pub fn to_markdown(&self, command: &str, commit: &str) -> String {
        let rounds: u64 = self.scenarios.iter().map(|row| row.rounds).sum();
        let lossless: u64 = self.scenarios.iter().map(|row| row.lossless).sum();
        let mut text = format!(
            "# The end-to-end checker\n\nCommit {commit}.\n\n```sh\n{command}\n```\n\n\
             {lossless} of {rounds} rounds lossless.\n\n\
             | scenario | rounds | lossless | events acknowledged | outcome unknown | deliveries \
             | gaps reported | streams | dropped by the client | ended otherwise | faults |\n\
             |---|---|---|---|---|---|---|---|---|---|---|\n"
        );
        for row in &self.scenarios {
            // Writing to a String cannot fail.
            let _ = write!(text, "| {} | {} | {} |", row.name, row.rounds, row.lossless);
            for count in row.counts.0 {
                let _ = write!(text, " {count} |");
            }
            text.push('\n');
        }
        if !self.counterexamples.is_empty() {
            text += "\n## Counterexamples\n";
        }
        for (again, found) in &self.counterexamples {
            let lines: Vec<&str> = found.lines().take(LINES_MAX).collect();
            let _ = write!(text, "\n`{again}`\n\n```text\n{}\n```\n", lines.join("\n"));
        }
        text
    }

    /// Writes the file, with its directory.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, file: &Path, command: &str, commit: &str) -> std::io::Result<()> {
        if let Some(directory) = file.parent() {
            std::fs::create_dir_all(directory)?;
        }
        std::fs::write(file, self.to_markdown(command, commit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_summed_by_scenario() {
        let mut result = RunResult::default();
        result.add("mix", "--seed 1", Counts([1, 2, 3, 4, 5, 6, 7, 8]), &[]);
        result.add("mix", "--seed 2", Counts([1; 8]), &["LOST 1 event".to_owned()]);
        result.add("drops", "--seed 1", Counts([9; 8]), &[]);
        let text = result.to_markdown("cargo xtask soak", "abc");
        for line in [
            "2 of 3 rounds lossless.",
            "| mix | 2 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 |",
            "| drops | 1 | 1 | 9 | 9 | 9 | 9 | 9 | 9 | 9 | 9 |",
            "`--seed 2`",
            "LOST 1 event",
        ] {
            assert!(text.lines().any(|has| has == line), "{line}\n{text}");
        }
    }
}
