//! A node that is killed under load and restarted. Look here for what must not be lost.

use headwater_test_support::{Node, PATIENCE, stable_port};

use super::BINARY;
use crate::support::follower::{Follower, Wire, is_full};
use crate::support::load::{Load, Via};

pub(crate) const KEEP: &str = "* events=100000 bytes=64MiB";

/// A node that is killed with SIGKILL and restarted loses nothing that was acknowledged, and
/// subscribers get each event once.
pub(crate) async fn check(arguments: &[&str]) {
    let kills = if is_full() { 10 } else { 3 };
    let listen = format!("127.0.0.1:{}", stable_port());
    let mut node = Node::start_on(BINARY, &listen, arguments);
    node.wait_until_ready().await;
    let mut followers = Vec::new();
    for number in 0..20 {
        let path =
            ["/sse/stream?channel=a&channel=b", "/sse/stream?channel=b&channel=a&as=channel"];
        followers.push(Follower::open(&node, Wire::Http1, path[number % 2]).await);
    }
    let load = Load::start(Via::Http(node.address()), &["a", "b"], 1_000);
    for _ in 0..kills {
        let acknowledged = load.acknowledged();
        headwater_test_support::wait_for("events are published", || {
            load.acknowledged() > acknowledged + 300
        });
        node.signal("KILL");
        node.wait_for_end(PATIENCE);
        node = Node::start_on(BINARY, &listen, arguments);
    }
    let acknowledged = load.acknowledged();
    headwater_test_support::wait_for("events are published again", || {
        load.acknowledged() > acknowledged + 300
    });
    let published = load.stop();
    for (number, follower) in followers.iter_mut().enumerate() {
        follower.read_to(published - 1).await;
        for (message, channel) in follower.got.iter_mut().zip(["a", "b"].iter().cycle()) {
            if number % 2 == 1 {
                assert_eq!(message.name, *channel);
                "message".clone_into(&mut message.name);
            }
        }
        follower.assert_gapless(published);
    }
    println!("{published} events, {kills} kills");
}
