//! `headwater-compare`: the same work for Headwater, the floor and others, in turn, and a table of what it cost.
//! It is started by `cargo xtask compare`, which builds what it needs. Look here for the command line and the order.
#![expect(clippy::cast_precision_loss, reason = "figures for people need no 53 bits")]

mod contender;
mod goals;
mod groups;
mod machine;
mod programs;
mod redis;
mod results;
mod sizes;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser as _;
use headwater_bench::{Error, worker};

use contender::Contender;
use groups::Group;
use programs::Programs;
use results::Results;
use sizes::Sizes;

/// Does the same work with Headwater and with others, in turn, and writes what it cost
#[derive(clap::Parser)]
#[command(name = "headwater-compare")]
struct CommandLine {
    /// How often everything is done
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Only these groups of measures
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Group>,
    /// Only these contenders
    #[arg(long, value_enum, value_delimiter = ',')]
    contenders: Vec<Contender>,
    /// A few streams and one round: shows that everything works, and measures nothing
    #[arg(long)]
    quick: bool,
    /// Where the results go
    #[arg(long, value_name = "DIRECTORY", default_value = "bench/results")]
    results: PathBuf,
    /// The interpreter that has the packages of the FastAPI contender
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// The folder with the contenders' own files
    #[arg(long, value_name = "DIRECTORY", default_value = "bench/contenders")]
    folder: PathBuf,
    /// The commit that is measured
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// Be one of the processes that hold the streams
    #[arg(long, hide = true)]
    worker: bool,
}

fn main() -> ExitCode {
    let mut command_line = CommandLine::parse();
    let result = if command_line.worker { worker::run() } else { compare(&mut command_line) };
    match result {
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
    let programs = Programs::find(command_line)?;
    let mut results =
        Results::new(machine::describe(&programs), command_line.commit.clone(), sizes);
    for round in 0..command_line.rounds {
        for group in groups.iter().filter(|group| round < group.rounds_max()) {
            let mut turn: Vec<Contender> = contenders.clone();
            // Whoever comes first finds another machine than whoever comes last.
            let places = turn.len();
            turn.rotate_left(usize::from(round) % places);
            for contender in turn.into_iter().filter(|contender| group.has(*contender)) {
                println!("round {}, {}: {}", round + 1, group.name(), contender.name());
                results.run(round, *group, contender, &programs, &sizes);
            }
        }
    }
    let files = results.write(&command_line.results, command_line.quick)?;
    println!("\n{}\n{files}", table::markdown(&results));
    match results.failures() {
        0 => Ok(()),
        count => Err(Error::Failed(format!("{count} runs have failed, see the table"))),
    }
}

fn all_if_none<T: clap::ValueEnum + Clone>(chosen: &[T]) -> Vec<T> {
    if chosen.is_empty() { T::value_variants().to_vec() } else { chosen.to_vec() }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        CommandLine::command().debug_assert();
    }
}
