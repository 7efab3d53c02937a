//! Several nodes over one log, and clients that move between them with any id that they were ever
//! given, while connections lag and break and the log loses data: against a reference that keeps
//! every event. Look here first when you doubt that a promise holds across nodes.
//!
//! A client must receive every event that is published to its channels after it attached, once and
//! in the channel's order, or a gap event of the channel.

mod client;
mod cluster;
mod regressions;

use std::time::Duration;

use headwater_core::Hub;
use proptest::prelude::*;
use tokio::runtime;

use client::Client;
use cluster::Cluster;

const CHANNELS: usize = 3;
const CLIENTS: usize = 3;
const NODES: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    Publish {
        channel: usize,
        count: usize,
    },
    PublishLarge {
        channel: usize,
    },
    /// No node is notified of an event in the log, until the next one of its channel.
    PublishSilently {
        channel: usize,
    },
    PublishEphemeral {
        channel: usize,
    },
    /// The newest event of a channel in the log arrives at all nodes once more.
    Repeat {
        channel: usize,
    },
    End {
        channel: usize,
    },
    Trim {
        channel: usize,
        keep: usize,
    },
    RemoveOne {
        channel: usize,
        at: usize,
    },
    Reset,
    Lose {
        node: usize,
    },
    Restore {
        node: usize,
    },
    Lag {
        node: usize,
    },
    Flush {
        node: usize,
    },
    /// A client connects with the id before its last `back` ones.
    Connect {
        client: usize,
        node: usize,
        channels: Vec<usize>,
        back: usize,
    },
    /// A client connects with the id of a publish receipt.
    ConnectAtReceipt {
        client: usize,
        node: usize,
        channels: Vec<usize>,
    },
    /// A node falls behind, and a client that has read more moves there with the same channels.
    MoveAhead {
        client: usize,
        node: usize,
        channel: usize,
        count: usize,
    },
    Read {
        client: usize,
        count: usize,
    },
    Disconnect {
        client: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (channel, node, client) = (0..CHANNELS, 0..NODES, 0..CLIENTS);
    let channels =
        || proptest::sample::subsequence((0..CHANNELS).collect::<Vec<_>>(), 1..=CHANNELS);
    let connect = (client.clone(), node.clone(), channels(), 0..4_usize);
    let at_receipt = (client.clone(), node.clone(), channels());
    let ahead = (client.clone(), node.clone(), channel.clone(), 1..4_usize);
    prop_oneof![
        10 => (channel.clone(), 1..6_usize)
            .prop_map(|(channel, count)| Step::Publish { channel, count }),
        1 => channel.clone().prop_map(|channel| Step::PublishLarge { channel }),
        2 => channel.clone().prop_map(|channel| Step::PublishSilently { channel }),
        8 => channel.clone().prop_map(|channel| Step::PublishEphemeral { channel }),
        2 => channel.clone().prop_map(|channel| Step::Repeat { channel }),
        1 => channel.clone().prop_map(|channel| Step::End { channel }),
        1 => (channel.clone(), 0..3_usize)
            .prop_map(|(channel, keep)| Step::Trim { channel, keep }),
        1 => (channel, 0..3_usize).prop_map(|(channel, at)| Step::RemoveOne { channel, at }),
        1 => Just(Step::Reset),
        3 => node.clone().prop_map(|node| Step::Lose { node }),
        4 => node.clone().prop_map(|node| Step::Restore { node }),
        3 => node.clone().prop_map(|node| Step::Lag { node }),
        4 => node.prop_map(|node| Step::Flush { node }),
        10 => connect.prop_map(|(client, node, channels, back)| {
            Step::Connect { client, node, channels, back }
        }),
        2 => at_receipt.prop_map(|(client, node, channels)| {
            Step::ConnectAtReceipt { client, node, channels }
        }),
        2 => ahead.prop_map(|(client, node, channel, count)| {
            Step::MoveAhead { client, node, channel, count }
        }),
        10 => (client.clone(), 1..100_usize)
            .prop_map(|(client, count)| Step::Read { client, count }),
        2 => client.prop_map(|client| Step::Disconnect { client }),
    ]
}

async fn run(steps: Vec<Step>, linger: Duration) {
    let cluster = Cluster::new(NODES);
    let hub = |node| Hub::builder().linger(linger).build(cluster.link(node));
    let hubs: Vec<Hub> = (0..NODES).map(hub).collect();
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::new()).collect();
    for step in steps {
        match step {
            Step::Publish { channel, count } => {
                (0..count).for_each(|_| cluster.publish(channel, false, false, true));
            }
            Step::PublishLarge { channel } => cluster.publish(channel, true, false, true),
            Step::PublishSilently { channel } => cluster.publish_silently(channel, 0),
            Step::PublishEphemeral { channel } => cluster.publish_ephemeral(channel),
            Step::Repeat { channel } => cluster.repeat(channel),
            Step::End { channel } => cluster.publish(channel, false, true, true),
            Step::Trim { channel, keep } => cluster.trim(channel, keep),
            Step::RemoveOne { channel, at } => cluster.remove_one(channel, at),
            Step::Reset => cluster.reset(),
            Step::Lose { node } => cluster.lose(node),
            Step::Restore { node } => cluster.restore(node),
            Step::Lag { node } => cluster.lag(node),
            Step::Flush { node } => cluster.flush(node),
            Step::Connect { client, node, channels, back } => {
                clients[client].connect(&hubs[node], &cluster, channels, back).await;
            }
            Step::ConnectAtReceipt { client, node, channels } => {
                clients[client].connect_at(&hubs[node], &cluster, channels);
            }
            Step::MoveAhead { client, node, channel, count } => {
                cluster.lag(node);
                for _ in 0..count {
                    cluster.publish_ephemeral(channel);
                    cluster.publish(channel, false, false, true);
                }
                let client = &mut clients[client];
                client.read(&cluster, 100, false).await;
                let channels = client.channels().to_vec();
                if !channels.is_empty() {
                    client.connect(&hubs[node], &cluster, channels, 0).await;
                }
            }
            Step::Read { client, count } => clients[client].read(&cluster, count, false).await,
            Step::Disconnect { client } => clients[client].disconnect(),
        }
    }
    settle(&cluster, &mut clients).await;
}

/// All connections work again, and every channel receives one more event of each kind.
async fn settle(cluster: &Cluster, clients: &mut [Client]) {
    for node in 0..NODES {
        cluster.flush(node);
        cluster.restore(node);
    }
    for client in &mut *clients {
        client.read(cluster, 20, false).await;
    }
    for channel in 0..CHANNELS {
        cluster.publish_ephemeral(channel);
        cluster.publish(channel, false, false, true);
    }
    for client in &mut *clients {
        client.read(cluster, usize::MAX, true).await;
        let has_ended = |channel: &usize| cluster.is_ended(*channel);
        let must_be_closed = client.channels().iter().all(has_ended);
        assert!(!(client.is_open() && must_be_closed), "the stream of ended channels is open");
    }
}

fn check(steps: Vec<Step>, lingers: bool) {
    let linger = if lingers { Duration::from_secs(1 << 20) } else { Duration::ZERO };
    let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(run(steps, linger));
}

proptest! {
    // A failure is printed as steps, to be added to `regressions`.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_client_receives_every_event_on_any_node_or_a_gap(
        steps in proptest::collection::vec(step(), 1..80),
        lingers: bool,
    ) {
        check(steps, lingers);
    }
}
