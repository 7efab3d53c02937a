//! Pages of other origins: what they may read (CORS), and what they may not do with somebody's
//! cookie (CSRF).

use headwater_test_support::http::{self, Answer};
use headwater_test_support::{EventStream, Node};

use crate::support::BINARY;
use crate::support::access::{SecretFile, claims, token};

fn node(secret: &SecretFile, origins: &[&str]) -> Node {
    let mut arguments = vec!["--jwt-secret-file", secret.path()];
    for origin in origins {
        arguments.extend(["--cors-origin", origin]);
    }
    Node::start(BINARY, &arguments)
}

async fn preflight(node: &Node, origin: &str, path: &str) -> Answer {
    let headers = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,last-event-id"),
    ];
    http::request(node.address(), "OPTIONS", path, &headers, b"").await
}

#[tokio::test]
async fn listed_origins_may_use_it_with_cookies() {
    let secret = SecretFile::new();
    let node = node(&secret, &["https://app.example", "http://localhost:3000"]);
    for path in ["/sse/stream?channel=news", "/sse/publish?channel=news", "/sse/ticket"] {
        for origin in ["https://app.example", "http://localhost:3000"] {
            let answer = preflight(&node, origin, path).await;
            assert_eq!(answer.status, 204);
            assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
            assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
            let allowed = answer.header("access-control-allow-headers").expect("headers");
            for header in ["authorization", "cache-control", "last-event-id"] {
                assert!(allowed.contains(header), "{allowed}");
            }
            assert_eq!(answer.header("vary"), Some("origin"));
        }
        for stranger in ["https://evil.example", "null", "https://app.example.evil.example"] {
            let answer = preflight(&node, stranger, path).await;
            assert_eq!(answer.header("access-control-allow-origin"), None, "{stranger}");
            assert_eq!(answer.header("access-control-allow-credentials"), None);
            assert_eq!(answer.header("vary"), Some("origin"));
        }
    }
    // The page must see a refusal too, or it cannot distinguish it from a lost network.
    let headers = [("origin", "https://app.example")];
    let refused = http::request(node.address(), "GET", "/sse/stream", &headers, b"").await;
    refused.problem(401);
    assert_eq!(refused.header("access-control-allow-origin"), Some("https://app.example"));
    let cookie = format!("headwater={}", token(&claims(&["news"], &[])));
    let headers = [("origin", "https://app.example"), ("cookie", &*cookie)];
    let path = "/sse/stream?channel=news";
    let stream = EventStream::open_with(node.address(), path, &headers, None).await;
    assert_eq!(stream.status, 200);
    let header = |name: &str| stream.headers.iter().find(|(found, _)| found == name);
    assert!(header("access-control-allow-origin").is_some() && header("vary").is_some());
}

#[tokio::test]
async fn all_pages_means_without_cookies() {
    let secret = SecretFile::new();
    let answer = preflight(&node(&secret, &["*"]), "https://a.example", "/sse/stream").await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(answer.header("access-control-allow-credentials"), None);
    let answer = preflight(&node(&secret, &[]), "https://a.example", "/sse/stream").await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn a_cookie_alone_publishes_only_from_listed_origins() {
    let secret = SecretFile::new();
    let node = node(&secret, &["https://app.example"]);
    let cookie = format!("headwater={}", token(&claims(&["news"], &["news"])));
    let own = format!("http://{}", node.address());
    let batch = br#"{"channel": "news", "data": "x"}"#;
    for (more, expected) in [
        (vec![("origin", &*own)], 200),
        (vec![("origin", "https://app.example")], 200),
        (vec![("sec-fetch-site", "same-origin")], 200),
        (vec![("origin", "https://evil.example")], 403),
        (vec![("origin", "null")], 403),
        (vec![("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")], 403),
        (vec![], 403),
    ] {
        let mut headers = vec![("cookie", &*cookie)];
        headers.extend(more.clone());
        let path = "/sse/publish?channel=news";
        let answer = http::request(node.address(), "POST", path, &headers, b"x").await;
        assert_eq!(answer.status, expected, "{more:?}: {}", answer.text());
        headers.push(("content-type", "application/x-ndjson"));
        let answer = http::request(node.address(), "POST", "/sse/publish", &headers, batch).await;
        assert_eq!(answer.status, expected, "{more:?}: {}", answer.text());
        let admin = http::request(node.address(), "DELETE", "/admin/streams?user=a", &headers, b"");
        assert_eq!(admin.await.status, 403, "it is no admin anyway");
    }
    // A header is not sent by a browser without being asked.
    let bearer = format!("Bearer {}", token(&claims(&[], &["news"])));
    let headers = [("authorization", &*bearer), ("origin", "https://evil.example")];
    let path = "/sse/publish?channel=news";
    assert_eq!(http::request(node.address(), "POST", path, &headers, b"x").await.status, 200);
}
