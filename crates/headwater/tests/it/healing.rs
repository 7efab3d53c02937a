//! What a node gives its streams when its subscriber connection is cut at random: what the log holds, once
//! and in order, and a gap where the log no longer holds it. Look here for Redis and lost connections.

use std::collections::HashMap;
use std::time::Duration;

use headwater::{Channel, Frame, GapReason, Hub, RedisBroker, RetentionRules, Subscription};
use headwater_test_support::{PATIENCE, RedisServer};
use tokio::time::timeout;

const PREFIX: &str = "headwater:{0}";
const CHANNELS: usize = 3;

fn name(number: usize) -> String {
    format!("h{number}")
}

fn hub(server: &RedisServer, rule: &str) -> Hub {
    let rules = RetentionRules::new().with_rule(rule).unwrap();
    let broker = RedisBroker::connect(&server.url()).unwrap().with_retention(rules);
    Hub::builder().queue_frames_max(100_000).build(broker)
}

async fn subscribe(hub: &Hub, channels: std::ops::Range<usize>) -> Subscription {
    let names = channels.map(|number| Channel::new(name(number)).unwrap());
    let mut subscription = hub.subscribe(names).unwrap();
    timeout(PATIENCE, async {
        while hub.status().channels_confirmed < hub.status().channels_wanted {
            subscription.ready().await;
        }
    })
    .await
    .expect("confirmed channels");
    subscription
}

/// Publishes from outside of the node; each event's data is its number. In one go, in which the
/// connections of subscribers can be cut first: then nobody receives any of it.
struct Publisher {
    connection: redis::Connection,
    /// The channel of each event.
    published: Vec<usize>,
}

impl Publisher {
    fn new(server: &RedisServer) -> Self {
        Self { connection: server.connection(), published: Vec::new() }
    }

    fn publish(&mut self, channels: &[usize], cut: bool, forget: Option<usize>) {
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        if cut {
            pipeline.cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub").ignore();
        }
        for channel in channels {
            let publish = pipeline.cmd("FCALL").arg("headwater_publish").arg(1).arg(PREFIX);
            publish.arg(name(*channel)).arg(self.published.len()).ignore();
            self.published.push(*channel);
        }
        if let Some(channel) = forget {
            pipeline.cmd("DEL").arg(format!("{PREFIX}:log:{}", name(channel))).ignore();
        }
        pipeline.query::<()>(&mut self.connection).expect("Redis takes it");
    }
}

async fn next(subscription: &mut Subscription, seed: u64) -> Frame {
    let frame = timeout(PATIENCE, subscription.next()).await;
    let frame = frame.unwrap_or_else(|_| panic!("seed {seed}: no frame in time"));
    frame.unwrap_or_else(|| panic!("seed {seed}: the subscription ended"))
}

fn number_of(frame: &Frame) -> usize {
    frame.event().data().parse().unwrap()
}

fn seeded() -> (u64, fastrand::Rng) {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    (seed, fastrand::Rng::with_seed(seed))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_of_a_node_that_is_cut_at_random_get_what_the_log_holds() {
    let (seed, mut random) = seeded();
    let server = RedisServer::start();
    let hub = hub(&server, "* events=100000 bytes=64MiB");
    let mut all = listen(&hub, 0..CHANNELS).await;
    let mut one = listen(&hub, 0..1).await;
    let mut publisher = Publisher::new(&server);
    for round in 0..60 {
        let count = random.usize(1..40);
        let channels: Vec<usize> = (0..count).map(|_| random.usize(0..CHANNELS)).collect();
        publisher.publish(&channels, round % 3 == 0, None);
        tokio::time::sleep(Duration::from_millis(random.u64(0..30))).await;
    }
    // Somebody comes in the middle of it all.
    publisher.publish(&[0], true, None);
    let mut expected: Vec<usize> = (0..publisher.published.len()).collect();
    for number in &expected {
        let frame = next(&mut all, seed).await;
        assert!(frame.gap().is_none(), "seed {seed}: a gap before {number}, and nothing is missing");
        assert_eq!(number_of(&frame), *number, "seed {seed}");
    }
    expected.retain(|number| publisher.published[*number] == 0);
    for number in expected {
        let frame = next(&mut one, seed).await;
        assert!(frame.gap().is_none(), "seed {seed}: a gap before {number}, and nothing is missing");
        assert_eq!(number_of(&frame), number, "seed {seed}");
    }
    assert!(hub.status().healed > 0, "seed {seed}: nothing was lost, so nothing was tested");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_log_no_longer_holds_is_a_gap_and_nothing_else_is() {
    let (seed, mut random) = seeded();
    let server = RedisServer::start();
    let hub = hub(&server, "* events=5");
    let mut all = listen(&hub, 0..CHANNELS).await;
    let mut publisher = Publisher::new(&server);
    for round in 0..30 {
        let count = random.usize(1..30);
        let channels: Vec<usize> = (0..count).map(|_| random.usize(0..CHANNELS)).collect();
        publisher.publish(&channels, round % 2 == 0, None);
        tokio::time::sleep(Duration::from_millis(random.u64(0..60))).await;
    }
    // By then the node is connected again, and the last events come in any case.
    tokio::time::sleep(Duration::from_millis(200)).await;
    publisher.publish(&(0..CHANNELS).collect::<Vec<_>>(), false, None);

    let end = publisher.published.len();
    let mut next_of: HashMap<usize, usize> = HashMap::new();
    let mut told: HashMap<String, GapReason> = HashMap::new();
    let (mut at, mut ended) = (0, 0);
    while ended < CHANNELS {
        let frame = next(&mut all, seed).await;
        if let Some(gap) = frame.gap() {
            told.insert(gap.channel.to_string(), gap.reason);
            continue;
        }
        let number = number_of(&frame);
        assert!(number >= at, "seed {seed}: {number} came late");
        at = number + 1;
        ended += usize::from(number >= end - CHANNELS);
        let channel = publisher.published[number];
        let from = next_of.insert(channel, number + 1).unwrap_or(0);
        let missing = publisher.published[from..number].iter().filter(|other| **other == channel);
        let was_told = told.remove(&name(channel));
        let expected = (missing.count() > 0).then_some(GapReason::Trimmed);
        assert_eq!(was_told, expected, "seed {seed}: before {number} of channel {channel}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_is_told_though_nothing_of_the_channel_is_left_and_nothing_comes() {
    let (seed, _) = seeded();
    let server = RedisServer::start();
    let hub = hub(&server, "* events=1000");
    let mut stream = listen(&hub, 0..1).await;
    let mut publisher = Publisher::new(&server);
    publisher.publish(&[0], false, None);
    assert_eq!(number_of(&next(&mut stream, seed).await), 0);
    publisher.publish(&[0, 0], true, Some(0));
    let frame = next(&mut stream, seed).await;
    assert_eq!(frame.gap().map(|gap| gap.reason), Some(GapReason::Trimmed));
    // And it is told once.
    tokio::time::sleep(Duration::from_millis(200)).await;
    publisher.publish(&[0], false, None);
    assert_eq!(number_of(&next(&mut stream, seed).await), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_new_epoch_nothing_is_missing_while_publishers_go_on() {
    let (seed, mut random) = seeded();
    let server = RedisServer::start();
    let hub = hub(&server, "* events=100000");
    let mut stream = listen(&hub, 0..1).await;
    let mut publisher = Publisher::new(&server);
    publisher.publish(&[0], false, None);
    assert_eq!(number_of(&next(&mut stream, seed).await), 0);
    for _ in 0..5 {
        // The data is gone, and the connection.
        let keys: Vec<String> = server.run(&["KEYS", "headwater:*"]);
        let mut lose = vec!["DEL"];
        lose.extend(keys.iter().map(String::as_str));
        server.run::<i64>(&lose);
        publisher.publish(&[0], true, None);
        let deadline = std::time::Instant::now() + Duration::from_millis(150);
        while std::time::Instant::now() < deadline {
            publisher.publish(&[0], false, None);
            tokio::time::sleep(Duration::from_micros(random.u64(0..300))).await;
        }
        // Up to the gap events may be missing. After it none is.
        let mut after_gap = None;
        loop {
            let frame = next(&mut stream, seed).await;
            if let Some(gap) = frame.gap() {
                assert_eq!(gap.reason, GapReason::Epoch, "seed {seed}");
                let begin = frame.position().expect("where the log is").offset();
                after_gap = Some(begin + 1);
                continue;
            }
            let expected = after_gap.expect("a gap before events of a new log");
            assert_eq!(frame.position().unwrap().offset(), expected, "seed {seed}");
            after_gap = Some(expected + 1);
            if number_of(&frame) + 1 == publisher.published.len() {
                break;
            }
        }
    }
}
