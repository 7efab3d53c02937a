//! Channels that ended and whose history is gone. Look here for the last answer that a client gets.

use headwater_test_support::{EventStream, Node, PATIENCE};

use crate::support::BINARY;
use crate::support::finished::{publish, status_of, to_its_end};

/// The history of the ended channel is gone too: the client gets one gap event, then it stops
/// reconnecting.
#[tokio::test]
async fn a_client_after_the_end_and_its_history_gets_one_gap() {
    // Without a linger, so that the node's own memory of the channel goes with the last client.
    let node = Node::start(BINARY, &["--retention", "* age=1s", "--linger", "0s"]);
    let first = publish(&node, "channel=answer", "to be").await;
    publish(&node, "channel=answer", "or not").await;
    publish(&node, "channel=answer&end=1", "to be").await;
    let path = "/sse/stream?channel=answer";
    let header = [("last-event-id", &*first)];
    let last_id = resume_until_gap(&node, path, &header).await;
    assert_ne!(last_id, first, "the gap has moved the client's position");
    assert_eq!(status_of(&node, "channel=answer", &last_id).await, 204);
}

/// Reconnects until the history is gone; the id that the client has then.
async fn resume_until_gap(node: &Node, path: &str, header: &[(&str, &str)]) -> String {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let mut stream = EventStream::open_with(node.address(), path, header, None).await;
        let got = to_its_end(&mut stream).await;
        if let [gap] = &*got {
            assert!(gap.contains("trimmed"), "{gap}");
            return stream.last_event_id().to_owned();
        }
        assert!(std::time::Instant::now() < deadline, "it is still there: {got:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// There are no events and never will be, so no client is to reconnect.
#[tokio::test]
async fn rewinding_an_ended_channel_without_history_gives_204() {
    let node = Node::start(BINARY, &["--retention", "* age=1s", "--linger", "0s"]);
    publish(&node, "channel=answer&end=1", "to be").await;
    let path = "channel=answer&rewind=all";
    let mut status = 200;
    let deadline = std::time::Instant::now() + PATIENCE;
    while status == 200 {
        assert!(std::time::Instant::now() < deadline, "it is still there, or never ends");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        status = status_of(&node, path, "").await;
    }
    assert_eq!(status, 204);
}
