//! `cargo xtask soak`: runs the end-to-end checker against the server as built, for as long as you
//! like.
//!
//! Look here for how it is started. What it does is in `crates/soak`.

use std::time::Duration;

use crate::arguments;
use crate::repo;
use crate::report::{Report, run_within};
use crate::tools::{self, Tool};

/// On top of the time that was asked for: the build, and the end of the last round.
const EXTRA: Duration = Duration::from_secs(30 * 60);

/// A week: chosen arbitrarily, so that a slip of the finger is refused.
const MINUTES_MAX: u64 = 7 * 24 * 60;

/// The checker's options, and how long it may take.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    minutes: u64,
    /// Whether the server is built as it is released: for scenarios that measure.
    release: bool,
    arguments: Vec<String>,
}

impl Options {
    pub(crate) fn from_arguments(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self { minutes: 0, release: false, arguments: arguments.to_vec() };
        let is_release = |argument: &String| argument == "--release";
        options.release = arguments.iter().any(is_release);
        options.arguments.retain(|argument| !is_release(argument));
        let passed = options.arguments.clone();
        let mut rest = passed.iter();
        while let Some(argument) = rest.next() {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (argument.as_str(), None),
            };
            match name {
                "--keep-going" if value.is_none() => continue,
                "--seed" | "--minutes" | "--scenario" | "--seconds" | "--attack" | "--log"
                | "--result" => {}
                _ => return Err(format!("`cargo xtask soak` has no option `{argument}`")),
            }
            let value = value.or_else(|| rest.next().map(String::as_str));
            let value = value.ok_or_else(|| format!("`{name}` needs a value"))?;
            if name == "--minutes" {
                options.minutes = arguments::minutes(value, MINUTES_MAX)?;
            }
        }
        Ok(options)
    }
}

/// Builds server and checker, and runs it.
pub(crate) fn run(report: &mut Report, options: &Options, install: bool) {
    let profile: &[&str] = if options.release { &["--release"] } else { &[] };
    let built = report.step("build the server and the checker", || {
        tools::provide(&[Tool::RedisServer], install)?;
        let mut cargo = repo::cargo();
        cargo.args(["build", "--package", "headwater-server", "--package", "headwater-soak"]);
        cargo.args(profile);
        run_within(EXTRA, &mut cargo)
    });
    if !built {
        return;
    }
    report.step("soak", || {
        let mut cargo = repo::cargo();
        cargo.args(["run", "--quiet", "--package", "headwater-soak"]).args(profile).arg("--");
        cargo.args(&options.arguments);
        cargo
            .env("HEADWATER_BIN", repo::server_binary(options.release))
            .env("PATH", tools::search_path());
        run_within(Duration::from_secs(60 * options.minutes) + EXTRA, &mut cargo)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked_and_passed_on() {
        let parse = |line: &str| {
            let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            Options::from_arguments(&arguments)
        };
        let none = Options { minutes: 0, release: false, arguments: Vec::new() };
        assert_eq!(parse(""), Ok(none));
        let line = "--seed 7 --minutes=60 --scenario mix --result soak.md --keep-going";
        let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
        assert_eq!(parse(line), Ok(Options { minutes: 60, release: false, arguments }));
        let arguments = vec!["--attack".to_owned(), "HTTP/2".to_owned()];
        let expected = Options { minutes: 0, release: true, arguments };
        assert_eq!(parse("--attack HTTP/2 --release"), Ok(expected));
        for wrong in ["--minutes", "--minutes 0", "--minutes=ten", "--hours 1", "--keep-going=x"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
