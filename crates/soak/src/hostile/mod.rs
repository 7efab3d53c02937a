//! A hostile client's best effort against one node in little memory: each attack at full rate from
//! one core, while other clients go on. Measures what the others notice. Look here for the scenario
//! `hostile`, and for what counts as a fault.

mod attacks;
mod healthy;
mod node;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tokio::task::block_in_place;
use tokio::time::sleep;

use crate::round::Verdict;
use crate::tally::Counts;

use attacks::{ALL, Attack, Target};
use healthy::{Healthy, Noticed};
use node::ConfinedNode;

/// The memory of the node's cgroup.
const MEMORY_BYTES: u64 = 256 << 20;

/// How much slower than on a quiet node the slowest hundredth of the events may be.
const LATENCY_RATIO_MAX: f64 = 5.0;
/// A latency below this is no fault: a machine with few cores schedules the attacker, too.
const LATENCY_FLOOR: Duration = Duration::from_millis(50);

/// How long the node is observed without an attack.
const QUIET: Duration = Duration::from_secs(10);

/// How long a node may take to recover between two attacks.
const PAUSE: Duration = Duration::from_secs(2);

/// The result of one attack.
struct Row {
    attack: Attack,
    requests: u64,
    noticed: Noticed,
    memory_bytes: u64,
    faults: Vec<String>,
}

/// Runs every attack for `each`, and writes the table to `result`.
///
/// # Errors
/// When the node does not start, or the result cannot be written.
pub async fn run(
    binary: &Path,
    each: Duration,
    result: Option<(&Path, &str)>,
) -> Result<Verdict, String> {
    let mut node = block_in_place(|| ConfinedNode::start(binary, MEMORY_BYTES))?;
    node.wait_until_ready().await;
    let mut healthy = Healthy::start(&node).await?;
    sleep(QUIET).await;
    let quiet = healthy.notice();
    println!("   quiet: {quiet}");
    let (mut rows, mut counterexamples) = (Vec::new(), Vec::new());
    for attack in ALL {
        let requests = launch(attack, node.target(), each).await?;
        let noticed = healthy.notice();
        let memory_bytes = node.peak_bytes();
        let mut faults = noticed.faults(&quiet, LATENCY_RATIO_MAX, LATENCY_FLOOR);
        if !node.is_running() {
            faults.push("the node was killed".to_owned());
        }
        println!("   {attack}: {requests} requests; {noticed}; {} MB", memory_bytes >> 20);
        for fault in &faults {
            println!("      {fault}");
        }
        counterexamples.extend(faults.iter().map(|fault| format!("{attack}: {fault}")));
        rows.push(Row { attack, requests, noticed, memory_bytes, faults });
        if !node.is_running() {
            node = block_in_place(|| ConfinedNode::start(binary, MEMORY_BYTES))?;
            node.wait_until_ready().await;
            healthy = Healthy::start(&node).await?;
        }
        sleep(PAUSE).await;
        // What is lost during the pause is part of no attack.
        healthy.notice();
    }
    if let Some((file, command)) = result {
        let text = table(&rows, &quiet, each, command, node.is_confined());
        std::fs::write(file, text).map_err(|error| error.to_string())?;
    }
    let summary = format!("{} attacks of {} s each", rows.len(), each.as_secs());
    Ok(Verdict { counts: Counts::default(), summary, counterexamples })
}

/// Runs an attack on a thread of its own, which is all the attacker has. Returns the number of
/// requests.
async fn launch(attack: Attack, target: Target, each: Duration) -> Result<u64, String> {
    let (stop, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let attacker = thread::spawn({
        let (stop, requests) = (Arc::clone(&stop), Arc::clone(&requests));
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map(|runtime| runtime.block_on(attacks::run(attack, target, stop, requests)))
        }
    });
    sleep(each).await;
    stop.store(true, Ordering::Relaxed);
    let ended = block_in_place(|| attacker.join());
    ended.map_err(|_| "the attacker panicked".to_owned())?.map_err(|error| error.to_string())?;
    Ok(requests.load(Ordering::Relaxed))
}

fn table(rows: &[Row], quiet: &Noticed, each: Duration, command: &str, confined: bool) -> String {
    let mut text = String::new();
    let memory = if confined { "a memory cgroup of 256 MiB" } else { "no memory cgroup" };
    let _ = writeln!(
        text,
        "# Attacks on one node\n\nEach for {} s at full rate from one core, the node in {memory}, \
         2 cores for all:\n\n```sh\n{command}\n```\n\nQuiet: {quiet}.\n",
        each.as_secs()
    );
    text.push_str(
        "| attack | requests | p99 latency of others | x quiet | events of others missing | \
         publishes of others refused | peak memory of the node | verdict |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for Row { attack, requests, noticed, memory_bytes, faults } in rows {
        let verdict = if faults.is_empty() { "holds".to_owned() } else { faults.join("; ") };
        let _ = writeln!(
            text,
            "| {attack} | {requests} | {:.1} ms | {:.1} | {} | {} | {} MB | {verdict} |",
            noticed.p99.as_secs_f64() * 1e3,
            noticed.p99.as_secs_f64() / quiet.p99.as_secs_f64(),
            noticed.missing,
            noticed.refused,
            memory_bytes >> 20,
        );
    }
    text
}
