//! `headwater-soak`: runs scenarios of the end-to-end checker one by one, and exits with 0 if all
//! were lossless. Look here for the command line; `cargo xtask soak` builds the server and runs
//! this.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;
use headwater_soak::result::RunResult;
use headwater_soak::scenario::{ALL, ON_DEMAND};
use headwater_soak::tally::Counts;
use headwater_soak::{Options, Scenario, hostile, run, storm};

/// A scenario that runs only on demand, and its streams: the server's default connection limit,
/// less a few connections for health checks.
const STORM: &str = "storm";
const STREAMS: usize = 9_990;

/// Another one: attacks on a node, each of them for a minute.
const HOSTILE: &str = "hostile";
const ATTACK: Duration = Duration::from_secs(60);

/// Exit code: a counterexample was found.
const FOUND: u8 = 1;
/// Exit code: the check could not be completed.
const BROKEN: u8 = 2;
/// Exit code of shells after SIGINT.
const INTERRUPTED: u8 = 130;

/// Checks end to end that Headwater loses nothing: starts Redis and nodes, publishes numbered
/// events, lets clients disconnect and reconnect, injects faults, and compares.
#[derive(Parser)]
#[command(name = "headwater-soak", disable_version_flag = true)]
struct Arguments {
    /// Seed of all random choices [default: random]
    #[arg(long)]
    seed: Option<u64>,
    /// Continue with new seeds for this many minutes; without it each scenario runs once
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=7 * 24 * 60))]
    minutes: Option<u64>,
    /// Only these scenarios, separated by commas; a prefix up to a hyphen selects all scenarios
    /// that begin with it
    #[arg(long, value_name = "NAME,...")]
    scenario: Option<String>,
    /// Publish for this many seconds in each round, instead of the scenario's own duration
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: Option<u64>,
    /// Of the scenario `hostile`, only the attacks whose name contains this text
    #[arg(long, value_name = "TEXT", default_value = "")]
    attack: String,
    /// Write the logs of all clients and nodes to this directory
    #[arg(long, value_name = "DIR")]
    log: Option<PathBuf>,
    /// Write the result as Markdown to this file, after each round
    #[arg(long, value_name = "FILE")]
    result: Option<PathBuf>,
    /// Continue after a counterexample
    #[arg(long)]
    keep_going: bool,
    /// The program `headwater`
    #[arg(long, env = "HEADWATER_BIN", value_name = "FILE")]
    binary: PathBuf,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 4)]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let scenarios: Vec<Scenario> = match arguments.scenario.as_deref() {
        None => ALL.to_vec(),
        Some(HOSTILE) => vec![Scenario { name: HOSTILE, ..ALL[0] }.lasting(ATTACK)],
        Some(STORM) => vec![Scenario { name: STORM, durable_channels: 10, ..ALL[0] }],
        Some(names) => names.split(',').flat_map(Scenario::find).copied().collect(),
    };
    if scenarios.is_empty() {
        let names =
            ALL.iter().chain(ON_DEMAND).map(|scenario| scenario.name).chain([STORM, HOSTILE]);
        let names = names.collect::<Vec<_>>().join(", ");
        eprintln!("unknown scenario; choose one of {names}");
        return ExitCode::from(BROKEN);
    }
    // Dropping the future kills all processes.
    tokio::select! {
        code = run_all(&arguments, &scenarios) => ExitCode::from(code),
        () = interrupted() => {
            eprintln!("interrupted");
            ExitCode::from(INTERRUPTED)
        }
    }
}

async fn run_all(arguments: &Arguments, scenarios: &[Scenario]) -> u8 {
    let first_seed = arguments.seed.unwrap_or_else(|| fastrand::u64(0..1 << 32));
    let end = arguments.minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let options = Options { binary: arguments.binary.clone(), logs: arguments.log.clone() };
    println!("seed {first_seed}");
    let mut code = 0;
    let mut rounds = 0_u64;
    let mut failed = Vec::new();
    let mut shown = RunResult::default();
    for (round, scenario) in scenarios.iter().cycle().enumerate() {
        let over = match end {
            None => round == scenarios.len(),
            Some(end) => Instant::now() >= end,
        };
        if over || (code != 0 && !arguments.keep_going) {
            break;
        }
        let seed = first_seed + (round / scenarios.len()) as u64;
        let scenario = match arguments.seconds {
            Some(seconds) => scenario.lasting(Duration::from_secs(seconds)),
            None => *scenario,
        };
        rounds += 1;
        let again = format!("--seed {seed} --scenario {}", scenario.name);
        let file = arguments.result.as_deref();
        if scenario.name == HOSTILE {
            return attack(&options, &scenario, &arguments.attack, file, &command(seed)).await;
        }
        let (result, counts, found) = run_round(&options, &scenario, seed).await;
        code = code.max(result);
        shown.add(scenario.name, &again, counts, &found);
        if let Some(file) = &arguments.result
            && let Err(error) = shown.write(file, &command(first_seed), &commit())
        {
            eprintln!("cannot write {}: {error}", file.display());
            return BROKEN;
        }
        if result != 0 {
            failed.push(again);
        }
    }
    println!("\n{rounds} rounds, {} failed", failed.len());
    for again in failed {
        println!("again: {again}");
    }
    println!("{}", if code == 0 { "LOSSLESS" } else { "NOT LOSSLESS" });
    code
}

/// Attacks a node in every way, or in those whose name contains `only`, and returns the exit code.
async fn attack(
    options: &Options,
    scenario: &Scenario,
    only: &str,
    result: Option<&Path>,
    command: &str,
) -> u8 {
    let result = result.map(|file| (file, command));
    match hostile::run(&options.binary, scenario.duration, only, result).await {
        Ok(verdict) => {
            println!("   {}", verdict.summary);
            verdict.counterexamples.iter().for_each(|fault| println!("   {fault}"));
            if verdict.counterexamples.is_empty() { 0 } else { FOUND }
        }
        Err(why) => {
            eprintln!("no verdict: {why}");
            BROKEN
        }
    }
}

/// The command that does the same again.
fn command(seed: u64) -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments = arguments.join(" ");
    let has_seed = arguments.contains("--seed");
    let seed = if has_seed { String::new() } else { format!(" --seed {seed}") };
    let release = if cfg!(debug_assertions) { "" } else { " --release" };
    format!("cargo xtask soak{release}{seed} {arguments}")
}

/// The commit of the working directory.
fn commit() -> String {
    let git = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    let commit = git.map(|git| String::from_utf8_lossy(&git.stdout).trim().to_owned());
    commit.ok().filter(|commit| !commit.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

/// Runs a round, prints the verdict and returns the exit code, the counts and what was found.
async fn run_round(options: &Options, scenario: &Scenario, seed: u64) -> (u8, Counts, Vec<String>) {
    let name = scenario.name;
    println!("\n== {name}, seed {seed}, {} s", scenario.duration.as_secs());
    let begin = Instant::now();
    let verdict = match name {
        STORM => storm::run(options, scenario, STREAMS).await,
        _ => run(options, scenario, seed).await,
    };
    let took = begin.elapsed().as_secs_f64();
    match verdict {
        Ok(verdict) if verdict.counterexamples.is_empty() => {
            println!("   lossless in {took:.1} s: {}", verdict.summary);
            (0, verdict.counts, Vec::new())
        }
        Ok(verdict) => {
            println!("   {}", verdict.summary);
            for counterexample in &verdict.counterexamples {
                println!("{counterexample}");
            }
            println!("   {name}, seed {seed}: NOT LOSSLESS after {took:.1} s");
            (FOUND, verdict.counts, verdict.counterexamples)
        }
        Err(why) => {
            println!("   {name}, seed {seed}: no verdict after {took:.1} s: {why}");
            (BROKEN, Counts::default(), vec![why])
        }
    }
}

/// Waits for SIGINT or, on Unix, SIGTERM.
async fn interrupted() {
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated() => {}
    }
}

#[cfg(unix)]
async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => drop(terminate.recv().await),
        Err(_) => std::future::pending().await,
    }
}

#[cfg(not(unix))]
async fn terminated() {
    std::future::pending().await
}
