//! Payloads arrive unchanged over the embedded broker. Look here for names that come from the
//! channel.

use headwater_test_support::{EventStream, Node, http};

use crate::support::BINARY;
use crate::support::payloads::{MIB, Road, check_road, payloads};

#[test]
fn the_large_payloads_are_what_they_are_called() {
    let payloads = payloads();
    let [.., line, lines] = payloads.as_slice() else { panic!("two large ones") };
    assert_eq!((line.len(), line.matches('\n').count()), (5 * MIB, 0));
    assert_eq!(lines.len(), MIB);
    assert!(lines.matches('\n').count() >= 20_000, "{}", lines.matches('\n').count());
}

#[tokio::test]
async fn payloads_arrive_through_the_embedded_broker() {
    let node = Node::start(BINARY, &[]);
    check_road(&node, Road::Post(""), "message", None).await;
}

#[tokio::test]
async fn a_name_from_the_channel_does_not_replace_the_publishers() {
    let node = Node::start(BINARY, &[]);
    let path = "/sse/stream?channel=a&channel=b&as=channel";
    let mut stream = EventStream::open(node.address(), path).await;
    for (query, name) in [("channel=a", "a"), ("channel=b", "b"), ("channel=a&event=own", "own")] {
        http::post(node.address(), &format!("/sse/publish?{query}"), b"x").await;
        assert_eq!(stream.next().await.expect("the stream is open").name, name);
    }
}
