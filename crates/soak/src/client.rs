//! One client: subscribes, drops the connection at random moments and at any byte, reconnects with
//! its last id, and logs what it received.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use headwater::event::{Decoder, Item, Message};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::connection::{Connection, NoStream, StreamRequest};
use crate::data;
use crate::ledger::{Given, Ledger, name_in_headwater};
use crate::log::{ClientLog, Entry, Line};
use crate::phase::Phase;
use crate::scenario::{Group, Pace};
use crate::start::Starts;
use crate::tally::Tally;

/// How long the response head of a stream may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// The wait after a failed attempt to connect.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(50);

/// The pause of a slow client after each read.
const SLOW_PAUSE_MS: std::ops::Range<u64> = 0..60;

/// The longest silence, with a heartbeat every second, before the client considers a stream dead.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// One of so many reconnects starts over, if the client does so.
const START_OVER_OF: u8 = 5;

/// What all clients share.
pub struct Subscribing {
    /// The addresses of the nodes.
    pub nodes: Vec<SocketAddr>,
    /// What was published.
    pub ledger: Arc<Ledger>,
    /// The counts of the round.
    pub tally: Arc<Tally>,
}

/// The progress of a client.
pub struct Progress {
    /// Whether it has an open stream.
    pub connected: AtomicBool,
    /// The channels it subscribes to, by index, with the highest number received on each.
    pub highest: Vec<(usize, AtomicU64)>,
}

/// A client.
pub struct Client {
    shared: Arc<Subscribing>,
    group: Group,
    rng: Rng,
    home: usize,
    path: String,
    /// How long a stream lives on average before the client drops it; `None` is indefinitely.
    stream_life: Option<Duration>,
    last_id: String,
    progress: Arc<Progress>,
    starts: Starts,
    /// After which numbers it begins with its next stream, unless that is now.
    begins_after: Option<Vec<u64>>,
    log: ClientLog,
    /// The logs until it started over: it then counts as another client.
    past_logs: Vec<ClientLog>,
}

/// Why a stream ended.
enum Over {
    Dropped,
    Ended(&'static str),
    Stopped,
}

impl Client {
    /// A client of some of the world's channels.
    pub fn new(
        shared: Arc<Subscribing>,
        group: Group,
        number: usize,
        channels: Vec<usize>,
        stream_life: Option<Duration>,
        mut rng: Rng,
    ) -> Self {
        let random_home = rng.usize(0..shared.nodes.len());
        // Clients that never drop are on every node.
        let home = if stream_life.is_some() { random_home } else { number % shared.nodes.len() };
        let names: Vec<String> =
            channels.iter().map(|channel| shared.ledger.name(*channel)).collect();
        let names: BTreeSet<&str> = names.iter().map(|name| name_in_headwater(name)).collect();
        let mut path = "/sse/stream?".to_owned();
        for name in names {
            path += &format!("channel={name}&");
        }
        let pace = if group.pace == Pace::Slow { ", slow" } else { "" };
        let moves = if group.moves { ", moves" } else { "" };
        let name = format!("client {number} ({}{pace}{moves})", group.protocol);
        let highest = channels.iter().map(|channel| (*channel, AtomicU64::new(0))).collect();
        let progress = Progress { connected: AtomicBool::new(false), highest };
        Self {
            shared,
            group,
            rng,
            home,
            path: path.trim_end_matches('&').to_owned(),
            stream_life,
            last_id: String::new(),
            progress: Arc::new(progress),
            starts: Starts::new(&channels),
            begins_after: None,
            past_logs: Vec::new(),
            log: ClientLog { name, channels, lines: Vec::new(), left: false },
        }
    }

    /// The client's progress, which is updated while it runs.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Subscribes and reconnects until the phase is `Stop`. Returns a log for each start.
    pub async fn run(mut self, mut phase: watch::Receiver<Phase>) -> Vec<ClientLog> {
        while *phase.borrow_and_update() != Phase::Stop {
            let node = if self.group.moves {
                self.rng.usize(0..self.shared.nodes.len())
            } else {
                self.home
            };
            match timeout(OPEN_TIMEOUT, self.open(node)).await {
                Ok(Ok(connection)) => {
                    self.read_stream(connection, node, &mut phase).await;
                    self.progress.connected.store(false, Ordering::Relaxed);
                    if *phase.borrow() == Phase::Publish {
                        sleep(self.away()).await;
                        if self.group.restarts && self.rng.u8(0..START_OVER_OF) == 0 {
                            self.start_over();
                        }
                    }
                }
                Ok(Err(NoStream::Rejected(status))) => {
                    self.note(Entry::Rejected(status));
                    sleep(UNREACHABLE_PAUSE).await;
                }
                Ok(Err(NoStream::Unreachable)) => sleep(UNREACHABLE_PAUSE).await,
                Err(_) => self.note(Entry::Ended("no response in time")),
            }
        }
        self.past_logs.push(self.log);
        self.past_logs
    }

    /// Forgets its last id, and takes none or another one.
    fn start_over(&mut self) {
        let given = self.starts.choose(&self.shared.ledger, &mut self.rng);
        let (id, begins_after) = match given {
            Some(Given { id, begun }) => (id, Some(begun)),
            None => (String::new(), None),
        };
        self.last_id = id;
        self.begins_after = begins_after;
        let (name, _) = self.log.name.split_once(", start ").unwrap_or((&self.log.name, ""));
        let next = ClientLog {
            name: format!("{name}, start {}", self.past_logs.len() + 2),
            channels: self.log.channels.clone(),
            lines: Vec::new(),
            left: false,
        };
        self.log.left = true;
        self.past_logs.push(std::mem::replace(&mut self.log, next));
    }

    async fn open(&mut self, node: usize) -> Result<Connection, NoStream> {
        let in_header = self.last_id.is_empty() || self.rng.bool();
        let query_path = format!("{}&last_event_id={}", self.path, self.last_id);
        let request = StreamRequest {
            address: self.shared.nodes[node],
            path: if in_header { &self.path } else { &query_path },
            last_event_id: Some(self.last_id.as_str()).filter(|id| in_header && !id.is_empty()),
            protocol: self.group.protocol,
            pace: self.group.pace,
        };
        Connection::open(&request).await
    }

    /// Reads a stream until it ends.
    async fn read_stream(
        &mut self,
        mut connection: Connection,
        node: usize,
        phase: &mut watch::Receiver<Phase>,
    ) {
        let mut decoder = Decoder::new();
        let drop_at = self.stream_life.map(|life| Instant::now() + life.mul_f64(self.part()));
        let mut is_open = false;
        let over = loop {
            let bytes = match self.next_bytes(&mut connection, drop_at, phase).await {
                Ok(bytes) => bytes,
                Err(over) => break over,
            };
            if !std::mem::replace(&mut is_open, true) {
                self.opened(node);
            }
            let calm = *phase.borrow() != Phase::Publish;
            let is_last = !calm && drop_at.is_some_and(|at| at <= Instant::now());
            let taken = if is_last { self.rng.usize(0..=bytes.len()) } else { bytes.len() };
            if let Err(error) = connection.decode(&bytes[..taken], &mut decoder) {
                self.note(Entry::Alien(format!("the stream cannot be decoded: {error}")));
                break Over::Ended("undecodable");
            }
            self.take(&mut decoder);
            if is_last {
                break Over::Dropped;
            }
            if self.group.pace == Pace::Slow && !calm {
                sleep(Duration::from_millis(self.rng.u64(SLOW_PAUSE_MS))).await;
            }
        };
        match over {
            Over::Dropped => {
                self.shared.tally.drops.add(1);
                self.note(Entry::Dropped);
            }
            Over::Ended(how) => {
                self.shared.tally.ended.add(1);
                self.note(Entry::Ended(how));
            }
            Over::Stopped => {}
        }
        connection.cut(self.rng.bool());
    }

    async fn next_bytes(
        &mut self,
        connection: &mut Connection,
        drop_at: Option<Instant>,
        phase: &mut watch::Receiver<Phase>,
    ) -> Result<Vec<u8>, Over> {
        let silent = sleep(SILENCE_MAX);
        tokio::pin!(silent);
        loop {
            let calm = *phase.borrow_and_update() != Phase::Publish;
            if *phase.borrow() == Phase::Stop {
                return Err(Over::Stopped);
            }
            // A busy stream is dropped with its next bytes, so that an event is cut in the middle;
            // a quiet one shortly after.
            let grace = Duration::from_millis(20);
            let drop = drop_at.filter(|_| !calm).map(|at| at + grace);
            tokio::select! {
                bytes = connection.read() => {
                    let end = if connection.ended_cleanly() { "cleanly" } else { "cut" };
                    return bytes.ok_or(Over::Ended(end));
                }
                () = sleep_until(drop.unwrap_or_else(Instant::now)), if drop.is_some() => {
                    return Err(Over::Dropped);
                }
                () = &mut silent => return Err(Over::Ended("silent for too long")),
                _ = phase.changed() => {}
            }
        }
    }

    fn opened(&mut self, node: usize) {
        let resumed_from = Some(self.last_id.clone()).filter(|id| !id.is_empty());
        let now = self.log.channels.iter().map(|channel| self.shared.ledger.begun(*channel));
        let begins_after = self.begins_after.take();
        let is_start = begins_after.is_some() || resumed_from.is_none();
        let begun = begins_after.unwrap_or_else(|| now.collect());
        if is_start {
            self.starts.begin(&begun);
        }
        self.shared.tally.opened.add(1);
        self.note(Entry::Opened { node, resumed_from, begun });
        self.progress.connected.store(true, Ordering::Relaxed);
    }

    fn take(&mut self, decoder: &mut Decoder) {
        while let Some(item) = decoder.next_item() {
            if let Item::Event(message) = item {
                for entry in self.entries(message) {
                    if let Entry::Gap { channel, .. } = entry {
                        self.starts.gap(channel, self.shared.ledger.begun(channel));
                    }
                    self.note(entry);
                }
            }
        }
        if !decoder.last_event_id().is_empty() {
            decoder.last_event_id().clone_into(&mut self.last_id);
        }
    }

    fn entries(&mut self, message: Message) -> Vec<Entry> {
        if message.name == "headwater-gap" {
            self.shared.tally.gaps.add(1);
            return self.gaps(&message.data);
        }
        vec![self.event(message)]
    }

    fn event(&mut self, message: Message) -> Entry {
        self.shared.tally.deliveries.add(1);
        let (channel, number) = match data::decode(&message.data) {
            Ok((name, number)) => (self.shared.ledger.find(name), number),
            Err(why) => return Entry::Alien(why),
        };
        let Some(channel) = channel else {
            return Entry::Alien(format!(
                "`{}` belongs to an unknown channel",
                message.data.escape_debug()
            ));
        };
        if let Some((_, highest)) = self.progress.highest.iter().find(|(of, _)| *of == channel) {
            highest.fetch_max(number, Ordering::Relaxed);
        }
        self.starts.receive(channel, number, &message.id, &mut self.rng);
        Entry::Event { channel, number, id: message.id }
    }

    /// A gap event counts for all kinds of events of its channel.
    fn gaps(&self, data: &str) -> Vec<Entry> {
        let gap: serde_json::Value = serde_json::from_str(data).unwrap_or_default();
        let name = gap["channel"].as_str().unwrap_or_default();
        let channels = self.shared.ledger.find_all(name);
        match gap["reason"].as_str() {
            Some(reason) if !channels.is_empty() => {
                let gap = |channel| Entry::Gap { channel, reason: reason.to_owned() };
                channels.into_iter().map(gap).collect()
            }
            _ => vec![Entry::Alien(format!("`{}` is not a valid gap", data.escape_debug()))],
        }
    }

    fn note(&mut self, entry: Entry) {
        self.log.lines.push(Line { at_ms: self.shared.ledger.now_ms(), entry });
    }

    /// A random factor from 0 to 2.
    fn part(&mut self) -> f64 {
        self.rng.f64() * 2.0
    }

    fn away(&mut self) -> Duration {
        // Half of all reconnects are immediate.
        if self.rng.bool() { Duration::ZERO } else { self.group.away_max.mul_f64(self.rng.f64()) }
    }
}
