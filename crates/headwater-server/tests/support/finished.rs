//! Publishing to a channel that ends, and reading a stream to its end. Look here for what a clean
//! end is.

use headwater_test_support::stream::End;
use headwater_test_support::{EventStream, Node, http};

pub(crate) async fn publish(node: &Node, query: &str, data: &str) -> String {
    let answer =
        http::post(node.address(), &format!("/sse/publish?{query}"), data.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["id"].as_str().expect("an id").to_owned()
}

pub(crate) async fn status_of(node: &Node, query: &str, last_id: &str) -> u16 {
    let header = [("last-event-id", last_id)];
    let headers = if last_id.is_empty() { &[][..] } else { &header };
    let path = format!("/sse/stream?{query}");
    EventStream::open_with(node.address(), &path, headers, None).await.status
}

/// The events of a stream until its end, which must be clean.
pub(crate) async fn to_its_end(stream: &mut EventStream) -> Vec<String> {
    let mut got = Vec::new();
    loop {
        match stream.next().await {
            Ok(message) => got.push(message.data),
            Err(end) => {
                assert_eq!(end, End::Clean);
                return got;
            }
        }
    }
}
