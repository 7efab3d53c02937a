//! `cargo xtask test`: every test of the project, after installing what the tests need.
//!
//! Look here to add a group of tests. Nothing is ever skipped: what cannot run has failed.

use std::process::Command;

use crate::report::{Report, run as run_command};
use crate::tools::{self, Tool};
use crate::{packages, repo};

/// A group of tests that can be run alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Unit, integration and documentation tests of all crates.
    Rust,
    /// The demo page in a real browser.
    Browser,
    /// SSE clients from npm and PyPI, and nginx, against the real server.
    Clients,
    /// The FastAPI example, with Redis and the real server.
    Fastapi,
    /// The examples of access: FastAPI, Django and Node decide who may listen.
    Access,
}

impl Part {
    pub(crate) const ALL: &[Self] =
        &[Self::Rust, Self::Browser, Self::Clients, Self::Fastapi, Self::Access];

    /// The parts that `--only` names, or all of them.
    pub(crate) fn from_arguments(arguments: &[String]) -> Result<Vec<Self>, String> {
        let mut parts = Vec::new();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let value = match argument.strip_prefix("--only=") {
                Some(value) => value,
                None if argument == "--only" => {
                    rest.next().ok_or("`--only` needs the name of a part")?
                }
                None => return Err(format!("`cargo xtask test` has no option `{argument}`")),
            };
            for name in value.split(',') {
                parts.push(Self::from_name(name)?);
            }
        }
        Ok(if parts.is_empty() { Self::ALL.to_vec() } else { parts })
    }

    fn from_name(name: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|part| part.name() == name).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|part| part.name()).collect();
            format!("there is no part `{name}`; the parts are {}", names.join(", "))
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Browser => "browser",
            Self::Clients => "clients",
            Self::Fastapi => "fastapi",
            Self::Access => "access",
        }
    }

    fn tools(self) -> &'static [Tool] {
        match self {
            Self::Rust => &[Tool::RedisServer, Tool::Curl, Tool::Valgrind, Tool::Pebble],
            Self::Browser => &[Tool::Chromium, Tool::RedisServer, Tool::Node, Tool::Npm],
            Self::Clients => &[Tool::Nginx, Tool::Python, Tool::Node, Tool::Npm],
            Self::Fastapi => &[Tool::RedisServer, Tool::Python],
            Self::Access => &[Tool::Python, Tool::Node],
        }
    }

    fn run(self, report: &mut Report, server_built: bool) {
        let mut step = |name: &str, work: &dyn Fn() -> Result<(), String>| {
            report.step(name, || {
                tools::require(self.tools())?;
                if self != Self::Rust && !server_built {
                    // An older build may lie there: its results would be of no worth.
                    return Err("the server did not build".to_owned());
                }
                work()
            });
        };
        match self {
            Self::Rust => step("rust tests", &rust),
            Self::Browser => step("browser tests", &|| node("tests/browser")),
            Self::Clients => {
                step("clients from npm, nginx", &|| node("tests/clients"));
                step("clients from PyPI", &|| python("tests/clients"));
            }
            Self::Fastapi => step("fastapi example", &|| python("examples/fastapi")),
            Self::Access => step("access examples", &|| python("examples/access")),
        }
    }
}

/// Runs the parts, each whatever became of those before it.
pub(crate) fn run(report: &mut Report, parts: &[Part]) {
    let mut wanted: Vec<Tool> = Vec::new();
    for tool in parts.iter().flat_map(|part| part.tools()) {
        if !wanted.contains(tool) {
            wanted.push(*tool);
        }
    }
    report.step("programs that the tests need", || tools::install(&wanted));
    let server_built = parts == [Part::Rust]
        || report.step("build the server", || {
            run_command(repo::cargo().args(["build", "--package", "headwater-server"]))
        });
    for part in parts {
        part.run(report, server_built);
    }
}

fn rust() -> Result<(), String> {
    let mut cargo = repo::cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast"]);
    run_command(cargo.env("PATH", tools::search_path()))
}

/// One file at a time: the tests measure times, and two cores are soon busy.
fn node(folder: &str) -> Result<(), String> {
    packages::npm(folder)?;
    let mut node = Command::new(Tool::Node.find()?);
    node.args(["--test", "--test-concurrency=1", "--test-reporter=spec"]);
    run_command(with_server(&mut node, folder))
}

fn python(folder: &str) -> Result<(), String> {
    let mut python = Command::new(packages::python()?);
    python.args(["-m", "unittest", "discover", "--verbose"]);
    run_command(with_server(&mut python, folder))
}

/// Passes the paths of the server and the browser to a test.
fn with_server<'a>(command: &'a mut Command, folder: &str) -> &'a mut Command {
    if let Ok(chromium) = Tool::Chromium.find() {
        command.env("CHROMIUM", chromium);
    }
    command
        .current_dir(repo::root().join(folder))
        .env("HEADWATER_BIN", repo::server_binary())
        .env("PATH", tools::search_path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_named_on_the_command_line() {
        let check = |arguments: &[&str], expected: Result<&[Part], &str>| {
            let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
            match (Part::from_arguments(&arguments), expected) {
                (Ok(parts), Ok(expected)) => assert_eq!(parts, expected, "{arguments:?}"),
                (Err(why), Err(word)) => assert!(why.contains(word), "{arguments:?}: {why}"),
                (got, _) => panic!("{arguments:?} gave {got:?}"),
            }
        };
        check(&[], Ok(Part::ALL));
        check(&["--only", "rust"], Ok(&[Part::Rust]));
        check(&["--only=clients,fastapi"], Ok(&[Part::Clients, Part::Fastapi]));
        check(&["--only", "rust", "--only", "browser"], Ok(&[Part::Rust, Part::Browser]));
        check(&["--only"], Err("needs the name"));
        check(&["--only", "ruby"], Err("rust, browser, clients, fastapi, access"));
        check(&["--fast"], Err("no option `--fast`"));
    }
}
