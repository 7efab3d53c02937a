//! `cargo xtask fuzz`: runs the fuzz targets, by hand and for as long as you like.
//!
//! Look here for how they are started. The targets themselves are in `fuzz/fuzz_targets/`.

use std::process::Stdio;
use std::time::Duration;

use crate::arguments;
use crate::repo;
use crate::report::{Report, run_within};
use crate::tools::{self, Tool};

/// On top of the fuzzing itself: the build with the sanitizer, and the end of the last input.
const BUILD_LIMIT: Duration = Duration::from_secs(20 * 60);

/// A day: chosen arbitrarily, so that a slip of the finger is refused.
const MINUTES_MAX: u64 = 24 * 60;

/// What to fuzz, and for how long.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    minutes: u64,
    /// All of them, when empty.
    targets: Vec<String>,
}

impl Options {
    pub(crate) fn from_arguments(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self { minutes: 10, targets: Vec::new() };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            if argument == "--minutes" {
                options.minutes =
                    arguments::minutes(rest.next().map_or("", String::as_str), MINUTES_MAX)?;
            } else if let Some(value) = argument.strip_prefix("--minutes=") {
                options.minutes = arguments::minutes(value, MINUTES_MAX)?;
            } else if argument.starts_with('-') {
                return Err(format!("`cargo xtask fuzz` has no option `{argument}`"));
            } else {
                options.targets.push(argument.clone());
            }
        }
        Ok(options)
    }
}

/// Runs each target, whatever became of those before it.
pub(crate) fn run(report: &mut Report, options: &Options, install: bool) {
    let mut targets = options.targets.clone();
    let found = report.step("cargo-fuzz and its targets", || {
        tools::provide(&[Tool::CppCompiler], install)?;
        let all = list()?;
        if targets.is_empty() {
            targets = all;
        } else if let Some(unknown) = targets.iter().find(|target| !all.contains(target)) {
            return Err(format!(
                "there is no fuzz target `{unknown}`; there are {}",
                all.join(", ")
            ));
        }
        Ok(())
    });
    if !found {
        return;
    }
    for target in &targets {
        let name = format!("fuzz {target}, {} min", options.minutes);
        report.step(&name, || fuzz(target, Duration::from_secs(options.minutes * 60)));
    }
}

fn fuzz(target: &str, time: Duration) -> Result<(), String> {
    let mut cargo = repo::cargo();
    cargo.args(["fuzz", "run", target, "--", &format!("-max_total_time={}", time.as_secs())]);
    // cargo-fuzz asks rustc for a sanitizer, which a stable rustc has and lets only this open.
    run_within(time + BUILD_LIMIT, cargo.env("RUSTC_BOOTSTRAP", "1"))
}

fn list() -> Result<Vec<String>, String> {
    let output = repo::cargo()
        .args(["fuzz", "list"])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo cannot be run: {error}"))?;
    if !output.status.success() {
        return Err("`cargo fuzz list` failed: if cargo has no command `fuzz`, \
                    install it by `cargo install cargo-fuzz --locked`"
            .to_owned());
    }
    let names = String::from_utf8_lossy(&output.stdout);
    Ok(names.lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        let parse = |arguments: &[&str]| {
            let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
            Options::from_arguments(&arguments)
        };
        let ten = Options { minutes: 10, targets: Vec::new() };
        assert_eq!(parse(&[]), Ok(ten));
        let two = Options { minutes: 2, targets: vec!["decoder".to_owned()] };
        assert_eq!(parse(&["--minutes", "2", "decoder"]), Ok(two));
        for wrong in [&["--minutes"][..], &["--minutes=0"], &["--minutes=ten"], &["--hours=1"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
