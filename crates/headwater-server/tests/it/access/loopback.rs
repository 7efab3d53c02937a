//! Loopback addresses without access rules: by which names they answer, and which pages may use
//! them; and what only this machine may ask for. Look here for DNS rebinding and forwarded
//! requests.

use std::net::SocketAddr;

use headwater_test_support::Node;
use headwater_test_support::http::{self, Answer};
use http_body_util::Empty;
use hyper::Request;
use tokio::net::TcpStream;

use crate::support::BINARY;
use crate::support::access::{SecretFile, claims, token};
use crate::support::http2::Connection;

/// Every endpoint, with a request that an open server accepts.
const ENDPOINTS: [(&str, &str); 9] = [
    ("HEAD", "/sse/stream?channel=a"),
    ("POST", "/sse/publish?channel=a"),
    ("POST", "/sse/ticket?channel=a"),
    ("DELETE", "/admin/streams?user=1"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/metrics"),
    ("GET", "/sse/demo"),
    ("GET", "/sse/demo/info"),
];

/// A request that names this host.
async fn ask(address: SocketAddr, (method, path): (&str, &str), lines: &[&str]) -> Answer {
    let lines = [lines, &[""]].concat().join("\r\n");
    let head = format!(
        "{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: 1\r\n{lines}\r\nx"
    );
    http::exchange(address, head.as_bytes()).await
}

#[tokio::test]
async fn only_names_of_this_machine_lead_to_an_open_loopback_address() {
    let node = Node::start(BINARY, &["--allowed-host", "events.test"]);
    let port = node.address().port();
    for endpoint in ENDPOINTS {
        for own in ["127.0.0.1", "localhost", "[::1]", "app.localhost", "events.test"] {
            let host = format!("host: {own}:{port}");
            let status = ask(node.address(), endpoint, &[&host]).await.status;
            assert!((200..300).contains(&status), "{endpoint:?} {own}: {status}");
        }
        for foreign in ["evil.example", "localhost.evil.example", "192.0.2.1", "", "0.0.0.0"] {
            let host = format!("host: {foreign}:{port}");
            let refused = ask(node.address(), endpoint, &[&host]).await;
            if endpoint.0 == "HEAD" {
                assert_eq!(refused.status, 421, "{foreign}");
            } else {
                assert!(refused.problem(421).contains("allowed-host"), "{endpoint:?} {foreign}");
            }
        }
        let both = ["host: localhost", "host: evil.example"];
        let status = ask(node.address(), endpoint, &both).await.status;
        assert!([400, 421].contains(&status), "{endpoint:?}: {status}");
    }
}

#[tokio::test]
async fn over_http2_too_the_authority_must_be_this_machines() {
    let node = Node::start(BINARY, &[]);
    let port = node.address().port();
    for (authority, is_own) in
        [("127.0.0.1", true), ("localhost", true), ("evil.example", false), ("192.0.2.1", false)]
    {
        for (method, path) in ENDPOINTS {
            let socket = TcpStream::connect(node.address()).await.expect("the server listens");
            let origin = format!("http://{authority}:{port}");
            let mut connection = Connection::over(socket, origin.clone()).await;
            let request = Request::builder().method(method).uri(format!("{origin}{path}"));
            let request = request.body(Empty::new()).expect("a request");
            let answer = connection.requests.send_request(request).await.expect("an answer");
            let status = answer.status().as_u16();
            assert_eq!(status == 421, !is_own, "{authority} {method} {path}: {status}");
        }
    }
}

#[tokio::test]
async fn pages_of_other_origins_cannot_use_an_open_loopback_address() {
    let node = Node::start(BINARY, &["--cors-origin", "https://app.example"]);
    let port = node.address().port();
    let host = format!("host: localhost:{port}");
    let own = format!("origin: http://localhost:{port}");
    for endpoint in &ENDPOINTS[..4] {
        for (lines, is_allowed) in [
            (&[][..], true),
            (&[&*own], true),
            (&["sec-fetch-site: same-origin"], true),
            (&["origin: https://app.example"], true),
            (&["origin: https://evil.example"], false),
            (&["origin: http://localhost:1"], false),
            (&["origin: null"], false),
            (&["sec-fetch-site: cross-site"], false),
            (&["sec-fetch-site: same-site"], false),
            (&["origin: https://evil.example", "sec-fetch-site: cross-site"], false),
            (&["origin: https://evil.example", "cookie: a=b"], false),
            // Not a page's: a stream and its ticket have no effects, whatever cookies are sent.
            (
                &["cookie: a=b"],
                !["/sse/publish?channel=a", "/admin/streams?user=1"].contains(&endpoint.1),
            ),
        ] {
            let status = ask(node.address(), *endpoint, &[&[&*host], lines].concat()).await.status;
            let expected = if is_allowed { 200..300 } else { 403..404 };
            assert!(expected.contains(&status), "{endpoint:?} {lines:?}: {status}");
        }
    }
    let all = Node::start(BINARY, &["--cors-origin", "*"]);
    let foreign = ["host: localhost", "origin: https://evil.example"];
    assert_eq!(ask(all.address(), ENDPOINTS[1], &foreign).await.status, 200);
}

#[tokio::test]
async fn an_open_address_behind_a_proxy_has_the_names_of_the_proxy() {
    let proxy = ["--open", "--trusted-proxy=127.0.0.1", "--client-address-header=X-Real-IP"];
    let node = Node::start(BINARY, &proxy);
    let lines = ["host: hub.example", "x-real-ip: 192.0.2.1", "origin: https://app.example"];
    for endpoint in &ENDPOINTS[..3] {
        assert_eq!(ask(node.address(), *endpoint, &lines).await.status, 200, "{endpoint:?}");
    }
}

#[tokio::test]
async fn what_is_for_this_machine_is_not_for_the_clients_of_a_proxy() {
    let secret = SecretFile::new();
    let rules = ["--jwt-secret-file", secret.path()];
    let trusted = ["--trusted-proxy=127.0.0.1", "--client-address-header=X-Forwarded-For"];
    let mut admin = claims(&[], &[]);
    admin["headwater"] = serde_json::json!({ "admin": true });
    let bearer = format!("authorization: Bearer {}", token(&admin));
    for arguments in [&rules[..], &[&rules[..], &trusted].concat()] {
        let node = Node::start(BINARY, arguments);
        for endpoint in &ENDPOINTS[3..7] {
            let own = ["host: 127.0.0.1", &*bearer];
            let status = ask(node.address(), *endpoint, &own).await.status;
            assert!((200..300).contains(&status), "{endpoint:?}: {status}");
            for forwarded in [
                "x-forwarded-for: 203.0.113.9",
                "x-forwarded-for: 127.0.0.1",
                "x-forwarded-for: unknown",
                "forwarded: for=203.0.113.9",
                "x-real-ip: 203.0.113.9",
                "x-forwarded-host: hub.example",
                "via: 1.1 proxy",
                "host: hub.example",
            ] {
                let host =
                    if forwarded.starts_with("host") { &[][..] } else { &["host: 127.0.0.1"] };
                let lines = [host, &[forwarded, &*bearer]].concat();
                let refused = ask(node.address(), *endpoint, &lines).await;
                assert!(refused.problem(403).contains("set admin"), "{endpoint:?} {forwarded}");
            }
        }
    }
    // An address of its own was configured.
    let arguments = [&rules[..], &trusted, &["--admin", "127.0.0.1:0"]].concat();
    let node = Node::start(BINARY, &arguments);
    let address = node.admin_address().expect("the log says where");
    let lines = ["host: hub.example", "x-forwarded-for: 203.0.113.9"];
    assert_eq!(ask(address, ("GET", "/health/live"), &lines).await.status, 200);
}

#[tokio::test]
async fn nobody_closes_streams_on_a_reachable_address_without_a_credential() {
    let close = ("DELETE", "/admin/streams?user=1");
    let lines = ["host: hub.example"];
    let node = Node::start(BINARY, &["--open", "--admin", "0.0.0.0:0"]);
    let at = |node: &Node| {
        let address = node.admin_address().expect("the log says where");
        SocketAddr::from(([127, 0, 0, 1], address.port()))
    };
    let refused = ask(at(&node), close, &lines).await;
    assert!(refused.problem(403).contains("set access rules"), "{}", refused.text());
    assert_eq!(ask(at(&node), ("GET", "/metrics"), &lines).await.status, 200);
    // On loopback it is open, to names of this machine.
    let node = Node::start(BINARY, &["--admin", "127.0.0.1:0"]);
    ask(at(&node), close, &lines).await.problem(421);
    assert_eq!(ask(at(&node), close, &["host: localhost"]).await.status, 204);
    let page = ["host: localhost", "origin: https://evil.example"];
    ask(at(&node), close, &page).await.problem(403);
    let secret = SecretFile::new();
    let arguments = ["--jwt-secret-file", secret.path(), "--admin", "0.0.0.0:0"];
    let node = Node::start(BINARY, &arguments);
    ask(at(&node), close, &lines).await.problem(401);
}
