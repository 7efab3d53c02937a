//! What a node delivers when its subscriber connection is cut at random: the events that the log
//! has, once and in order, and a gap event for those that it no longer has. Look here for tests of
//! lost connections.

use std::collections::HashMap;
use std::time::Duration;

use headwater_core::frame::Frame;
use headwater_core::gap::GapReason;
use headwater_core::log::RetentionRules;
use headwater_core::{Channel, Hub, Subscription};
use headwater_redis::RedisBroker;
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

/// Publishes from outside the node; each event's data is its number. A batch is one transaction, in
/// which the connections of subscribers can be cut first: then no node receives any event of it.
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
        pipeline.query::<()>(&mut self.connection).expect("Redis accepts the batch");
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
async fn subscribers_of_a_node_that_is_cut_at_random_receive_what_the_log_has() {
    let (seed, mut random) = seeded();
    let server = RedisServer::start();
    let hub = hub(&server, "* events=100000 bytes=64MiB");
    let mut all = subscribe(&hub, 0..CHANNELS).await;
    let mut one = subscribe(&hub, 0..1).await;
    let mut publisher = Publisher::new(&server);
    for round in 0..60 {
        let count = random.usize(1..40);
        let channels: Vec<usize> = (0..count).map(|_| random.usize(0..CHANNELS)).collect();
        publisher.publish(&channels, round % 3 == 0, None);
        tokio::time::sleep(Duration::from_millis(random.u64(0..30))).await;
    }
    // One more cut after the rounds, so that the last event must be read from the log.
    publisher.publish(&[0], true, None);
    let mut expected: Vec<usize> = (0..publisher.published.len()).collect();
    for number in &expected {
        let frame = next(&mut all, seed).await;
        assert!(
            frame.gap().is_none(),
            "seed {seed}: a gap before {number}, though nothing is missing"
        );
        assert_eq!(number_of(&frame), *number, "seed {seed}");
    }
    expected.retain(|number| publisher.published[*number] == 0);
    for number in expected {
        let frame = next(&mut one, seed).await;
        assert!(
            frame.gap().is_none(),
            "seed {seed}: a gap before {number}, though nothing is missing"
        );
        assert_eq!(number_of(&frame), number, "seed {seed}");
    }
    assert!(
        hub.stats().events_caught_up > 0,
        "seed {seed}: nothing was lost, so nothing was tested"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_the_trimmed_events_are_reported_as_gaps() {
    let (seed, mut random) = seeded();
    let server = RedisServer::start();
    let hub = hub(&server, "* events=5");
    let mut all = subscribe(&hub, 0..CHANNELS).await;
    let mut publisher = Publisher::new(&server);
    for round in 0..30 {
        let count = random.usize(1..30);
        let channels: Vec<usize> = (0..count).map(|_| random.usize(0..CHANNELS)).collect();
        publisher.publish(&channels, round % 2 == 0, None);
        tokio::time::sleep(Duration::from_millis(random.u64(0..60))).await;
    }
    // By then the node is connected again, so it receives the last events in any case.
    tokio::time::sleep(Duration::from_millis(200)).await;
    publisher.publish(&(0..CHANNELS).collect::<Vec<_>>(), false, None);

    let end = publisher.published.len();
    let mut next_of: HashMap<usize, usize> = HashMap::new();
    let mut gaps: HashMap<String, GapReason> = HashMap::new();
    let (mut at, mut ended) = (0, 0);
    while ended < CHANNELS {
        let frame = next(&mut all, seed).await;
        if let Some(gap) = frame.gap() {
            gaps.insert(gap.channel.to_string(), gap.reason);
            continue;
        }
        let number = number_of(&frame);
        assert!(number >= at, "seed {seed}: {number} is out of order");
        at = number + 1;
        ended += usize::from(number >= end - CHANNELS);
        let channel = publisher.published[number];
        let from = next_of.insert(channel, number + 1).unwrap_or(0);
        let missing = publisher.published[from..number].iter().filter(|other| **other == channel);
        let reported = gaps.remove(&name(channel));
        let expected = (missing.count() > 0).then_some(GapReason::Trimmed);
        assert_eq!(reported, expected, "seed {seed}: before {number} of channel {channel}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_is_reported_even_if_the_log_of_the_channel_is_empty() {
    let (seed, _) = seeded();
    let server = RedisServer::start();
    let hub = hub(&server, "* events=1000");
    let mut stream = subscribe(&hub, 0..1).await;
    let mut publisher = Publisher::new(&server);
    publisher.publish(&[0], false, None);
    assert_eq!(number_of(&next(&mut stream, seed).await), 0);
    publisher.publish(&[0, 0], true, Some(0));
    let frame = next(&mut stream, seed).await;
    assert_eq!(frame.gap().map(|gap| gap.reason), Some(GapReason::Trimmed));
    // It is reported once.
    tokio::time::sleep(Duration::from_millis(200)).await;
    publisher.publish(&[0], false, None);
    assert_eq!(number_of(&next(&mut stream, seed).await), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_new_epoch_no_event_is_missing_while_publishers_continue() {
    let (seed, mut random) = seeded();
    let server = RedisServer::start();
    let hub = hub(&server, "* events=100000");
    let mut stream = subscribe(&hub, 0..1).await;
    let mut publisher = Publisher::new(&server);
    publisher.publish(&[0], false, None);
    assert_eq!(number_of(&next(&mut stream, seed).await), 0);
    for _ in 0..5 {
        // Delete the log's data, and cut the connection.
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
        // Events may be missing before the gap event, but not after it.
        let (mut has_gap, mut last) = (false, None);
        loop {
            let frame = next(&mut stream, seed).await;
            if let Some(gap) = frame.gap() {
                // After a reset, ephemeral events may have been lost with the connection.
                assert!(
                    matches!(gap.reason, GapReason::Epoch | GapReason::BrokerLost),
                    "{}, seed {seed}",
                    gap.reason
                );
                has_gap |= gap.reason == GapReason::Epoch;
                last = None;
                continue;
            }
            assert!(has_gap, "events of a new log without a gap event, seed {seed}");
            let offset = frame.position().unwrap().offset();
            assert!(last.is_none_or(|last| offset == last + 1), "{last:?} {offset}, seed {seed}");
            last = Some(offset);
            if number_of(&frame) + 1 == publisher.published.len() {
                break;
            }
        }
    }
}
