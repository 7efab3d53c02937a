//! One round: starts a world, publishes, subscribes and injects faults for a while, waits until
//! everything is delivered, and checks. Look here for the order of a round and for its bounds.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::sync::watch;
use tokio::task::{JoinHandle, block_in_place};
use tokio::time::{sleep, timeout};

use crate::check::check;
use crate::client::{Client, Progress, Subscribing};
use crate::counterexample::{Injected, describe};
use crate::faults;
use crate::ledger::{Channel, Kind, Ledger};
use crate::log::{ClientLog, Entry};
use crate::phase::Phase;
use crate::publisher::{Publisher, Publishing};
use crate::scenario::{Broker, Channels, Group, STEADY, Scenario};
use crate::tally::{Counts, Tally};
use crate::world::World;

/// How long all clients may take to connect, and to receive what is missing at the end. Generous:
/// it only matters when something is wrong.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a publish of a program takes at most when Redis responds.
const IN_FLIGHT_MS: u32 = 300;

/// How long a node may take to be ready once nothing is wrong any more.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// The interval of the last events, until every client has one of each of its channels.
const LAST_EVENTS_INTERVAL: Duration = Duration::from_millis(200);

/// How long clients stay connected when everything has arrived: duplicates would arrive then.
const SETTLE: Duration = Duration::from_millis(400);

/// How often progress is printed.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// Added to a scenario's duration: starting, outages, coming to rest. A round that takes longer
/// hangs.
const ROUND_EXTRA: Duration = Duration::from_secs(150);

/// The paths of the server and of the logs.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program `headwater`.
    pub binary: PathBuf,
    /// The directory for the logs of all clients and nodes.
    pub logs: Option<PathBuf>,
}

/// The result of a round.
#[derive(Debug)]
pub struct Verdict {
    /// The counts, in one line.
    pub summary: String,
    /// The counts as numbers.
    pub counts: Counts,
    /// The violations; empty means lossless.
    pub counterexamples: Vec<String>,
}

/// Runs a scenario once.
///
/// # Errors
/// When the round could not be completed.
///
/// # Panics
/// When Redis or a node does not start.
pub async fn run(options: &Options, scenario: &Scenario, seed: u64) -> Result<Verdict, String> {
    let limit = scenario.duration + ROUND_EXTRA;
    let round = timeout(limit, run_unbounded(options, scenario, seed)).await;
    round.unwrap_or_else(|_| Err(format!("the round did not end within {} s", limit.as_secs())))
}

async fn run_unbounded(
    options: &Options,
    scenario: &Scenario,
    seed: u64,
) -> Result<Verdict, String> {
    let mut rng = Rng::with_seed(seed);
    let mut world = block_in_place(|| World::start(&options.binary, scenario))?;
    world.wait_until_ready().await;
    let mut round = Round::start(&world, scenario, &mut rng).await?;
    let injected = round.publish(&mut world, scenario, &mut rng).await?;
    if scenario.broker == Broker::RedisReplicated {
        round.add_last_clients(scenario);
    }
    round.come_to_rest().await?;
    let logs = round.stop().await?;
    for node in world.exited_nodes() {
        round.tally.trouble(format!("node {node} exited by itself"));
    }
    let mut channels = round.ledger.snapshot();
    forget_unheard(&mut channels, &logs, &injected);
    let found = check(&channels, &logs, scenario.rules);
    let mut counterexamples: Vec<String> =
        found.iter().map(|found| describe(found, &channels, &logs, &injected)).collect();
    counterexamples.extend(round.tally.troubles());
    if !counterexamples.is_empty() {
        counterexamples.extend(world.node_warnings());
        counterexamples.extend(world.metrics("headwater_redis_reconnects").await);
    }
    if let Some(directory) = &options.logs {
        let directory = directory.join(format!("{}-{seed}", scenario.name));
        write_logs(&directory, &world, &channels, &logs, &injected).map_err(|error| {
            format!("cannot write the logs to {}: {error}", directory.display())
        })?;
    }
    let counts = round.tally.counts();
    Ok(Verdict { summary: round.tally.to_string(), counts, counterexamples })
}

/// The clients and publishers of a round, and what they share.
struct Round {
    ledger: Arc<Ledger>,
    tally: Arc<Tally>,
    phase: watch::Sender<Phase>,
    clients: Vec<JoinHandle<Vec<ClientLog>>>,
    progress: Vec<Arc<Progress>>,
    subscribing: Arc<Subscribing>,
    publishing: Arc<Publishing>,
    publishers: Vec<Publisher>,
}

impl Round {
    /// Connects all clients. Nothing is published yet.
    async fn start(world: &World, scenario: &Scenario, rng: &mut Rng) -> Result<Self, String> {
        let durable =
            (0..scenario.durable_channels).map(|at| (format!("soak.d{at}"), Kind::Durable));
        let ephemeral = (0..scenario.ephemeral_channels).map(|at| {
            let is_mixed = at < scenario.mixed_channels;
            let name = if is_mixed { format!("soak.d{at}/p") } else { format!("soak.p{at}") };
            (name, Kind::Ephemeral)
        });
        let ledger = Arc::new(Ledger::new(durable.chain(ephemeral)));
        let tally = Arc::new(Tally::default());
        let nodes = world.addresses().to_vec();
        let publishing = Arc::new(Publishing {
            nodes: nodes.clone(),
            redis: world.redis_url(),
            // A Redis that loses its data loses the keys too.
            repeats: scenario.broker != Broker::RedisInMemory && !scenario.rules.new_epochs,
            publisher_ids: scenario.publisher_ids,
            may_fail: !scenario.faults.is_empty(),
            may_be_denied: scenario.broker == Broker::RedisReplicated,
            takes_turns: scenario.broker == Broker::RedisReplicated,
            without_retention: (scenario.broker == Broker::RedisReplicated).then_some("soak.p"),
            ledger: Arc::clone(&ledger),
            tally: Arc::clone(&tally),
        });
        let subscribing =
            Arc::new(Subscribing { nodes, ledger: Arc::clone(&ledger), tally: Arc::clone(&tally) });
        let (phase, _) = watch::channel(Phase::Publish);
        let mut round = Self {
            ledger,
            tally,
            phase,
            clients: Vec::new(),
            progress: Vec::new(),
            subscribing: Arc::clone(&subscribing),
            publishing,
            publishers: Vec::new(),
        };
        for group in scenario.clients {
            for _ in 0..group.count {
                let number = round.clients.len();
                let client = new_client(&subscribing, scenario, group, number, rng);
                round.progress.push(client.progress());
                round.clients.push(tokio::spawn(client.run(round.phase.subscribe())));
            }
        }
        let all_opened =
            || round.progress.iter().all(|client| client.connected.load(Ordering::Relaxed));
        if wait_until(PATIENCE, all_opened).await {
            Ok(round)
        } else {
            Err("not all clients could open a stream at the start of the round".to_owned())
        }
    }

    /// Publishes while faults are injected.
    async fn publish(
        &mut self,
        world: &mut World,
        scenario: &Scenario,
        rng: &mut Rng,
    ) -> Result<Vec<Injected>, String> {
        let channels = self.ledger.channels();
        #[allow(clippy::cast_precision_loss, reason = "a handful of channels")]
        let rate = f64::from(scenario.events_per_second) / channels as f64;
        let publishers: Vec<_> = (0..channels)
            .map(|channel| {
                let publisher =
                    Publisher::new(Arc::clone(&self.publishing), channel, rate, rng.fork());
                tokio::spawn(publisher.run(self.phase.subscribe()))
            })
            .collect();
        let (ledger, tally) = (Arc::clone(&self.ledger), Arc::clone(&self.tally));
        let faults = async {
            let injected = faults::inject(world, scenario, rng.fork(), ledger, tally).await;
            for unready in world.unready(READY_WITHIN).await {
                self.tally.trouble(unready);
            }
            injected
        };
        let begin = Instant::now();
        let both = async { tokio::join!(faults, sleep(scenario.duration)).0 };
        let injected = tokio::select! {
            injected = both => injected,
            () = self.print_progress(begin) => Vec::new(),
        };
        self.phase.send_replace(Phase::Rest);
        for publisher in publishers {
            let publisher = publisher.await.map_err(|error| format!("a publisher: {error}"))?;
            self.publishers.push(publisher);
        }
        Ok(injected)
    }

    async fn print_progress(&self, begin: Instant) {
        loop {
            sleep(PROGRESS_INTERVAL).await;
            println!("  {:>4} s: {}", begin.elapsed().as_secs(), self.tally);
        }
    }

    /// Adds a client of all channels on each node: whatever became of the streams that are open,
    /// each node must deliver to new ones.
    fn add_last_clients(&mut self, scenario: &Scenario) {
        let all = scenario.durable_channels + scenario.ephemeral_channels;
        let group = Group { channels: Channels::Any(all), ..STEADY };
        let first = self.clients.len().next_multiple_of(scenario.nodes);
        for node in 0..scenario.nodes {
            let mut rng = Rng::with_seed(node as u64);
            // A client that never drops its stream is on the node of its number.
            let client = new_client(&self.subscribing, scenario, &group, first + node, &mut rng);
            self.progress.push(client.progress());
            self.clients.push(tokio::spawn(client.run(self.phase.subscribe())));
        }
    }

    /// Publishes last events until every client has one of each of its channels, and waits until
    /// every client has the last acknowledged one. If one never does, the check reports what is
    /// missing.
    async fn come_to_rest(&mut self) -> Result<(), String> {
        let is_connected = |client: &Arc<Progress>| client.connected.load(Ordering::Relaxed);
        wait_until(PATIENCE, || self.progress.iter().all(is_connected)).await;
        let deadline = Instant::now() + PATIENCE;
        let mut first = Vec::new();
        while Instant::now() < deadline {
            // All at the same time: each may take long when something is wrong.
            let publishing = self.publishers.drain(..).map(|mut publisher| {
                tokio::spawn(async move { (publisher.publish_last().await, publisher) })
            });
            let mut last = Vec::new();
            for publisher in publishing.collect::<Vec<_>>() {
                let published = publisher.await.map_err(|error| format!("a publisher: {error}"))?;
                last.push(published.0);
                self.publishers.push(published.1);
            }
            if first.is_empty() {
                first = last;
            }
            sleep(LAST_EVENTS_INTERVAL).await;
            if self.all_have(|channel| first[channel]) {
                break;
            }
        }
        wait_until(PATIENCE, || self.all_have(|channel| self.ledger.last_acknowledged(channel)))
            .await;
        sleep(SETTLE).await;
        Ok(())
    }

    fn all_have(&self, wanted: impl Fn(usize) -> u64) -> bool {
        let has = |client: &Arc<Progress>| {
            let mut channels = client.highest.iter();
            channels.all(|(channel, highest)| highest.load(Ordering::Relaxed) >= wanted(*channel))
        };
        self.progress.iter().all(has)
    }

    /// Stops all clients and returns their logs.
    async fn stop(&mut self) -> Result<Vec<ClientLog>, String> {
        self.phase.send_replace(Phase::Stop);
        let mut logs = Vec::new();
        for client in self.clients.drain(..) {
            let log = timeout(PATIENCE, client).await.map_err(|_| "a client does not stop")?;
            logs.extend(log.map_err(|error| format!("a client: {error}"))?);
        }
        Ok(logs)
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        for client in &self.clients {
            client.abort();
        }
    }
}

fn new_client(
    subscribing: &Arc<Subscribing>,
    scenario: &Scenario,
    group: &Group,
    number: usize,
    rng: &mut Rng,
) -> Client {
    let (durable, all) =
        (scenario.durable_channels, scenario.durable_channels + scenario.ephemeral_channels);
    let (mut channels, count): (Vec<usize>, _) = match group.channels {
        Channels::Durable(count) => ((0..durable).collect(), count),
        Channels::Ephemeral(count) => ((durable..all).collect(), count),
        Channels::Any(count) => ((0..all).collect(), count),
    };
    rng.shuffle(&mut channels);
    channels.truncate(count);
    for mixed in 0..scenario.mixed_channels {
        // Both kinds of events of a mixed channel arrive.
        for (one, other) in [(mixed, durable + mixed), (durable + mixed, mixed)] {
            if channels.contains(&one) && !channels.contains(&other) {
                channels.push(other);
            }
        }
    }
    let drops = scenario.scaled(group.drops);
    let life = (drops > 0).then(|| {
        let every = scenario.duration / drops;
        // Half of the time a client reconnects at once, else on average after half of the longest
        // time away.
        every.saturating_sub(group.away_max / 4).max(Duration::from_millis(5))
    });
    Client::new(Arc::clone(subscribing), *group, number, channels, life, rng.fork())
}

/// What no node has heard of when Redis is restored from an older copy is not expected.
fn forget_unheard(channels: &mut [Channel], logs: &[ClientLog], injected: &[Injected]) {
    let restored = injected.iter().filter_map(|fault| {
        // What was in flight when the copy was made may be in it or not.
        fault.restored_since_ms.map(|since| since.saturating_sub(IN_FLIGHT_MS)..=fault.at_ms)
    });
    let restored: Vec<_> = restored.collect();
    if restored.is_empty() {
        return;
    }
    let mut heard = HashSet::new();
    for line in logs.iter().flat_map(|log| &log.lines) {
        if let Entry::Event { channel, number, .. } = line.entry {
            heard.insert((channel, number));
        }
    }
    for (at, channel) in channels.iter_mut().enumerate() {
        for time in &restored {
            channel.forget_unheard(time.clone(), |number| heard.contains(&(at, number)));
        }
    }
}

async fn wait_until(limit: Duration, holds: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !holds() {
        if Instant::now() > deadline {
            return false;
        }
        sleep(Duration::from_millis(10)).await;
    }
    true
}

fn write_logs(
    directory: &Path,
    world: &World,
    channels: &[Channel],
    clients: &[ClientLog],
    faults: &[Injected],
) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let names = |channel: usize| channels[channel].name.clone();
    for (number, client) in clients.iter().enumerate() {
        let mut text = format!("{}\n", client.name);
        for (at, line) in client.lines.iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{at:>7} {}", line.shown(&names));
        }
        std::fs::write(directory.join(format!("client-{number}.log")), text)?;
    }
    for (number, log) in world.node_logs().iter().enumerate() {
        std::fs::write(directory.join(format!("node-{number}.log")), log)?;
    }
    let mut text = String::new();
    for fault in faults {
        let _ = writeln!(text, "{:>7} ms  {}", fault.at_ms, fault.what);
    }
    std::fs::write(directory.join("faults.log"), text)?;
    for channel in channels {
        let mut text = String::new();
        for (event, number) in channel.published.iter().zip(1..) {
            let _ = writeln!(text, "{number:>7} {event}");
        }
        std::fs::write(
            directory.join(format!("published-{}.log", channel.name.replace('/', "-"))),
            text,
        )?;
    }
    Ok(())
}
