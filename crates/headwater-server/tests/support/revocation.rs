//! Everything that can be revoked, as one check of two nodes. Look here for its steps.

use std::time::Duration;

use headwater_test_support::stream::End;
use headwater_test_support::{EventStream, Node, http};
use serde_json::json;

use crate::support::access::{claims, now, token};
use crate::support::backend::{Backend, answer, json as yes};
use crate::support::tickets::{get_ticket, open as open_by_ticket, ticket_of};

pub(crate) fn bearer(user: &str, id: &str) -> String {
    let mut claims = claims(&["*"], &["*"]);
    (claims["sub"], claims["jti"]) = (user.into(), id.into());
    format!("Bearer {}", token(&claims))
}

pub(crate) fn admin() -> String {
    format!("Bearer {}", token(&json!({ "exp": now() + 60.0, "headwater": { "admin": true } })))
}

pub(crate) async fn open(node: &Node, channels: &str, bearer: &str) -> EventStream {
    let headers = [("authorization", bearer)];
    let path = format!("/sse/stream?{channels}");
    EventStream::open_with(node.address(), &path, &headers, None).await
}

pub(crate) async fn revoke(node: &Node, query: &str) {
    let path = format!("/admin/streams?{query}");
    let headers = [("authorization", &*admin())];
    let answer = http::request(node.address(), "DELETE", &path, &headers, b"").await;
    assert_eq!(answer.status, 204, "{query}: {}", answer.text());
}

pub(crate) async fn is_open(stream: &mut EventStream, node: &Node, channel: &str) {
    let headers = [("authorization", &*bearer("publisher", "p"))];
    let path = format!("/sse/publish?channel={channel}");
    let answer = http::request(node.address(), "POST", &path, &headers, b"still here").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(stream.next().await.expect("it is open").data, "still here");
}

/// Everything that can be revoked, by one node, of streams of another (or of itself).
pub(crate) async fn check(one: &Node, two: &Node) {
    let mut ann = open(two, "channel=a", &bearer("ann", "1")).await;
    let mut ben = open(two, "channel=b&channel=c", &bearer("ben", "2")).await;
    let mut cid = open(two, "channel=d", &bearer("cid", "3")).await;
    let mut dan = open(two, "channel=e", &bearer("dan", "4")).await;
    let mut eve = open(two, "channel=f", &bearer("eve", "5")).await;
    let id = cid.headers.iter().find(|(name, _)| name == "headwater-stream").expect("an id");
    let by_id = format!("stream={}", id.1);
    revoke(one, "user=nobody").await;
    revoke(one, "user=ann").await;
    assert_eq!(ann.end().await, End::Clean);
    revoke(one, "channel=c").await;
    assert_eq!(ben.end().await, End::Clean);
    revoke(one, &by_id).await;
    assert_eq!(cid.end().await, End::Clean);
    revoke(one, &format!("token=4&expires={:.0}", now() + 60.0)).await;
    assert_eq!(dan.end().await, End::Clean);
    two.wait_for_metric("headwater_streams_ended_total{reason=\"revoked\"}", 4.0).await;
    is_open(&mut eve, two, "f").await;
    // Whose token is revoked stays out; the others may reconnect.
    assert_eq!(open(two, "channel=e", &bearer("dan", "4")).await.status, 401);
    assert_eq!(open(one, "channel=e", &bearer("dan", "4")).await.status, 401);
    assert_eq!(open(two, "channel=e", &bearer("dan", "6")).await.status, 200);
    assert_eq!(open(two, "channel=a", &bearer("ann", "1")).await.status, 200);
}

/// What was decided before a revocation: tickets of a token and of the application, and an answer
/// of the application that is remembered. `one` revokes, `two` decides. The application is asked by
/// both.
pub(crate) async fn check_earlier_decisions(one: &Node, two: &Node, backend: &Backend) {
    let until = format!("token=j&expires={:.0}", now() + 60.0);
    // Whether the ticket of a token, the application's ticket and its remembered yes end by it.
    for (number, (query, ends)) in [
        ("user=42", [true, true, true]),
        ("channel=secret", [true, true, true]),
        ("user=43", [false; 3]),
        ("channel=other", [false; 3]),
        (&*until, [true, false, false]),
    ]
    .into_iter()
    .enumerate()
    {
        let cookie = format!("session={number}");
        let session = [("cookie", &*cookie), ("sec-fetch-site", "same-origin")];
        backend.answer_with(&yes(r#"{"user": "42"}"#), Duration::ZERO);
        let bearer = bearer("42", "j");
        // Made by one, shown to the other.
        let of_token = get_ticket(one, "", &[("authorization", &*bearer)]).await;
        let of_application = get_ticket(one, "?channel=secret", &session).await;
        let tickets = [ticket_of(&of_token), ticket_of(&of_application)];
        // These show when the other one knows it.
        let mut marks = [
            open(two, "channel=secret&channel=other", &bearer).await,
            open(two, "channel=mark", &self::bearer("43", "k")).await,
        ];
        let remember = async || {
            let path = "/sse/stream?channel=secret";
            http::request(two.address(), "HEAD", path, &session, b"").await.status
        };
        assert_eq!(remember().await, 200);
        backend.answer_with(&answer("401 Unauthorized", "text/html", "no"), Duration::ZERO);
        revoke(one, query).await;
        let mark = usize::from(query == "user=43");
        assert_eq!(marks[mark].end().await, End::Clean, "{query}");
        let status = |ends: bool| if ends { 401 } else { 200 };
        // First, since an answer is remembered for two seconds only.
        assert_eq!(remember().await, status(ends[2]), "a remembered yes after {query}");
        assert_eq!(open_by_ticket(two, "secret", &tickets[0]).await, status(ends[0]), "{query}");
        assert_eq!(open_by_ticket(two, "secret", &tickets[1]).await, status(ends[1]), "{query}");
        if !query.starts_with("token") {
            let later = async || {
                let ticket = get_ticket(one, "", &[("authorization", &*bearer)]).await;
                open_by_ticket(two, "secret", &ticket_of(&ticket)).await
            };
            headwater_test_support::eventually("a later ticket counts", || async {
                later().await == 200
            })
            .await;
        }
    }
}
