//! A hostile client's best effort against one node in little memory: each attack at full rate from
//! one core, while other clients go on. Measures what the others notice. Look here for the scenario
//! `hostile`, and for what counts as a fault.

mod attacks;
mod healthy;
mod neighbor;
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
use healthy::{Healthy, LATE, Noticed};
use neighbor::{Neighbor, bind_to_last};
use node::ConfinedNode;

/// The memory of the node's cgroup.
const MEMORY_BYTES: u64 = 256 << 20;

/// How much slower than on a quiet node the slowest hundredth of the events may be.
const LATENCY_RATIO_MAX: f64 = 5.0;

/// For how long the node is observed without an attack, before each.
const QUIET: Duration = Duration::from_secs(5);

/// How often an attack is tried whose only fault is latency: other programs of the machine disturb
/// a measurement now and then, and an attack that works does so every time.
const ATTEMPTS_MAX: usize = 3;

/// The result of one attack.
struct Row {
    attack: Attack,
    requests: u64,
    /// The p99 that it is compared with.
    quiet: Duration,
    noticed: Noticed,
    memory_bytes: u64,
    attempts: usize,
    faults: Vec<String>,
}

impl Row {
    fn ratio(&self) -> f64 {
        self.noticed.p99.as_secs_f64() / self.quiet.as_secs_f64()
    }
}

/// The node, and its other clients.
struct Scene<'a> {
    binary: &'a Path,
    node: ConfinedNode,
    healthy: Healthy,
    /// The p99 before each attack, sorted.
    quiets: Vec<Duration>,
}

impl<'a> Scene<'a> {
    async fn start(binary: &'a Path) -> Result<Self, String> {
        let node = block_in_place(|| ConfinedNode::start(binary, MEMORY_BYTES))?;
        node.wait_until_ready().await;
        let healthy = Healthy::start(&node).await?;
        Ok(Self { binary, node, healthy, quiets: Vec::new() })
    }

    /// Attacks until there is no fault, or one that is not only latency.
    async fn measure(&mut self, attack: Attack, each: Duration) -> Result<Row, String> {
        let mut best: Option<Row> = None;
        for attempts in 1..=ATTEMPTS_MAX {
            let mut row = self.attempt(attack, each).await?;
            row.attempts = attempts;
            let is_slow = row.ratio() > LATENCY_RATIO_MAX;
            let is_fault = !row.faults.is_empty();
            if best.as_ref().is_none_or(|best| is_fault || row.ratio() < best.ratio()) {
                best = Some(row);
            }
            if is_fault || !is_slow {
                break;
            }
        }
        let mut row = best.ok_or("an attack is tried once at least")?;
        if row.ratio() > LATENCY_RATIO_MAX {
            row.faults.push(format!("p99 {:.1} times the quiet one", row.ratio()));
        }
        Ok(row)
    }

    /// What to compare with, after one more quiet p99. What disturbs the machine before an attack
    /// must not excuse it, so it is the median of this run at most.
    fn quiet(&mut self, p99: Duration) -> Duration {
        self.quiets.push(p99);
        self.quiets.sort_unstable();
        p99.min(self.quiets[self.quiets.len() / 2])
    }

    async fn attempt(&mut self, attack: Attack, each: Duration) -> Result<Row, String> {
        let neighbor = Neighbor::start();
        sleep(QUIET).await;
        let quiet = self.healthy.notice();
        drop(neighbor);
        let requests = launch(attack, self.node.target(), each).await?;
        let mut noticed = self.healthy.notice();
        let memory_bytes = self.node.peak_bytes();
        // What is still under way counts; the node recovers.
        sleep(LATE).await;
        noticed.add_faults(&self.healthy.notice());
        let mut faults = noticed.faults();
        if !self.node.is_running() {
            faults.push("the node was killed".to_owned());
            let quiets = std::mem::take(&mut self.quiets);
            *self = Self { quiets, ..Self::start(self.binary).await? };
        }
        println!("   {attack}: {requests} requests; {noticed}; {} MB", memory_bytes >> 20);
        println!("      quiet: {quiet}");
        let quiet = self.quiet(quiet.p99);
        Ok(Row { attack, requests, quiet, noticed, memory_bytes, attempts: 1, faults })
    }
}

/// Runs every attack whose name contains `only` for `each`, and writes the table to `result`.
///
/// # Errors
/// When the node does not start, or the result cannot be written.
pub async fn run(
    binary: &Path,
    each: Duration,
    only: &str,
    result: Option<(&Path, &str)>,
) -> Result<Verdict, String> {
    let mut scene = Scene::start(binary).await?;
    let (mut rows, mut counterexamples) = (Vec::new(), Vec::new());
    for attack in ALL.into_iter().filter(|attack| attack.to_string().contains(only)) {
        let row = scene.measure(attack, each).await?;
        for fault in &row.faults {
            println!("      {fault}");
        }
        counterexamples.extend(row.faults.iter().map(|fault| format!("{attack}: {fault}")));
        rows.push(row);
        if let Some((file, command)) = result {
            let text = table(&rows, each, command, scene.node.is_confined());
            std::fs::write(file, text).map_err(|error| error.to_string())?;
        }
    }
    let summary = format!("{} attacks of {} s each", rows.len(), each.as_secs());
    Ok(Verdict { counts: Counts::default(), summary, counterexamples })
}

/// Runs an attack on a thread of its own, bound to one core, which is all the attacker has. Returns
/// the number of requests.
async fn launch(attack: Attack, target: Target, each: Duration) -> Result<u64, String> {
    let (stop, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let attacker = thread::spawn({
        let (stop, requests) = (Arc::clone(&stop), Arc::clone(&requests));
        move || {
            bind_to_last();
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

fn table(rows: &[Row], each: Duration, command: &str, confined: bool) -> String {
    let mut text = String::new();
    let memory = if confined { "a memory cgroup of 256 MiB" } else { "no memory cgroup" };
    let _ = writeln!(
        text,
        "# Attacks on one node\n\nEach for {} s at full rate from one core, to which the attacker \
         is bound. The node is in {memory} and not bound; it, the attacker and the others have 2 \
         cores:\n\n```sh\n{command}\n```\n\nThe quiet p99 is of the same clients before each \
         attack, or the median of this run if that is less, beside a thread that does nothing but \
         keep the attacker's core busy. An attack \
         whose only fault is latency is tried up to {ATTEMPTS_MAX} times, and the best counts.\n",
        each.as_secs()
    );
    text.push_str(
        "| attack | requests | quiet p99 | p99 of others | ratio | events of others missing | \
         publishes of others refused | peak memory of the node | attempts | verdict |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let Row { attack, requests, quiet, noticed, memory_bytes, attempts, faults } = row;
        let verdict = if faults.is_empty() { "holds".to_owned() } else { faults.join("; ") };
        let _ = writeln!(
            text,
            "| {attack} | {requests} | {:.1} ms | {:.1} ms | {:.1} | {} | {} of {} | {} MB | \
             {attempts} | {verdict} |",
            quiet.as_secs_f64() * 1e3,
            noticed.p99.as_secs_f64() * 1e3,
            row.ratio(),
            noticed.missing,
            noticed.refused,
            noticed.published,
            memory_bytes >> 20,
        );
    }
    text
}
