//! Runs steps one after the other, says what each is and how long it took, and sums up.
//!
//! Look here for how a step is announced, bounded and counted.

use std::fmt::Write as _;
use std::io::{BufReader, PipeReader, pipe};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// Longer than any step took on two cores with an empty target folder (about 8 minutes), and short
/// enough that a step which hangs is named before CI's own limit cuts the run without a summary.
const STEP_LIMIT: Duration = Duration::from_secs(25 * 60);

/// How often a running step is asked whether it ended: too short to notice, too long to cost.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long a reader of a program's output may take after the program ended. A process that it
/// left behind may hold the output open.
const READER_LIMIT: Duration = Duration::from_secs(5);

/// The steps so far.
pub(crate) struct Report {
    steps: Vec<Step>,
    /// Parts of steps, with their times.
    details: Vec<(String, Duration)>,
}

struct Step {
    name: String,
    took: Duration,
    failure: Option<String>,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self { steps: Vec::new(), details: Vec::new() }
    }

    /// Runs one step. A failure is recorded and shown again at the end; the next step still runs.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce() -> Result<(), String>) -> bool {
        println!("\n=== {name}");
        let started = Instant::now();
        let failure = work().err();
        let took = started.elapsed();
        match &failure {
            None => println!("=== {name}: passed in {}", seconds(took)),
            Some(why) => println!("=== {name}: FAILED after {}: {why}", seconds(took)),
        }
        let passed = failure.is_none();
        self.steps.push(Step { name: name.to_owned(), took, failure });
        passed
    }

    /// Adds what a step consisted of.
    pub(crate) fn details(&mut self, timings: Vec<(String, Duration)>) {
        self.details.extend(timings);
    }

    /// Prints the slowest steps and parts of steps.
    pub(crate) fn show_slowest(&self, shown: usize) {
        println!("\n{}", self.slowest(shown));
    }

    fn slowest(&self, shown: usize) -> String {
        let steps = self.steps.iter().map(|step| (step.name.as_str(), step.took));
        let details = self.details.iter().map(|(name, took)| (name.as_str(), *took));
        let mut all: Vec<_> = steps.chain(details).collect();
        all.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
        let lines =
            all.iter().take(shown).map(|(name, took)| format!("{:>8}  {name}", seconds(*took)));
        std::iter::once("=== slowest".to_owned()).chain(lines).collect::<Vec<_>>().join("\n")
    }

    /// Prints the table. The exit code is 1 when a step failed.
    pub(crate) fn finish(self) -> ExitCode {
        if self.steps.is_empty() {
            return ExitCode::SUCCESS;
        }
        println!("\n{}", self.table());
        let failed = self.steps.iter().any(|step| step.failure.is_some());
        if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }

    fn table(&self) -> String {
        let width = self.steps.iter().map(|step| step.name.len()).max().unwrap_or(0);
        let mut table = String::from("=== summary\n");
        for step in &self.steps {
            let result = if step.failure.is_none() { "passed" } else { "FAILED" };
            // Writing to a String cannot fail.
            let _ = writeln!(table, "{result}  {:width$}  {:>8}", step.name, seconds(step.took));
            for line in step.failure.iter().flat_map(|why| why.lines()) {
                let _ = writeln!(table, "        {line}");
            }
        }
        let failed = self.steps.iter().filter(|step| step.failure.is_some()).count();
        let _ = write!(table, "\nsteps: {} passed, {failed} failed", self.steps.len() - failed);
        table
    }
}

/// Runs a program to its end with our output. `Err` says how it ended, if not well.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    run_within(STEP_LIMIT, command)
}

/// As `run`, with its own limit.
pub(crate) fn run_within(limit: Duration, command: &mut Command) -> Result<(), String> {
    let line = command_line(command);
    println!("$ {line}");
    let alone = std::env::var_os("CI").is_some();
    if alone {
        own_group(command);
    }
    // Nothing here asks a question: who waits for an answer gets an end of input.
    command.stdin(Stdio::null());
    let mut child = command.spawn().map_err(|error| format!("`{line}` does not start: {error}"))?;
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("`{line}` failed ({})", ended(status))),
            Ok(None) if Instant::now() < deadline => sleep(POLL_INTERVAL),
            Ok(None) => {
                kill(&mut child, alone);
                return Err(format!("`{line}` took longer than {}", seconds(limit)));
            }
            Err(error) => return Err(format!("`{line}` cannot be waited for: {error}")),
        }
    }
}

/// As `run`, with a reader of all that the program prints, in order. Its result is missing when the
/// output stays open after the program's end.
pub(crate) fn run_reading<T: Send + 'static>(
    command: &mut Command,
    read: impl FnOnce(BufReader<PipeReader>) -> T + Send + 'static,
) -> (Result<(), String>, Option<T>) {
    let pipe = pipe().and_then(|(output, input)| Ok((output, input.try_clone()?, input)));
    let (output, stdout, stderr) = match pipe {
        Ok(pipe) => pipe,
        Err(error) => return (Err(format!("no pipe can be made: {error}")), None),
    };
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(read(BufReader::new(output))));
    let result = run(command.stdout(stdout).stderr(stderr));
    // The command holds the pipe open until it has other outputs.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    (result, receiver.recv_timeout(READER_LIMIT).ok())
}

/// Whether a program succeeds in time. Its output is not shown.
pub(crate) fn is_successful(limit: Duration, command: &mut Command) -> Result<bool, String> {
    let line = command_line(command);
    own_group(command);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| format!("`{line}` does not start: {error}"))?;
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status.success()),
            Ok(None) if Instant::now() < deadline => sleep(POLL_INTERVAL),
            Ok(None) => {
                kill(&mut child, true);
                return Ok(false);
            }
            Err(error) => return Err(format!("`{line}` cannot be waited for: {error}")),
        }
    }
}

/// In CI a step gets a process group of its own, so that all of it can be ended. At a terminal it
/// stays in ours, because that is what Ctrl-C reaches.
fn own_group(command: &mut Command) {
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    #[cfg(not(unix))]
    let _ = command;
}

fn kill(child: &mut Child, whole_group: bool) {
    if whole_group {
        let group = format!("-{}", child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
    }
    // It may be gone already, which is what we want.
    let _ = child.kill();
    let _ = child.wait();
}

/// The command as a person would type it.
fn command_line(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    std::iter::once(name)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

fn ended(status: ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| format!("exit code {code}"))
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_is_named_with_its_reason_and_does_not_stop_the_next() {
        let mut report = Report::new();
        assert!(!report.step("first", || Err("no redis".to_owned())));
        assert!(report.step("second", || Ok(())));
        let table = report.table();
        assert!(table.contains("FAILED  first"), "{table}");
        assert!(table.contains("no redis"), "{table}");
        assert!(table.contains("passed  second"), "{table}");
        assert!(table.ends_with("steps: 1 passed, 1 failed"), "{table}");
    }

    #[test]
    fn the_slowest_come_first() {
        let mut report = Report::new();
        report.step("quick", || Ok(()));
        let times = [("b", 2), ("a", 1), ("c", 3)];
        let times = times.map(|(name, time)| (name.to_owned(), Duration::from_secs(time)));
        report.details(times.to_vec());
        assert_eq!(report.slowest(2), "=== slowest\n   3.0 s  c\n   2.0 s  b");
    }

    #[test]
    fn both_outputs_of_a_program_are_read() {
        let mut sh = Command::new("sh");
        sh.args(["-c", "echo out; echo err >&2; exit 3"]);
        let (result, text) = run_reading(&mut sh, |lines| std::io::read_to_string(lines).ok());
        assert!(result.is_err_and(|why| why.contains("exit code 3")));
        assert_eq!(text, Some(Some("out\nerr\n".to_owned())));
    }

    #[test]
    fn no_program_waits_for_input() {
        let mut sh = Command::new("sh");
        sh.args(["-c", "! read line"]).stdin(Stdio::piped());
        assert_eq!(run_within(Duration::from_secs(10), &mut sh), Ok(()));
    }

    #[test]
    fn a_program_that_fails_is_reported_with_its_exit_code() {
        let failed = run(Command::new("sh").args(["-c", "exit 3"]));
        assert_eq!(failed, Err("`sh -c exit 3` failed (exit code 3)".to_owned()));
        let missing = run(&mut Command::new("headwater-no-such-program"));
        assert!(missing.is_err_and(|why| why.contains("does not start")));
    }
}
