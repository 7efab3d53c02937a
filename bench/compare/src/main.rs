//! `headwater-compare`: the same load for headwater, the floor and other servers, in turn, and a
//! table of what it cost. `cargo xtask compare` builds what it needs and runs it. Look here for the
//! command line and the order.
//!
//! From the bottom up: `sizes` (the numbers), `measure` (the rows), `contender` (who is compared),
//! `group` (measures on one server), `run` and `results` (the figures), `scene` (the work), `table`
//! and `goals` (the document).
#![expect(clippy::cast_precision_loss, reason = "figures for people do not need 53 bits")]

mod contender;
mod goals;
mod group;
mod machine;
mod measure;
mod median;
mod programs;
mod redis;
mod results;
mod run;
mod scene;
mod sizes;
mod startup;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser as _;
use headwater_bench::Error;

use contender::Contender;
use group::Group;
use programs::Programs;
use results::Results;
use sizes::Sizes;

/// Compare headwater with other servers under the same load
#[derive(clap::Parser)]
#[command(name = "headwater-compare")]
struct CommandLine {
    /// Rounds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Only these groups of measures
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Group>,
    /// Only these contenders
    #[arg(long, value_enum, value_delimiter = ',')]
    contenders: Vec<Contender>,
    /// A few streams and one round, to check that everything works; the figures mean nothing
    #[arg(long)]
    quick: bool,
    /// Directory of the results
    #[arg(long, value_name = "DIRECTORY", default_value = "bench/results")]
    results: PathBuf,
    /// Python interpreter with the packages of the FastAPI contender
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// Directory with the contenders' files
    #[arg(long, value_name = "DIRECTORY", default_value = "bench/contenders")]
    folder: PathBuf,
    /// Commit that is measured, for the results
    #[arg(long, default_value = "unknown")]
    commit: String,
}

fn main() -> ExitCode {
    match compare(&mut CommandLine::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// All rounds, contenders interleaved within each.
fn compare(command_line: &mut CommandLine) -> Result<(), Error> {
    if command_line.quick {
        command_line.rounds = 1;
    }
    let groups = all_if_none(&command_line.only);
    let contenders = all_if_none(&command_line.contenders);
    let sizes = if command_line.quick { Sizes::QUICK } else { Sizes::FULL };
    let programs = Programs::find(&command_line.folder, command_line.python.as_deref())?;
    let mut results =
        Results::new(machine::describe(&programs), command_line.commit.clone(), sizes);
    for round in 0..command_line.rounds {
        for group in groups.iter().filter(|group| round < group.rounds_max()) {
            let mut turn: Vec<Contender> = contenders.clone();
            // Each round starts with another contender, so that none always runs first or last.
            let count = turn.len();
            turn.rotate_left(usize::from(round) % count);
            for contender in turn.into_iter().filter(|contender| group.has(*contender)) {
                println!("round {}, {}: {}", round + 1, group.name(), contender.name());
                let run = scene::measure(round, *group, contender, &programs, &sizes);
                for (measure, figure) in &run.figures {
                    println!("  {}: {}", measure.title(), measure.show(*figure));
                }
                results.runs.push(run);
            }
        }
    }
    let files = write(&results, &command_line.results, command_line.quick)?;
    println!("\n{}\n{files}", table::markdown(&results));
    match results.failures() {
        0 => Ok(()),
        count => Err(Error::Failed(format!("{count} runs failed, see the table"))),
    }
}

/// Writes the table and the raw figures, and returns a line that names the files.
fn write(results: &Results, folder: &Path, is_quick: bool) -> Result<String, Error> {
    let name = format!("{}-compare{}", results.date, if is_quick { "-quick" } else { "" });
    let failed = |error: std::io::Error| {
        Error::failed(format!("cannot write the results to {}: {error}", folder.display()))
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let json = serde_json::to_string_pretty(results).map_err(|error| failed(error.into()))?;
    std::fs::write(folder.join(format!("{name}.json")), json + "\n").map_err(failed)?;
    let table = folder.join(format!("{name}.md"));
    std::fs::write(&table, table::markdown(results)).map_err(failed)?;
    Ok(format!("written to {}, with the raw figures in {name}.json", table.display()))
}

fn all_if_none<T: clap::ValueEnum + Clone>(chosen: &[T]) -> Vec<T> {
    if chosen.is_empty() { T::value_variants().to_vec() } else { chosen.to_vec() }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_valid() {
        CommandLine::command().debug_assert();
    }
}
