//! Channels that their publisher ends: the terminal event, the end of streams, and 204 for clients
//! that comes after it.

use headwater_test_support::{EventStream, http};

use crate::support::finished::{publish, status_of, to_its_end};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_get_the_terminal_event_and_a_clean_end() {
    let (node, _redis) = crate::broker::start_node(&[]).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(EventStream::open(node.address(), "/sse/stream?channel=answer").await);
    }
    let first = publish(&node, "channel=answer", "to be").await;
    let last = publish(&node, "channel=answer&event=done&end=1", "or not").await;
    for stream in &mut streams {
        assert_eq!(to_its_end(stream).await, ["to be", "or not"]);
        assert_eq!(stream.last_event_id(), last);
    }
    // 204 makes a browser stop.
    assert_eq!(status_of(&node, "channel=answer", &last).await, 204);
    assert_eq!(status_of(&node, "channel=answer", "").await, 204);
    // Who has not got everything yet gets it.
    let path = "/sse/stream?channel=answer";
    let header = [("last-event-id", &*first)];
    let mut late = EventStream::open_with(node.address(), path, &header, None).await;
    assert_eq!(to_its_end(&mut late).await, ["or not"]);
    let mut late = EventStream::open(node.address(), &format!("{path}&rewind=all")).await;
    assert_eq!(to_its_end(&mut late).await, ["to be", "or not"]);
    let refused = http::post(node.address(), "/sse/publish?channel=answer", b"more").await;
    assert!(refused.problem(409).contains("ended by its publisher"));
    let again = http::post(node.address(), "/sse/publish?channel=answer&end=1", b"x").await;
    again.problem(409);
    // The connections of streams that ended are gone; other channels go on.
    node.wait_for_metric("headwater_streams", 0.0).await;
    publish(&node, "channel=next", "hello").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_several_channels_ends_with_the_last_of_them() {
    let (node, _redis) = crate::broker::start_node(&[]).await;
    let path = "/sse/stream?channel=a&channel=b&channel=c";
    let mut stream = EventStream::open(node.address(), path).await;
    publish(&node, "channel=b&end=1", "end of b").await;
    publish(&node, "channel=a", "a goes on").await;
    publish(&node, "channel=a&end=1", "end of a").await;
    let mut got = Vec::new();
    for _ in 0..3 {
        got.push(stream.next().await.expect("an open stream").data);
    }
    // One that opens when some have ended, as this node knows now, waits for the others, too.
    let mut late = EventStream::open(node.address(), path).await;
    publish(&node, "channel=c", "c goes on").await;
    publish(&node, "channel=c&end=1", "end of c").await;
    got.extend(to_its_end(&mut stream).await);
    assert_eq!(got, ["end of b", "a goes on", "end of a", "c goes on", "end of c"]);
    assert_eq!(to_its_end(&mut late).await, ["c goes on", "end of c"]);
    assert_eq!(status_of(&node, "channel=a&channel=b&channel=c", "").await, 204);
    assert_eq!(status_of(&node, "channel=a&channel=d", "").await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_while_a_client_was_away_is_replayed() {
    let (node, _redis) = crate::broker::start_node(&[]).await;
    let mut stream = EventStream::open(node.address(), "/sse/stream?channel=a").await;
    let first = publish(&node, "channel=a", "1").await;
    assert_eq!(stream.next().await.expect("an open stream").id, first);
    drop(stream);
    publish(&node, "channel=a", "2").await;
    let last = publish(&node, "channel=a&end=1", "3").await;
    let header = [("last-event-id", &*first)];
    let path = "/sse/stream?channel=a";
    let mut back = EventStream::open_with(node.address(), path, &header, None).await;
    assert_eq!(to_its_end(&mut back).await, ["2", "3"]);
    assert_eq!(status_of(&node, "channel=a", &last).await, 204);
}
