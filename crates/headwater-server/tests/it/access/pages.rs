//! Pages of other origins: what they may read (CORS), and what they may not do with somebody's
//! cookie (CSRF).

use headwater_test_support::http::{self, Answer};
use headwater_test_support::{EventStream, Node};

use crate::support::BINARY;
use crate::support::access::{SecretFile, claims, token};
use crate::support::backend::{Backend, json as yes};

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

/// What browsers send by themselves, and what identifies a user otherwise.
const SENT_BY_BROWSERS: [&[(&str, &str)]; 9] = [
    &[("cookie", "session=1")],
    &[("authorization", "Basic dTpw")],
    &[("authorization", "Digest username=\"u\"")],
    &[("authorization", "Negotiate YII=")],
    &[("authorization", "NTLM TlRM")],
    &[("authorization", "Basic dTpw"), ("cookie", "session=1")],
    // Two headers, of which one is a token's, are none.
    &[("authorization", "Bearer x"), ("authorization", "Basic dTpw")],
    // A client certificate, as proxies pass it on.
    &[("x-forwarded-client-cert", "Hash=0;Subject=\"CN=u\"")],
    // The network that a client is in.
    &[],
];

#[tokio::test]
async fn no_foreign_page_uses_what_its_browser_sends_by_itself() {
    let backend = Backend::start(&yes(r#"{"user": "ann"}"#)).await;
    let url = backend.url("/sse-auth");
    let node =
        Node::start(BINARY, &["--authorize-url", &url, "--cors-origin", "https://a.example"]);
    let own = format!("http://{}", node.address());
    for credentials in SENT_BY_BROWSERS {
        for (method, path, kind) in [
            ("POST", "/sse/publish?channel=a", "text/plain"),
            ("POST", "/sse/publish", "application/x-ndjson"),
            ("POST", "/sse/ticket?channel=a", "text/plain"),
            ("DELETE", "/admin/streams?user=1", "text/plain"),
            ("HEAD", "/sse/stream?channel=a", "text/plain"),
            ("GET", "/sse/stream?channel=a", "text/plain"),
            // Tokens are not accepted, so what is there does not count.
            ("GET", "/sse/stream?channel=a&token=x", "text/plain"),
        ] {
            let body = br#"{"channel": "a", "data": "x"}"#;
            let asked = backend.requests().len();
            for page in [
                &[("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")][..],
                &[("origin", "https://evil.example")],
                &[("origin", "null")],
                &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")],
                &[("sec-fetch-site", "same-site")],
            ] {
                let headers = [credentials, page, &[("content-type", kind)]].concat();
                let answer = http::request(node.address(), method, path, &headers, body).await;
                assert_eq!(answer.status, 403, "{method} {path} {headers:?}");
            }
            assert_eq!(backend.requests().len(), asked, "the application is not even asked");
            for page in [
                &[("origin", &*own)][..],
                &[("origin", "https://a.example"), ("sec-fetch-site", "cross-site")],
                &[("sec-fetch-site", "same-origin")],
            ] {
                let headers = [credentials, page, &[("content-type", kind)]].concat();
                let method = if method == "GET" { "HEAD" } else { method };
                let answer = http::request(node.address(), method, path, &headers, body).await;
                assert!((200..300).contains(&answer.status), "{method} {path} {headers:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_foreign_page_holds_no_streams_of_its_visitor() {
    let secret = SecretFile::new();
    let arguments = ["--jwt-secret-file", secret.path(), "--max-streams-per-user", "1"];
    let node = Node::start(BINARY, &[&arguments[..], &["--jwt-in-query"]].concat());
    let mut user = claims(&["news"], &[]);
    user["sub"] = "ann".into();
    let token = token(&user);
    let (cookie, path) = (format!("headwater={token}"), "/sse/stream?channel=news");
    let foreign = [("cookie", &*cookie), ("origin", "https://evil.example")];
    for _ in 0..3 {
        EventStream::open_with(node.address(), path, &foreign, None).await;
        http::request(node.address(), "POST", "/sse/ticket", &foreign, b"").await.problem(403);
    }
    let own = [("cookie", &*cookie), ("sec-fetch-site", "same-origin")];
    let stream = EventStream::open_with(node.address(), path, &own, None).await;
    assert_eq!(stream.status, 200);
    drop(stream);
    node.wait_for_metric("headwater_streams", 0.0).await;
    // What a page cannot have sent by accident is exempt.
    let page = ("origin", "https://evil.example");
    let bearer = format!("Bearer {token}");
    let with_token = format!("{path}&token={token}");
    for (path, headers) in
        [(path, &[page, ("authorization", &*bearer)][..]), (&with_token, &[page])]
    {
        let answer = http::request(node.address(), "HEAD", path, headers, b"").await;
        assert_eq!(answer.status, 200);
    }
}
