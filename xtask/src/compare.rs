//! `cargo xtask compare`: builds Headwater and what it is compared with, and runs the comparison.
//!
//! Look here for what is built and installed. What is measured is in `bench/compare`.

use std::process::Command;
use std::time::Duration;

use crate::report::{Report, run_within};
use crate::tools::{self, Tool};
use crate::{packages, repo};

/// Five rounds take about 20 minutes, 100 are allowed, and a build comes before them.
const LIMIT: Duration = Duration::from_secs(8 * 60 * 60);

/// The options of the comparison.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    arguments: Vec<String>,
    contenders: Option<String>,
}

impl Options {
    pub(crate) fn from_arguments(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self { arguments: arguments.to_vec(), contenders: None };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (argument.as_str(), None),
            };
            match name {
                "--quick" if value.is_none() => continue,
                "--rounds" | "--only" | "--contenders" | "--results" => {}
                _ => return Err(format!("`cargo xtask compare` has no option `{argument}`")),
            }
            let value = value.or_else(|| rest.next().map(String::as_str));
            let value = value.ok_or_else(|| format!("`{name}` needs a value"))?;
            if name == "--contenders" {
                options.contenders = Some(value.to_owned());
            }
        }
        Ok(options)
    }

    fn has(&self, contender: &str) -> bool {
        self.contenders.as_ref().is_none_or(|names| names.split(',').any(|name| name == contender))
    }
}

/// Builds what is compared, and compares it.
pub(crate) fn run(report: &mut Report, options: &Options, install: bool) {
    let has_fastapi = options.has("fastapi");
    let mut wanted = vec![Tool::RedisServer];
    wanted.extend(options.has("nchan").then_some(Tool::Nginx));
    wanted.extend(options.has("nchan").then_some(Tool::Nchan));
    wanted.extend(has_fastapi.then_some(Tool::Python));
    let programs = || tools::provide(&wanted, install);
    let is_ready = report.step("programs that are compared", programs)
        && report.step("build them", || {
            let mut cargo = repo::cargo();
            cargo.args(["build", "--release", "--package", "headwater-server"]);
            cargo.args(["--package", "headwater-bench", "--package", "headwater-compare"]);
            cargo.args(["--package", "headwater-contender-axum"]);
            run_within(LIMIT, &mut cargo)
        });
    if !is_ready {
        return;
    }
    report.step("compare", || {
        let program = format!("headwater-compare{}", std::env::consts::EXE_SUFFIX);
        let mut compare = Command::new(repo::target_dir().join("release").join(program));
        compare.args(&options.arguments).args(["--commit", &commit()]);
        if has_fastapi {
            compare.arg("--python").arg(packages::python_of_contender()?);
        }
        compare.current_dir(repo::root()).env("PATH", tools::search_path());
        run_within(LIMIT, &mut compare)
    });
}

/// The commit, and whether the files are those of it.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(repo::root()).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_default();
    let is_clean =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_ok_and(|it| it.is_empty());
    let commit = if commit.is_empty() { "unknown".to_owned() } else { commit };
    if is_clean { commit } else { format!("{commit} with changes") }
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
        let options = parse("--quick --contenders floor,headwater --rounds=2").expect("options");
        assert_eq!(options.arguments.len(), 4);
        assert!(options.has("floor") && !options.has("fastapi"));
        assert!(parse("").expect("none").has("fastapi"));
        for wrong in ["--fast", "--rounds", "--quick=1", "headwater"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
