//! Connections to Redis that die without being closed, in each direction and at each moment:
//! streams get everything again, soon, and events of the log are not lost.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use headwater_test_support::{Direction, EventStream, Node, Proxy, RedisServer};

use crate::support::BINARY;

/// What is promised: a node notices, and replaces its connections, within this time.
const REPLACED_WITHIN: Duration = Duration::from_secs(10);

/// What is slow on a busy machine, beside that.
const TOLERANCE: Duration = Duration::from_secs(3);

struct World {
    redis: RedisServer,
    proxy: Proxy,
    node: Node,
    published: usize,
}

impl World {
    async fn start() -> Self {
        let redis = RedisServer::start();
        let proxy = Proxy::start(SocketAddr::from(([127, 0, 0, 1], redis.port())));
        let node = Node::start(BINARY, &["--redis", &format!("redis://{}", proxy.address())]);
        node.wait_until_ready().await;
        Self { redis, proxy, node, published: 0 }
    }

    async fn open(&self, channel: &str) -> EventStream {
        let path = format!("/sse/stream?channel={channel}");
        EventStream::open(self.node.address(), &path).await
    }

    fn publish(&mut self, channel: &str) {
        let data = self.published.to_string();
        let words = ["FCALL", "headwater_publish", "1", "headwater:{0}", channel, &data];
        self.redis.run::<String>(&words);
        self.published += 1;
    }

    /// Publishes events while the connections fail, and expects each, in order and once.
    async fn check(mut self, name: &str, fail: impl AsyncFnOnce(&Self)) {
        let mut old = self.open("old").await;
        self.publish("old");
        assert_eq!(old.next().await.expect("an event").data, "0");
        fail(&self).await;
        let failed = Instant::now();
        // A channel that Redis does not send yet.
        let mut new = self.open("new").await;
        while failed.elapsed() < REPLACED_WITHIN / 2 {
            self.publish("old");
            self.publish("new");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let mut expected: Vec<usize> = (1..self.published).collect();
        expected.sort_by_key(|number| number % 2 == 0);
        let (mut from_old, mut from_new): (Vec<usize>, Vec<usize>) = Default::default();
        for (stream, got) in [(&mut old, &mut from_old), (&mut new, &mut from_new)] {
            while got.last().is_none_or(|last| last + 2 < self.published) {
                let message = stream.next().await;
                let message = message.unwrap_or_else(|end| panic!("{name}: {end:?}"));
                assert_eq!(message.name, "message", "{name}: {}", message.data);
                got.push(message.data.parse().expect("a number"));
            }
        }
        println!("{name}: all events after {:?}", failed.elapsed());
        assert!(failed.elapsed() < REPLACED_WITHIN + TOLERANCE, "{name}: {:?}", failed.elapsed());
        assert_eq!([from_old, from_new].concat(), expected, "{name}");
        self.node.wait_until_ready().await;
        assert!(failed.elapsed() < REPLACED_WITHIN + TOLERANCE, "{name}: {:?}", failed.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_connection_that_dies_in_any_direction_is_replaced() {
    let mut checks = tokio::task::JoinSet::new();
    for direction in [Direction::ToTarget, Direction::ToClients, Direction::Both] {
        checks.spawn(async move {
            let world = World::start().await;
            let name = format!("{direction:?}");
            world.check(&name, async |world| world.proxy.swallow_existing(direction)).await;
        });
    }
    checks.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_connection_that_dies_while_it_starts_is_replaced() {
    let mut checks = tokio::task::JoinSet::new();
    // HELLO, the subscriptions of the node, those of channels; the connection for commands has as
    // many.
    for reads in 0..5 {
        checks.spawn(async move {
            let world = World::start().await;
            let half_started = async |world: &World| {
                world.proxy.swallow_after(reads);
                world.proxy.cut();
                tokio::time::sleep(Duration::from_millis(1500)).await;
                world.proxy.pass();
            };
            world.check(&format!("after {reads} reads"), half_started).await;
        });
    }
    checks.join_all().await;
}
