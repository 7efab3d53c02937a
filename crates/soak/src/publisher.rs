//! Publishes the events of one channel in order, over changing routes, and records each outcome in
//! the ledger. Look here for how a publish with an idempotency key is repeated.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::data;
use crate::id::publisher_id;
use crate::ledger::{Kind, Ledger, Route, name_in_headwater};
use crate::phase::Phase;
use crate::redis_calls::{Call, RedisCalls};
use crate::requests::{Failure, Post, Requests};
use crate::tally::Tally;

/// How often a publisher checks how many events are due.
const TICK: Duration = Duration::from_millis(2);

/// Events per batch or pipeline, at most.
const BATCH_MAX: usize = 40;

/// A publisher that falls further behind than this skips the rest: catching up after an outage
/// would test a flood instead.
const BEHIND_MAX: u64 = 500;

/// In every other turn of this length, only one channel has durable events, if they take turns.
const TURN_MS: u32 = 700;

/// How long a publish with a key is repeated.
const REPEAT_FOR: Duration = Duration::from_secs(15);

/// The wait after a failure.
const FAILURE_PAUSE: Duration = Duration::from_millis(30);

/// What all publishers share.
pub struct Publishing {
    /// The addresses of the nodes.
    pub nodes: Vec<SocketAddr>,
    /// The URL of Redis, if there is one.
    pub redis: Option<String>,
    /// Whether a publish may be repeated with its key. Not when Redis may lose the key.
    pub repeats: bool,
    /// Whether some events have an id set by the publisher.
    pub publisher_ids: bool,
    /// Whether a publish may fail, because faults are injected.
    pub may_fail: bool,
    /// Whether a publish may be denied, because faults deny it.
    pub may_be_denied: bool,
    /// Whether all channels with durable events but one pause at times: then a node that is not
    /// subscribed to that one knows less of the log than clients.
    pub takes_turns: bool,
    /// Channels without retention: their events are ephemeral over HTTP too.
    pub without_retention: Option<&'static str>,
    /// What was published.
    pub ledger: Arc<Ledger>,
    /// The counts of the round.
    pub tally: Arc<Tally>,
}

/// The publisher of one channel.
pub struct Publisher {
    shared: Arc<Publishing>,
    channel: usize,
    name: String,
    kind: Kind,
    events_per_second: f64,
    rng: Rng,
    nodes: Vec<Requests>,
    redis: Option<RedisCalls>,
}

impl Publisher {
    /// A publisher for a channel, at a rate.
    pub fn new(shared: Arc<Publishing>, channel: usize, events_per_second: f64, rng: Rng) -> Self {
        Self {
            name: shared.ledger.name(channel),
            kind: shared.ledger.kind(channel),
            nodes: shared.nodes.iter().copied().map(Requests::new).collect(),
            redis: shared.redis.clone().map(RedisCalls::new),
            shared,
            channel,
            events_per_second,
            rng,
        }
    }

    /// Publishes until the phase ends. Returns itself, for the last events.
    pub async fn run(mut self, phase: watch::Receiver<Phase>) -> Self {
        let mut begin = Instant::now();
        let mut sent = 0;
        while *phase.borrow() == Phase::Publish {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate")]
            let due = (begin.elapsed().as_secs_f64() * self.events_per_second) as u64;
            let behind = due.saturating_sub(sent);
            if behind == 0 {
                sleep(TICK).await;
            } else if self.pauses() {
                sleep(TICK).await;
                (begin, sent) = (Instant::now(), 0);
            } else if behind > BEHIND_MAX {
                (begin, sent) = (Instant::now(), 0);
            } else {
                sent += self.publish(usize::try_from(behind).unwrap_or(1)).await as u64;
            }
        }
        self
    }

    fn pauses(&self) -> bool {
        let ledger = &self.shared.ledger;
        let turn = ledger.now_ms() / TURN_MS;
        let durable = (0..ledger.channels()).filter(|at| ledger.kind(*at) == Kind::Durable);
        let durable = durable.count().max(1);
        let has_turn = turn.is_multiple_of(2) || (turn / 2) as usize % durable == self.channel;
        self.shared.takes_turns && self.kind == Kind::Durable && !has_turn
    }

    /// Publishes until an event is acknowledged or time runs out; returns the last number.
    pub async fn publish_last(&mut self) -> u64 {
        let deadline = Instant::now() + REPEAT_FOR;
        loop {
            self.publish(1).await;
            let last = self.shared.ledger.begun(self.channel);
            let acknowledged = self.shared.ledger.last_acknowledged(self.channel) == last;
            if acknowledged || Instant::now() > deadline {
                return last;
            }
        }
    }

    /// Publishes some of the events that are due, and returns how many.
    async fn publish(&mut self, due: usize) -> usize {
        let many = self.rng.usize(1..=due.min(BATCH_MAX));
        let by_redis = self.redis.is_some() && self.rng.u8(0..100) < 40;
        if self.kind == Kind::Ephemeral {
            self.ephemeral(many).await;
        } else if self.shared.repeats && self.rng.u8(0..100) < 15 {
            self.keyed().await;
            return 1;
        } else if by_redis {
            self.function(many).await;
        } else if many > 1 {
            self.batch(many).await;
        } else {
            let post = self.post(Route::Post).1;
            let number = self.shared.ledger.begun(self.channel);
            let sent = self.node().send(&post).await;
            self.record(number..number + 1, sent).await;
        }
        many
    }

    async fn ephemeral(&mut self, many: usize) {
        let prefix = self.shared.without_retention;
        if prefix.is_some_and(|prefix| self.name.starts_with(prefix)) && self.rng.bool() {
            return self.batch(many).await;
        }
        let (numbers, data) = self.numbered(many, Route::Publish);
        let Some(redis) = &mut self.redis else { return };
        let sent = redis.publish_ephemeral(name_in_headwater(&self.name), &data).await;
        self.record(numbers, sent.map(|()| vec![None; many])).await;
    }

    async fn function(&mut self, many: usize) {
        let (numbers, data) = self.numbered(many, Route::Function);
        let calls: Vec<Call> = numbers
            .clone()
            .zip(data)
            .map(|(number, data)| {
                let mut options = Vec::new();
                if self.sets_id() {
                    options = vec!["id".to_owned(), publisher_id(&self.name, number)];
                }
                Call { channel: self.name.clone(), data, options }
            })
            .collect();
        let Some(redis) = &mut self.redis else { return };
        let sent = redis.publish_durable(&calls).await;
        self.record(numbers, sent).await;
    }

    async fn batch(&mut self, many: usize) {
        let (numbers, data) = self.numbered(many, Route::Batch);
        let mut body = String::new();
        for (number, data) in numbers.clone().zip(data) {
            let mut line = serde_json::json!({ "channel": self.name, "data": data });
            if self.sets_id() {
                line["id"] = publisher_id(&self.name, number).into();
            }
            body += &format!("{line}\n");
        }
        let path = "/sse/publish".to_owned();
        let post = Post { path, key: None, content_type: "application/x-ndjson", body };
        let sent = self.node().send(&post).await;
        self.record(numbers, sent).await;
    }

    /// Publishes an event with a key over any route until it is acknowledged, and sometimes again.
    async fn keyed(&mut self) {
        let (number, mut post) = self.post(Route::Keyed);
        let key = format!("{}-{number}", self.name);
        post.key = Some(key.clone());
        if self.rng.u8(0..4) == 0 {
            let after = Duration::from_micros(self.rng.u64(0..3_000));
            self.node().send_and_disconnect(&post, after).await;
        }
        let deadline = Instant::now() + REPEAT_FOR;
        let first = loop {
            match self.keyed_once(&post, &key).await {
                Ok(id) => break Some(id),
                Err(Failure::Unknown(_)) if self.shared.may_fail => {}
                Err(Failure::Rejected(_)) if self.shared.may_be_denied => {}
                Err(Failure::Unknown(why) | Failure::Rejected(why)) => {
                    self.shared.tally.trouble(format!("publishing {key} failed: {why}"));
                }
            }
            if Instant::now() > deadline {
                break None;
            }
            sleep(FAILURE_PAUSE).await;
        };
        let Some(first) = first else {
            self.shared.tally.unknown.add(1);
            return;
        };
        self.acknowledge(number, first.as_deref());
        if self.rng.u8(0..3) == 0
            && let Ok(again) = self.keyed_once(&post, &key).await
            && again != first
            && !post.path.contains("&id=")
        {
            self.shared.tally.trouble(format!(
                "the key {key} returned {} when repeated, and {} at first",
                shown(again.as_ref()),
                shown(first.as_ref()),
            ));
        }
    }

    async fn keyed_once(&mut self, post: &Post, key: &str) -> Result<Option<String>, Failure> {
        let sent = if let Some(redis) = self.redis.as_mut().filter(|_| self.rng.u8(0..3) == 0) {
            let mut options = vec!["key".to_owned(), key.to_owned()];
            if let Some((_, id)) = post.path.split_once("&id=") {
                options.extend(["id".to_owned(), id.to_owned()]);
            }
            let call = Call { channel: self.name.clone(), data: post.body.clone(), options };
            redis.publish_durable(&[call]).await?
        } else {
            self.node().send(post).await?
        };
        Ok(sent.into_iter().next().flatten())
    }

    fn post(&mut self, route: Route) -> (u64, Post) {
        let (numbers, mut data) = self.numbered(1, route);
        let mut path = format!("/sse/publish?channel={}", self.name);
        if self.sets_id() {
            path += &format!("&id={}", publisher_id(&self.name, numbers.start));
        }
        let body = data.pop().unwrap_or_default();
        (numbers.start, Post { path, key: None, content_type: "text/plain", body })
    }

    fn numbered(&mut self, many: usize, route: Route) -> (std::ops::Range<u64>, Vec<String>) {
        let ledger = &self.shared.ledger;
        let first = ledger.begun(self.channel) + 1;
        let data = (0..many)
            .map(|_| data::encode(&self.name, ledger.begin(self.channel, route), &mut self.rng))
            .collect();
        (first..first + many as u64, data)
    }

    fn sets_id(&mut self) -> bool {
        let is_durable = self.kind == Kind::Durable;
        is_durable && self.shared.publisher_ids && self.rng.u8(0..100) < 3
    }

    fn node(&mut self) -> &mut Requests {
        let node = self.rng.usize(0..self.nodes.len());
        &mut self.nodes[node]
    }

    async fn record(
        &mut self,
        numbers: std::ops::Range<u64>,
        sent: Result<Vec<Option<String>>, Failure>,
    ) {
        let many = numbers.end - numbers.start;
        match sent {
            Ok(ids) if ids.len() as u64 == many => {
                for (number, id) in numbers.zip(&ids) {
                    self.acknowledge(number, id.as_deref());
                }
                return;
            }
            Ok(ids) => {
                let receipts = ids.len();
                self.shared.tally.trouble(format!("{receipts} receipts for {many} events"));
            }
            Err(Failure::Unknown(_)) if self.shared.may_fail => {}
            Err(Failure::Rejected(_)) if self.shared.may_be_denied => {}
            Err(Failure::Unknown(why) | Failure::Rejected(why)) => {
                self.shared.tally.trouble(format!("publishing to {} failed: {why}", self.name));
            }
        }
        self.shared.tally.unknown.add(many);
        sleep(FAILURE_PAUSE).await;
    }

    fn acknowledge(&mut self, number: u64, id: Option<&str>) {
        self.shared.ledger.acknowledge(self.channel, number, id);
        self.shared.tally.acknowledged.add(1);
    }
}

fn shown(id: Option<&String>) -> &str {
    id.map_or("no id", String::as_str)
}
