//! `cargo xtask test`: every test of the project, with the programs that the tests need.
//!
//! Look here to add a group of tests. Nothing is ever skipped: what cannot run has failed.

use std::cell::RefCell;
use std::io::BufRead;
use std::process::Command;
use std::time::Duration;

use crate::report::{Report, run as run_command, run_reading};
use crate::tools::{self, Tool};
use crate::{mutations, packages, redis_servers, repo};

/// The feature of crates that builds tests which need programs.
const LIVE_FEATURE: &str = "__live";

/// How many of the slowest steps are shown at the end.
const SLOWEST_SHOWN: usize = 10;

/// A group of tests that can be run alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Unit, integration and documentation tests of all crates.
    Rust,
    /// Faults made in headwater-core, each of which its model tests must find.
    Mutations,
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
        &[Self::Rust, Self::Mutations, Self::Browser, Self::Clients, Self::Fastapi, Self::Access];

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
            Self::Mutations => "mutations",
            Self::Browser => "browser",
            Self::Clients => "clients",
            Self::Fastapi => "fastapi",
            Self::Access => "access",
        }
    }

    fn tools(self) -> &'static [Tool] {
        match self {
            Self::Rust => &[Tool::RedisServer, Tool::Curl, Tool::Valgrind, Tool::Pebble],
            Self::Mutations => &[],
            Self::Browser => &[Tool::Chromium, Tool::RedisServer, Tool::Node, Tool::Npm],
            Self::Clients => &[Tool::Nginx, Tool::Python, Tool::Node, Tool::Npm],
            Self::Fastapi => &[Tool::RedisServer, Tool::Python],
            Self::Access => &[Tool::Python, Tool::Node],
        }
    }

    fn run(self, report: &mut Report, server_built: bool) {
        if self == Self::Mutations {
            return mutations::run(report);
        }
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
            Self::Rust => {
                let binaries = RefCell::new(Vec::new());
                step("rust tests", &|| rust(&binaries));
                report.details(binaries.into_inner());
            }
            Self::Mutations => {}
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
pub(crate) fn run(report: &mut Report, parts: &[Part], install: bool) {
    let mut wanted: Vec<Tool> = Vec::new();
    for tool in parts.iter().flat_map(|part| part.tools()) {
        if !wanted.contains(tool) {
            wanted.push(*tool);
        }
    }
    report.step("programs that the tests need", || tools::provide(&wanted, install));
    if parts.contains(&Part::Rust) {
        report.step("versions of Redis and Valkey", || redis_servers::provide(install));
    }
    let server_built = parts == [Part::Rust]
        || report.step("build the server", || {
            run_command(repo::cargo().args(["build", "--package", "headwater-server"]))
        });
    for part in parts {
        part.run(report, server_built);
    }
    report.show_slowest(SLOWEST_SHOWN);
}

/// Adds the time of each test binary to `binaries`.
fn rust(binaries: &RefCell<Vec<Timing>>) -> Result<(), String> {
    let mut cargo = repo::cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast"]);
    if has_live_tests()? {
        cargo.args(["--features", LIVE_FEATURE]);
    }
    cargo.env("PATH", tools::search_path()).env("TEST_REDIS_SERVERS", redis_servers::folder());
    let (result, timings) = run_reading(&mut cargo, |lines| {
        let mut reader = TestOutput::default();
        for line in lines.split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            reader.read(&line);
        }
        reader.timings
    });
    binaries.borrow_mut().extend(timings.unwrap_or_default());
    result
}

/// Whether a crate has tests that need programs, which plain `cargo test` leaves out.
fn has_live_tests() -> Result<bool, String> {
    let files = repo::files()?;
    let mut manifests = files.iter().filter(|file| file.ends_with("Cargo.toml"));
    Ok(manifests.any(|file| {
        let text = std::fs::read_to_string(repo::root().join(file)).unwrap_or_default();
        text.lines().any(|line| line.split(['=', ' ']).next() == Some(LIVE_FEATURE))
    }))
}

/// The name of something that ran, and how long it took.
type Timing = (String, Duration);

/// Reads how long each test binary took from what `cargo test` prints.
#[derive(Default)]
struct TestOutput {
    /// The crate whose tests run: its unit tests come first, under its name.
    package: String,
    running: String,
    timings: Vec<Timing>,
}

impl TestOutput {
    fn read(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["Running", "unittests", path, binary] => {
                let name = binary.rsplit('/').next().unwrap_or(binary);
                name.rsplit_once('-').map_or(name, |(name, _)| name).clone_into(&mut self.package);
                self.running = format!("{} {path}", self.package);
            }
            ["Running", path, _] => self.running = format!("{} {path}", self.package),
            ["Doc-tests", name] => self.running = format!("{name} documentation"),
            ["test", "result:", .., "finished", "in", time] => {
                let time = time.strip_suffix('s').and_then(|seconds| seconds.parse().ok());
                let time = time.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                self.timings.extend(time.map(|time| (std::mem::take(&mut self.running), time)));
            }
            _ => {}
        }
    }
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
        .env("HEADWATER_BIN", repo::server_binary(false))
        .env("PATH", tools::search_path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_each_test_binary_is_read() {
        let mut output = TestOutput::default();
        for line in [
            "     Running unittests src/lib.rs (target/debug/deps/headwater_core-0123456789abcdef)",
            "running 2 tests",
            "test ring::tests::it_works ... ok",
            "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; finished in 0.05s",
            "     Running tests/it/main.rs (target/debug/deps/it-0123456789abcdef)",
            "test result: FAILED. 1 passed; 1 failed; 0 ignored; finished in 12.50s",
            "   Doc-tests headwater_core",
            "test result: ok. 0 passed; 0 failed; 0 ignored; finished in 3.00s",
        ] {
            output.read(line);
        }
        let millis: Vec<_> =
            output.timings.iter().map(|(name, time)| (name.as_str(), time.as_millis())).collect();
        assert_eq!(
            millis,
            [
                ("headwater_core src/lib.rs", 50),
                ("headwater_core tests/it/main.rs", 12_500),
                ("headwater_core documentation", 3_000),
            ]
        );
    }

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
        check(&["--only", "ruby"], Err("rust, mutations, browser, clients, fastapi, access"));
        check(&["--fast"], Err("no option `--fast`"));
    }
}
