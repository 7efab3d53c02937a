//! The project's own commands, called as `cargo xtask COMMAND`.
//!
//! Look here for the list of commands. What each one does is in the file of its name.

mod arguments;
mod compare;
mod fuzz;
mod layers;
mod lint;
mod mutations;
mod packages;
mod redis_servers;
mod repo;
mod report;
mod soak;
mod test;
mod tidy;
mod tools;

use std::process::ExitCode;

use report::Report;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  test [--only PART]...   run all tests
                          parts: rust, mutations, browser, clients, fastapi, access
  lint                    formatting, clippy, documentation, features, fuzz targets, tidy
  ci                      lint, then test
  tidy [--write-debt [--allow-new-debt]]
                          only the quick checks of files, imports and words; --write-debt takes
                          faults that are gone off xtask/layers-debt.txt, or adds new ones, too
  mutations               make faults in headwater-core and expect its model tests to find each
  fuzz [--minutes N] [TARGET]...
                          run every fuzz target (or those named) for N minutes each, 10 by default
  soak [--seed N] [--minutes N] [--scenario NAME,...] [--seconds N] [--log DIR]
       [--result FILE] [--keep-going] [--attack TEXT] [--release]
                          check end to end that nothing is lost: each scenario once, or
                          again and again with new seeds until the minutes are over
  compare [--rounds N] [--only GROUP,...] [--contenders NAME,...] [--quick] [--results DIR]
                          do the same work with Headwater, the floor, nchan, axum and FastAPI,
                          and write a table to bench/results; --quick only shows that it works

A command fails when a program is missing that it needs, and names the package. With --install it
installs the packages first (apt-get on Debian and Ubuntu), without asking: test, lint, ci, fuzz,
soak and compare have this option.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(report) => report.finish(),
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

/// Runs one command. `Err` is an invalid command line; later failures are in the report.
fn run(arguments: &[String]) -> Result<Report, String> {
    let (command, rest) = arguments.split_first().ok_or(USAGE)?;
    let mut report = Report::new();
    let (install, rest) = match command.as_str() {
        "tidy" | "mutations" => (false, rest.to_vec()),
        _ => arguments::take_install(rest),
    };
    let rest = rest.as_slice();
    match command.as_str() {
        "test" => test::run(&mut report, &test::Part::from_arguments(rest)?, install),
        "fuzz" => fuzz::run(&mut report, &fuzz::Options::from_arguments(rest)?, install),
        "compare" => compare::run(&mut report, &compare::Options::from_arguments(rest)?, install),
        "soak" => soak::run(&mut report, &soak::Options::from_arguments(rest)?, install),
        "mutations" if rest.is_empty() => mutations::run(&mut report),
        "lint" | "ci" if !rest.is_empty() => {
            return Err(format!(
                "`cargo xtask {command}` takes no option but `--install`\n\n{USAGE}"
            ));
        }
        "tidy" => lint::tidy(&mut report, tidy::Options::from_arguments(rest)?),
        "lint" => lint::run(&mut report, install),
        "ci" => {
            lint::run(&mut report, install);
            test::run(&mut report, test::Part::ALL, install);
        }
        "help" | "--help" | "-h" => println!("{USAGE}"),
        unknown => return Err(format!("there is no command `{unknown}`\n\n{USAGE}")),
    }
    Ok(report)
}
