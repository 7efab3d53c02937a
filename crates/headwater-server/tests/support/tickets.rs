//! Requests for tickets, and streams opened with them. Look here for the form of an answer.

use headwater_test_support::http::{self, Answer};
use headwater_test_support::{EventStream, Node, secrets};

pub(crate) async fn get_ticket(node: &Node, query: &str, headers: &[(&str, &str)]) -> Answer {
    let path = format!("/sse/ticket{query}");
    http::request(node.address(), "POST", &path, headers, b"").await
}

pub(crate) fn ticket_of(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.json()["expires_in"], 30);
    let ticket = answer.json()["ticket"].as_str().expect("a ticket").to_owned();
    secrets::keep(&ticket);
    ticket
}

pub(crate) async fn open(node: &Node, channel: &str, ticket: &str) -> u16 {
    let path = format!("/sse/stream?channel={channel}&ticket={ticket}");
    EventStream::open(node.address(), &path).await.status
}
