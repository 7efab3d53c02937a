//! Two nodes during a failover: one still uses the old primary, the other one the new. What Redis
//! accepts from the first must not be missing in silence on the second. Look here for tests of
//! nodes on different servers.

use std::net::SocketAddr;
use std::time::Duration;

use headwater_core::close::CloseReason;
use headwater_core::gap::GapReason;
use headwater_core::log::RetentionRules;
use headwater_core::publish::IdempotencyKey;
use headwater_core::revocation::Revocation;
use headwater_core::{
    Channel, Error, ErrorKind, Event, Hub, Publish, Receipt, Rewind, Subscription,
};
use headwater_redis::RedisBroker;
use headwater_test_support::{PATIENCE, Proxy, RedisServer, eventually};
use tokio::time::{sleep, timeout};

/// Longer than it takes until a node compares itself with Redis again.
const RECONCILED: Duration = Duration::from_secs(7);

/// Between an event and an epoch that is known to have begun after it. A node reports how long ago
/// an event was accepted, and the report takes time.
const BEFORE_EPOCH: Duration = Duration::from_millis(500);

/// As an operator of Redis 6.2 has it: nodes call a script then.
const WITHOUT_FUNCTIONS: &[&str] =
    &["--rename-command", "FUNCTION", "", "--rename-command", "FCALL_RO", ""];

/// A primary, its replica, and two nodes that reach the primary through a proxy each.
struct World {
    primary: RedisServer,
    replica: RedisServer,
    proxies: [Proxy; 2],
    nodes: [Hub; 2],
}

impl World {
    /// Channels that start with `off` have no retention; the nodes know that, or only Redis does.
    async fn start(arguments: &[&str], nodes_have_rules: bool) -> Self {
        let mut all = vec!["--save", "", "--repl-diskless-sync-delay", "0"];
        all.extend(arguments);
        let primary = RedisServer::start_with(&all);
        let replica = RedisServer::start_replica_of(&primary, &all);
        let proxies = [(); 2].map(|()| Proxy::start(address(&primary)));
        let rules = RetentionRules::new().with_rule("off* off").unwrap();
        if !nodes_have_rules {
            primary.run::<()>(&["SET", "headwater:{0}:rules", "off* off\n"]);
        }
        let nodes = proxies.each_ref().map(|proxy| {
            let broker = RedisBroker::connect(&format!("redis://{}", proxy.address())).unwrap();
            let rules = rules.clone();
            let broker = if nodes_have_rules { broker.with_retention(rules) } else { broker };
            Hub::builder().linger(Duration::from_millis(100)).build(broker)
        });
        let world = Self { primary, replica, proxies, nodes };
        for node in &world.nodes {
            eventually("the node is ready", async || node.status().keeps.is_ok()).await;
        }
        world
    }

    /// Promotes the replica, and lets one node go there.
    fn promote_for(&self, node: usize) {
        self.replica.promote();
        self.follow(node);
    }

    /// Lets a node go to the new primary.
    fn follow(&self, node: usize) {
        self.proxies[node].set_target(address(&self.replica));
        self.proxies[node].cut();
    }

    async fn publish(&self, node: usize, channel: &str) -> Result<Receipt, Error> {
        self.nodes[node].publish(&name(channel), Event::new("data")).await
    }

    async fn publish_keyed(&self, node: usize, channel: &str, key: &str) -> Result<Receipt, Error> {
        let publish = Publish::to(name(channel), Event::new("data"));
        let keyed = publish.with_key(IdempotencyKey::new(key).unwrap());
        Ok(self.nodes[node].publish_all([keyed]).await?.remove(0))
    }
}

fn address(server: &RedisServer) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], server.port()))
}

fn name(channel: &str) -> Channel {
    Channel::new(channel).unwrap()
}

async fn subscribe(hub: &Hub, channel: &str) -> Subscription {
    let mut stream = hub.subscribe([name(channel)]).unwrap();
    timeout(PATIENCE, stream.ready()).await.expect("confirmed in time");
    stream
}

/// Receives until a gap event with this reason.
async fn gap(stream: &mut Subscription, reason: GapReason) {
    let found = timeout(PATIENCE, async {
        while let Some(frame) = stream.next().await {
            if frame.gap().is_some_and(|gap| gap.reason == reason) {
                return;
            }
        }
        panic!("the stream ended");
    });
    found.await.unwrap_or_else(|_| panic!("no gap event: {reason:?}"));
}

/// The gap events of a stream within a time.
async fn gaps(stream: &mut Subscription, within: Duration) -> Vec<GapReason> {
    let mut gaps = Vec::new();
    let _ = timeout(within, async {
        while let Some(frame) = stream.next().await {
            gaps.extend(frame.gap().map(|gap| gap.reason));
        }
    })
    .await;
    gaps
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_the_old_primary_accepts_after_the_new_epoch_are_a_gap_on_all_nodes() {
    let check = async |arguments, nodes_have_rules, channel| {
        let world = World::start(arguments, nodes_have_rules).await;
        let mut stream = subscribe(&world.nodes[1], channel).await;
        world.publish(1, channel).await.unwrap();
        world.promote_for(1);
        gap(&mut stream, GapReason::Epoch).await;
        // The stream has its gap event; now the other node publishes on the old primary.
        sleep(Duration::from_millis(50)).await;
        if channel == "off:keyed" {
            world.publish_keyed(0, channel, "key").await.expect("the old primary accepts it");
        } else {
            world.publish(0, channel).await.expect("the old primary accepts it");
        }
        world.follow(0);
        gap(&mut stream, GapReason::Epoch).await;
        // It is reported once.
        assert_eq!(gaps(&mut stream, RECONCILED).await, [], "{channel}");
    };
    tokio::join!(
        check(&[], true, "kept"),
        check(&[], true, "off"),
        check(&[], true, "off:keyed"),
        check(&[], false, "off"),
        check(WITHOUT_FUNCTIONS, false, "kept"),
        check(WITHOUT_FUNCTIONS, false, "off"),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_published_nothing_later_causes_no_second_gap() {
    let world = World::start(&[], true).await;
    let mut stream = subscribe(&world.nodes[1], "kept").await;
    world.publish(0, "kept").await.unwrap();
    sleep(BEFORE_EPOCH).await;
    world.promote_for(1);
    gap(&mut stream, GapReason::Epoch).await;
    world.follow(0);
    assert_eq!(gaps(&mut stream, RECONCILED).await, []);
}

/// The key's first event is of an earlier epoch, and so is the ID in the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_repeated_after_a_failover_causes_no_second_gap() {
    let world = World::start(&[], true).await;
    let mut stream = subscribe(&world.nodes[1], "kept").await;
    let first = world.publish_keyed(0, "kept", "key").await.unwrap();
    eventually("the replica has it", async || {
        world.replica.run::<Option<u64>>(&["GET", "headwater:{0}:seq"]) == Some(1)
    })
    .await;
    sleep(BEFORE_EPOCH).await;
    world.promote_for(1);
    gap(&mut stream, GapReason::Epoch).await;
    world.follow(0);
    eventually("repeated", async || world.publish_keyed(0, "kept", "key").await.is_ok()).await;
    let again = world.publish_keyed(0, "kept", "key").await.unwrap();
    assert_eq!(again.position, first.position);
    // On another connection, the node reports what was accepted over this one.
    world.follow(0);
    assert_eq!(gaps(&mut stream, RECONCILED).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_that_begins_while_nodes_publish_is_the_only_one() {
    let world = World::start(&[], true).await;
    let mut stream = subscribe(&world.nodes[1], "quiet").await;
    let publishing = [0, 1, 0, 1].map(|node| {
        let hub = world.nodes[node].clone();
        tokio::spawn(async move {
            loop {
                let _ = hub.publish(&name("busy"), Event::new("data")).await;
            }
        })
    });
    sleep(Duration::from_millis(100)).await;
    world.primary.run::<()>(&["DEL", "headwater:{0}:epoch"]);
    let found = gaps(&mut stream, 2 * RECONCILED).await;
    publishing.iter().for_each(tokio::task::JoinHandle::abort);
    assert_eq!(found, [GapReason::Epoch]);
}

/// The old primary acknowledged it, and no other node received it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_that_a_failover_lost_is_repeated() {
    let world = World::start(&[], true).await;
    let mut stream = subscribe(&world.nodes[1], "kept").await;
    world.promote_for(1);
    gap(&mut stream, GapReason::Epoch).await;
    world.nodes[0].revoke(&Revocation::Channel(name("kept"))).await.unwrap();
    assert_eq!(gaps(&mut stream, Duration::from_millis(300)).await, []);
    assert_eq!(stream.closed(), None);
    world.follow(0);
    while timeout(PATIENCE, stream.next()).await.expect("the stream is closed").is_some() {}
    assert_eq!(stream.closed(), Some(CloseReason::Revoked));
    let retained: usize = world.replica.run(&["ZCARD", "headwater:{0}:revoked"]);
    assert_eq!(retained, 1);
}

/// Nodes note their channels with ephemeral events again in a new epoch; that may be late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ephemeral_events_missed_after_a_new_epoch_are_a_gap_before_they_are_noted_again() {
    let world = World::start(&[], true).await;
    let node = &world.nodes[1];
    let _other = subscribe(node, "off:other").await;
    let mut both = node.subscribe(["off:moved", "off:other"].map(name)).unwrap();
    timeout(PATIENCE, both.ready()).await.expect("confirmed in time");
    world.publish(0, "off:moved").await.unwrap();
    world.primary.run::<()>(&["DEL", "headwater:{0}:epoch"]);
    gap(&mut both, GapReason::Epoch).await;
    world.publish(0, "off:other").await.unwrap();
    let last = loop {
        let frame = timeout(PATIENCE, both.next()).await.unwrap().unwrap();
        if frame.channel() == Some(&name("off:other")) && frame.gap().is_none() {
            break frame.position().unwrap();
        }
    };
    drop(both);
    eventually("the channel is unsubscribed", async || {
        let subscribers: (String, u64) = world.primary.run(&["PUBSUB", "NUMSUB", "off:moved"]);
        subscribers.1 == 0
    })
    .await;
    world.primary.run::<()>(&["DEL", "headwater:{0}:plain:off:moved"]);
    world.publish(0, "off:moved").await.unwrap();
    let both = node.subscribe(["off:moved", "off:other"].map(name)).unwrap();
    let mut both = both.after(last.to_string());
    gap(&mut both, GapReason::Trimmed).await;
}

/// The log keeps its data when an epoch begins, and the nodes their connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_channel_is_ended_in_a_new_epoch() {
    let world = World::start(&[], true).await;
    let node = &world.nodes[1];
    let end = async |channel| {
        let end = Publish::to(name(channel), Event::new("the end")).with_end(true);
        world.nodes[0].publish_all([end]).await.unwrap();
    };
    let mut both = node.subscribe(["a", "b"].map(name)).unwrap();
    timeout(PATIENCE, both.ready()).await.expect("confirmed in time");
    let mut plain = subscribe(node, "off").await;
    world.publish(0, "off").await.unwrap();
    end("a").await;
    assert!(timeout(PATIENCE, both.next()).await.unwrap().unwrap().is_end());
    world.primary.run::<()>(&["DEL", "headwater:{0}:epoch"]);
    gap(&mut both, GapReason::Epoch).await;
    assert_eq!(gaps(&mut plain, Duration::from_secs(1)).await, [GapReason::Epoch]);

    let until_closed = async |mut stream: Subscription| {
        while timeout(PATIENCE, stream.next()).await.expect("the stream ends").is_some() {}
        assert_eq!(stream.closed(), Some(CloseReason::Finished));
    };
    until_closed(node.subscribe([name("a")]).unwrap()).await;
    until_closed(node.subscribe([name("a")]).unwrap().rewind(Rewind::All)).await;
    end("b").await;
    until_closed(both).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_accepts_no_event() {
    let check = async |arguments, nodes_have_rules, channel: &'static str| {
        let world = World::start(arguments, nodes_have_rules).await;
        world.publish(0, channel).await.unwrap();
        world.promote_for(1);
        // The connections of the first node stay.
        world.primary.demote_to(&world.replica);
        let error = world.publish(0, channel).await.unwrap_err();
        let found = (error.kind(), error.reason());
        assert_eq!(found, (ErrorKind::Unavailable, Some("READONLY")), "{channel}: {error}");
        world.publish_keyed(0, channel, "key").await.unwrap_err();
        world.follow(0);
        eventually("accepted again", async || world.publish(0, channel).await.is_ok()).await;
    };
    tokio::join!(
        check(&[], true, "kept"),
        check(&[], true, "off"),
        check(&[], false, "off"),
        check(WITHOUT_FUNCTIONS, true, "off"),
        check(WITHOUT_FUNCTIONS, false, "off"),
    );
}

/// With the least permissions that a node can do with: it cannot ask about the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_accepts_no_event_and_no_revocation_where_keys_are_denied() {
    let primary = RedisServer::start();
    let replica = RedisServer::start_replica_of(&primary, &[]);
    let rules = ["resetkeys", "allchannels", "-@all", "+hello", "+subscribe", "+unsubscribe"];
    let url = primary.add_user("app", "secret", &[&rules[..], &["+publish"]].concat());
    let node = Hub::new(RedisBroker::connect(&url).unwrap());
    let _stream = subscribe(&node, "a").await;
    let revocation = Revocation::User("ann".to_owned());
    node.publish(&name("a"), Event::new("data")).await.unwrap();
    node.revoke(&revocation).await.unwrap();
    replica.promote();
    primary.demote_to(&replica);
    let error = node.publish(&name("a"), Event::new("data")).await.unwrap_err();
    assert_eq!(error.reason(), Some("READONLY"), "{error}");
    let error = node.revoke(&revocation).await.unwrap_err();
    assert_eq!(error.reason(), Some("READONLY"), "{error}");
}
