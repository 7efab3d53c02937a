//! Resuming on another node, and what a lost connection to Redis, a lost Redis or lost data mean
//! for listeners. HEADWATER_TEST_FULL=1 publishes 2,000 events a second instead of 1,000.

use headwater_test_support::{EventStream, Node, RedisServer, eventually, http};

use crate::support::BINARY;
use crate::support::follower::{Follower, Wire, gap_in, is_full};
use crate::support::load::{Load, Via};

const KEEP: &str = "* events=100000 bytes=64MiB";
/// A Redis that has on disk what it acknowledged.
const DURABLE: [&str; 6] = ["--save", "", "--appendonly", "yes", "--appendfsync", "always"];

fn per_second() -> u64 {
    if is_full() { 2_000 } else { 1_000 }
}

async fn start_node(redis: &RedisServer) -> Node {
    let node = Node::start(BINARY, &["--redis", &redis.url(), "--retention", KEEP]);
    node.wait_until_ready().await;
    node
}

async fn publish(node: &Node, query: &str, data: &str) -> serde_json::Value {
    let answer =
        http::post(node.address(), &format!("/sse/publish?{query}"), data.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_changes_nodes_and_loses_nothing() {
    let redis = RedisServer::start();
    let nodes = [start_node(&redis).await, start_node(&redis).await];
    let path = "/sse/stream?channel=a&channel=b";
    let mut stays = Follower::open(&nodes[0], Wire::Http1, path).await;
    let mut moves = Follower::open(&nodes[0], Wire::Http1, path).await;
    let load = Load::start(Via::Http(nodes[1].address()), &["a", "b"], per_second());
    for round in 1..=10 {
        let count = moves.got.len() + 200;
        while moves.got.len() < count {
            moves.next().await;
        }
        moves.go_away();
        moves.resume_at(nodes[round % 2].address()).await;
    }
    let published = load.stop();
    for follower in [&mut stays, &mut moves] {
        follower.read_to(published - 1).await;
        follower.assert_gapless(published);
    }
    // The ids are the same on both nodes.
    assert_eq!(stays.got, moves.got);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_connection_that_is_killed_20_times_loses_nothing() {
    let redis = RedisServer::start();
    let node = start_node(&redis).await;
    let mut followers = Vec::new();
    for path in
        ["/sse/stream?channel=a", "/sse/stream?channel=b&channel=a", "/sse/stream?channel=b"]
    {
        followers.push(Follower::open(&node, Wire::Http1, path).await);
    }
    let load = Load::start(Via::Http(node.address()), &["a", "b"], per_second());
    for round in 1..=20 {
        let count = followers[1].got.len() + 100;
        while followers[1].got.len() < count {
            followers[1].next().await;
        }
        let killed: i64 = redis.run(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        assert_eq!(killed, 1);
        node.wait_for_metric("headwater_redis_reconnects_total", f64::from(round)).await;
        // Killed again only when it is there again.
        eventually("it subscribes again", || async {
            node.metric("headwater_redis_channels_confirmed").await >= 2.0
        })
        .await;
    }
    let published = load.stop();
    followers[1].read_to(published - 1).await;
    followers[1].assert_gapless(published);
    for (follower, odd) in [(0, 0), (2, 1)] {
        let last = (0..published).rev().find(|number| number % 2 == odd).expect("some");
        followers[follower].read_to(last).await;
        let got = followers[follower].got.iter().map(|message| message.data.clone());
        let wanted = (0..published).filter(|number| number % 2 == odd).map(|it| it.to_string());
        assert!(got.eq(wanted), "one channel's events, each once, in order, and nothing else");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_restarts_with_its_data_loses_nothing() {
    let mut redis = RedisServer::start_with(&DURABLE);
    let node = start_node(&redis).await;
    let mut followers = Vec::new();
    for _ in 0..3 {
        followers.push(Follower::open(&node, Wire::Http1, "/sse/stream?channel=a&channel=b").await);
    }
    let load = Load::start(Via::Http(node.address()), &["a", "b"], 500);
    for _ in 0..3 {
        let count = followers[0].got.len() + 300;
        while followers[0].got.len() < count {
            followers[0].next().await;
        }
        redis.kill();
        redis.restart();
    }
    let published = load.stop();
    for follower in &mut followers {
        follower.read_to(published - 1).await;
        follower.assert_gapless(published);
    }
}

fn epoch(id: &str) -> &str {
    id.split_once('-').expect("a position").0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_lost_its_data_is_one_gap_for_every_stream() {
    let mut redis = RedisServer::start();
    let node = start_node(&redis).await;
    let mut followers = Vec::new();
    for number in 0..5 {
        let path = format!("/sse/stream?channel=lost-{}", number % 2);
        followers.push(Follower::open(&node, Wire::Http1, &path).await);
    }
    let mut away = Follower::open(&node, Wire::Http1, "/sse/stream?channel=lost-0").await;
    let channels = "channel=lost-0&channel=lost-1";
    let old = publish(&node, channels, "before").await;
    away.next().await;
    away.go_away();
    redis.kill();
    redis.restart();
    // The function is gone with the data, too.
    let begun = std::time::Instant::now();
    while http::post(node.address(), &format!("/sse/publish?{channels}"), b"meanwhile").await.status
        != 200
    {
        assert!(begun.elapsed() < headwater_test_support::PATIENCE, "{}", node.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    node.wait_until_ready().await;
    eventually("all are confirmed", || async {
        node.metric("headwater_redis_channels_confirmed").await >= 2.0
    })
    .await;
    away.resume().await;
    let new = publish(&node, channels, "after").await;
    let (old, new) = (old[0]["id"].as_str().expect("an id"), new[0]["id"].as_str().expect("an id"));
    assert_ne!(epoch(old), epoch(new));
    followers.push(away);
    for (number, follower) in followers.iter_mut().enumerate() {
        while follower.next().await.data != "after" {}
        let channel = format!("lost-{}", if number == 5 { 0 } else { number % 2 });
        assert_eq!(follower.gaps(), [(channel, "epoch".into())], "{:#?}", follower.got);
        assert_eq!(epoch(&follower.got.last().expect("an event").id), epoch(new));
        // Events after the gap are in the new epoch; the gap itself moves no position.
        let gap = follower.got.iter().position(|message| gap_in(message).is_some()).expect("a gap");
        assert!(follower.got[..gap].iter().all(|message| epoch(&message.id) == epoch(old)));
        assert!(follower.got[gap + 1..].iter().all(|message| epoch(&message.id) == epoch(new)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_channels_with_ephemeral_events_get_a_gap_for_a_lost_connection() {
    let redis = RedisServer::start();
    let node = start_node(&redis).await;
    let mut plain = Follower::open(&node, Wire::Http1, "/sse/stream?channel=plain").await;
    let mut durable = Follower::open(&node, Wire::Http1, "/sse/stream?channel=durable").await;
    let mut both =
        Follower::open(&node, Wire::Http1, "/sse/stream?channel=durable&channel=plain").await;
    publish(&node, "channel=durable", "1").await;
    redis.publish("plain", b"2");
    both.read_to(2).await;
    redis.run::<i64>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    node.wait_for_metric("headwater_redis_reconnects_total", 1.0).await;
    eventually("it subscribes again", || async {
        node.metric("headwater_redis_channels_confirmed").await >= 2.0
    })
    .await;
    publish(&node, "channel=durable", "3").await;
    redis.publish("plain", b"4");
    plain.read_to(4).await;
    durable.read_to(3).await;
    both.read_to(4).await;
    let lost = vec![("plain".to_owned(), "broker-lost".to_owned())];
    assert_eq!((plain.gaps(), durable.gaps(), both.gaps()), (lost.clone(), vec![], lost.clone()));
    assert_eq!((plain.got.len(), durable.got.len(), both.got.len()), (3, 2, 5));
    // A client that resumes from before the gap gets it, too.
    let id = both.got[1].id.clone();
    let path = "/sse/stream?channel=durable&channel=plain";
    let mut late =
        EventStream::open_with(node.address(), path, &[("last-event-id", &id)], None).await;
    let gap = late.next().await.expect("an open stream");
    assert_eq!(gap_in(&gap), Some(lost[0].clone()));
    assert_eq!(late.next().await.expect("an open stream").data, "3");
}

/// The reset also deletes what nodes have noted about channels with ephemeral events, and the node
/// that knows may be disconnected still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_lost_soon_after_a_reset_is_a_gap_for_every_channel() {
    let redis = RedisServer::start();
    let node = start_node(&redis).await;
    let mut stream = Follower::open(&node, Wire::Http1, "/sse/stream?channel=unknown").await;
    publish(&node, "channel=unknown", "1").await;
    stream.read_to(1).await;
    redis.run::<String>(&["FLUSHALL"]);
    while stream.gaps().is_empty() {
        stream.next().await;
    }
    redis.run::<i64>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    redis.publish("unknown", b"lost");
    while stream.gaps().len() < 2 {
        stream.next().await;
    }
    let gap = |reason: &str| ("unknown".to_owned(), reason.to_owned());
    assert_eq!(stream.gaps(), [gap("epoch"), gap("broker-lost")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_user_without_keys_delivers_without_retention() {
    let redis = RedisServer::start();
    // The usual rules for a user that may use Pub/Sub only.
    let rules = ["resetkeys", "allchannels", "+@pubsub", "+@connection"];
    let url = redis.add_user("node", "n0de-pw", &rules);
    let node = Node::start(BINARY, &["--redis", &url]);
    node.wait_until_ready().await;
    node.wait_for_log("retention disabled");
    let mut follower = Follower::open(&node, Wire::Http1, "/sse/stream?channel=a&channel=b").await;
    publish(&node, "channel=a", "0").await;
    redis.publish("b", b"1");
    publish(&node, "channel=b&event=named", "2").await;
    follower.read_to(2).await;
    assert_eq!(follower.got[2].name, "named");
    follower.go_away();
    publish(&node, "channel=a", "3").await;
    redis.publish("b", b"4");
    follower.resume().await;
    publish(&node, "channel=b", "5").await;
    follower.read_to(5).await;
    follower.got[2].name = "message".into();
    follower.assert_gapless(6);
    // What cannot be guaranteed is rejected.
    for (query, headers) in
        [("channel=a&end=1", &[][..]), ("channel=a", &[("idempotency-key", "k")])]
    {
        let path = format!("/sse/publish?{query}");
        let answer = http::request(node.address(), "POST", &path, headers, b"x").await;
        assert!(answer.status >= 400 && answer.text().contains("omit them"), "{query}");
    }
}

/// A laptop that slept over the weekend: what its channel had meanwhile is forgotten, and so is
/// that it had anything.
#[tokio::test]
async fn a_client_that_was_away_longer_than_the_retention_gets_a_gap() {
    let redis = RedisServer::start();
    let node = start_node(&redis).await;
    let receipt = publish(&node, "channel=a", "seen").await;
    publish(&node, "channel=a", "missed").await;
    let newest = publish(&node, "channel=b", "x").await;
    drop(node);
    // As two days later.
    for key in ["log:a", "last:a", "size:a"] {
        assert_eq!(redis.run::<i64>(&["DEL", &format!("headwater:{{0}}:{key}")]), 1);
    }
    redis.run::<()>(&["SET", "headwater:{0}:horizon", "1 0 1 0"]);

    let node = start_node(&redis).await;
    let open = async |id: &serde_json::Value| {
        let id = id["id"].as_str().expect("an id");
        let headers = [("last-event-id", id)];
        EventStream::open_with(node.address(), "/sse/stream?channel=a", &headers, None).await
    };
    let mut old = open(&receipt).await;
    let mut recent = open(&newest).await;
    publish(&node, "channel=a", "live").await;
    let gap = old.next().await.expect("a gap");
    let trimmed = Some(("a".to_owned(), "trimmed".to_owned()));
    assert_eq!(gap_in(&gap), trimmed);
    for stream in [&mut old, &mut recent] {
        assert_eq!(stream.next().await.expect("an event").data, "live");
    }
    // The event published since is retained; what preceded it is still unknown.
    drop(node);
    let node = start_node(&redis).await;
    let path = "/sse/stream?channel=a";
    let headers = [("last-event-id", receipt["id"].as_str().expect("an id"))];
    let mut old = EventStream::open_with(node.address(), path, &headers, None).await;
    assert_eq!(gap_in(&old.next().await.expect("a gap")), trimmed);
    assert_eq!(old.next().await.expect("an event").data, "live");
}

/// Only channels that get a plain PUBLISH have events that no other node can know.
#[tokio::test]
async fn ephemeral_events_unknown_to_another_node_are_the_only_gaps() {
    let redis = RedisServer::start();
    let first = start_node(&redis).await;
    let path = "/sse/stream?channel=plain&channel=kept";
    let mut stream = EventStream::open(first.address(), path).await;
    redis.publish("plain", b"one");
    assert_eq!(stream.next().await.expect("an event").data, "one");
    publish(&first, "channel=kept", "two").await;
    let last = stream.next().await.expect("an event");
    assert_eq!(last.data, "two");
    eventually("it is noted", || async {
        redis.run::<bool>(&["EXISTS", "headwater:{0}:plain:plain"])
    })
    .await;
    assert!(!redis.run::<bool>(&["EXISTS", "headwater:{0}:plain:kept"]));
    drop((first, stream));
    redis.publish("plain", b"missed");

    let second = start_node(&redis).await;
    let headers = [("last-event-id", &*last.id)];
    let mut stream = EventStream::open_with(second.address(), path, &headers, None).await;
    publish(&second, "channel=kept", "three").await;
    let gap = stream.next().await.expect("a gap");
    assert_eq!(gap.data, r#"{"channel":"plain","reason":"trimmed"}"#);
    assert_eq!(stream.next().await.expect("an event").data, "three");
}

/// A pipeline is not one transaction: what went out before the missing function is not sent again.
#[tokio::test]
async fn a_batch_is_repeated_only_where_the_function_was_missing() {
    let redis = RedisServer::start();
    let node = Node::start(
        BINARY,
        &["--redis", &redis.url(), "--retention", "plain off", "--retention", KEEP],
    );
    node.wait_until_ready().await;
    let path = "/sse/stream?channel=plain&channel=kept";
    let mut stream = EventStream::open(node.address(), path).await;
    redis.run::<()>(&["FUNCTION", "FLUSH"]);
    let batch = "{\"channel\":\"plain\",\"data\":\"1\"}\n{\"channel\":\"kept\",\"data\":\"2\"}\n\
                 {\"channel\":\"plain\",\"data\":\"3\"}\n";
    let headers = [("content-type", "application/x-ndjson")];
    let answer =
        http::request(node.address(), "POST", "/sse/publish", &headers, batch.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    publish(&node, "channel=kept", "4").await;
    let mut got = Vec::new();
    while got.last().is_none_or(|last| last != "4") {
        got.push(stream.next().await.expect("an event").data);
    }
    got.sort_unstable();
    assert_eq!(got, ["1", "2", "3", "4"]);
}

/// Nobody may be left listening to silence because Redis has no room for a key.
#[tokio::test]
async fn a_redis_that_rejects_writes_still_delivers_to_new_subscribers() {
    let redis = RedisServer::start();
    let node = start_node(&redis).await;
    let first = publish(&node, "channel=before", "kept").await;
    publish(&node, "channel=before", "kept too").await;
    redis.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(http::post(node.address(), "/sse/publish?channel=new", b"x").await.status, 503);
    let mut stream = EventStream::open(node.address(), "/sse/stream?channel=new").await;
    redis.publish("new", b"hello");
    assert_eq!(stream.next().await.expect("an event").data, "hello");
    // Retained events can be read as well.
    let headers = [("last-event-id", first["id"].as_str().expect("an id"))];
    let path = "/sse/stream?channel=before";
    let mut back = EventStream::open_with(node.address(), path, &headers, None).await;
    assert_eq!(back.next().await.expect("an event").data, "kept too");
}

/// Without a linger a channel leaves and returns at each drop, sometimes between two looks of
/// the connection at what is wanted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_is_unsubscribed_and_subscribed_at_once_loses_nothing() {
    let redis = RedisServer::start();
    let arguments = ["--redis", &*redis.url(), "--retention", KEEP, "--linger", "0s"];
    let node = Node::start(BINARY, &arguments);
    node.wait_until_ready().await;
    let mut follower = Follower::open(&node, Wire::Http1, "/sse/stream?channel=a").await;
    let load = Load::start(Via::Http(node.address()), &["a"], per_second());
    for _ in 0..if is_full() { 500 } else { 100 } {
        let count = follower.got.len() + 10;
        while follower.got.len() < count {
            follower.next().await;
        }
        follower.go_away();
        follower.resume().await;
    }
    let published = load.stop();
    follower.read_to(published - 1).await;
    follower.assert_gapless(published);
}

/// What is left of a log has positions in the new epoch, too. Between it and what the epoch has,
/// events may be lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_resumes_before_the_epoch_began_gets_a_gap_event() {
    let redis = RedisServer::start();
    let node = start_node(&redis).await;
    for number in 0..3 {
        publish(&node, "channel=a", &number.to_string()).await;
    }
    redis.run::<i64>(&["DEL", "headwater:{0}:epoch"]);
    let first = publish(&node, "channel=a", "new").await;
    let epoch = epoch(first["id"].as_str().expect("an ID")).to_owned();
    node.wait_for_log(&epoch);
    let resumed = async |id: &str| {
        let path = format!("/sse/stream?channel=a&last_event_id={id}");
        let mut stream = EventStream::open(node.address(), &path).await;
        let mut got = Vec::new();
        while got.last().is_none_or(|last| last != "new") {
            let message = stream.next().await.expect("an open stream");
            got.push(gap_in(&message).map_or(message.data, |(_, reason)| reason));
        }
        got
    };
    assert_eq!(resumed(&format!("{epoch}-1")).await, ["epoch", "1", "2", "new"]);
    assert_eq!(resumed(&format!("{epoch}-3")).await, ["new"]);
}
