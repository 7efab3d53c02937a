//! Faults found in the past, as steps. Look here when the property fails: add its steps to this
//! file.

use super::*;

fn connect(client: usize, node: usize, channels: &[usize]) -> Step {
    Step::Connect { client, node, channels: channels.to_vec(), back: 0 }
}

fn publish(channel: usize, count: usize) -> Step {
    Step::Publish { channel, count }
}

#[test]
fn a_stream_that_is_confirmed_late_replays_once() {
    let steps = vec![
        connect(0, 1, &[2]),
        Step::Lose { node: 1 },
        publish(0, 5),
        connect(0, 1, &[0, 1, 2]),
        publish(0, 2),
        publish(2, 4),
        publish(0, 6),
        Step::End { channel: 0 },
    ];
    check(steps, true);
}

/// A stream that has an ID after a missed event gets a gap event, and one of the channel alone the
/// event.
#[tokio::test(start_paused = true)]
async fn an_event_that_is_noticed_late_is_reported_or_delivered() {
    let cluster = Cluster::new(1);
    let hub = Hub::builder().build(cluster.link(0));
    let subscribe = async |channels: &[usize]| {
        let names = channels.iter().copied().map(cluster::channel);
        let mut stream = hub.subscribe(names).unwrap();
        stream.ready().await;
        stream
    };
    let (mut both, mut alone) = (subscribe(&[0, 1]).await, subscribe(&[0]).await);
    cluster.publish_silently(0, 3);
    let read = async |stream: &mut headwater_core::Subscription| {
        let mut seen = Vec::new();
        while let Ok(Some(frame)) =
            tokio::time::timeout(Duration::from_secs(1), stream.next()).await
        {
            let reason = frame.gap().map(|gap| format!("gap {} {}", gap.channel, gap.reason));
            seen.push(reason.unwrap_or_else(|| frame.event().data().to_owned()));
        }
        seen.join(", ")
    };
    assert_eq!(read(&mut both).await, "1, 2, 3, gap c0 trimmed, 4");
    assert_eq!(read(&mut alone).await, "0, 4");
}

/// A client that has an ephemeral event from one node moves to a node that has not received it yet.
#[tokio::test(start_paused = true)]
async fn an_ephemeral_event_that_arrives_after_the_client_is_not_repeated() {
    let cluster = Cluster::new(2);
    let hubs = [0, 1].map(|node| Hub::builder().build(cluster.link(node)));
    let subscribe = |node: usize| hubs[node].subscribe([cluster::channel(0)]).unwrap();
    let (mut first, mut stays) = (subscribe(0), subscribe(1));
    first.ready().await;
    stays.ready().await;
    cluster.lag(1);
    cluster.publish_ephemeral(0);
    let mut has = first.next().await.unwrap();
    while has.is_marker() {
        has = first.next().await.unwrap();
    }
    let mut moved = subscribe(1).after(has.position().unwrap().to_string());
    let next = moved.next();
    let resumed = tokio::time::timeout(Duration::from_secs(1), next).await;
    assert!(resumed.is_err(), "the node has nothing for the client yet: {resumed:?}");
    cluster.flush(1);
    cluster.publish(0, false, false, true);
    loop {
        let frame = moved.next().await.unwrap();
        if frame.gap().is_none() && !frame.is_marker() {
            assert_eq!(frame.event().data(), "1");
            return;
        }
    }
}
