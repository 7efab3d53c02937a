//! No secret leaks: not in a log at any level, not in a metric, not in an answer. Every node of
//! every test is searched for secrets; here all kinds of them go every way.

use headwater_test_support::{EventStream, Node, RedisServer, http, secrets};
use serde_json::json;

use crate::support::BINARY;
use crate::support::access::{SecretFile, claims, now, token};
use crate::support::backend::{Backend, answer};

const PASSWORD: &str = "r3dis-passw0rd";

#[tokio::test]
async fn nothing_that_is_secret_is_seen_anywhere() {
    let redis = RedisServer::start_with(&["--requirepass", PASSWORD, "--save", ""]);
    let backend = Backend::start(&answer("500 Oops", "text/html", "b4ckend-w0rd")).await;
    for secret in ["c00kie-of-somebody", "k3y-of-the-url", "b4ckend-w0rd"] {
        secrets::keep(secret);
    }
    let secret = SecretFile::new();
    let url = format!("redis://:{PASSWORD}@127.0.0.1:{}", redis.port());
    let arguments = [
        "--jwt-secret-file",
        secret.path(),
        "--jwt-in-query",
        "--authorize-url",
        &backend.url("/auth?key=k3y-of-the-url"),
        "--redis",
        &url,
    ];
    let node = Node::start(BINARY, &arguments);
    node.wait_until_ready().await;
    let good = token(&claims(&["news"], &["news"]));
    let mut expired = claims(&["news"], &["news"]);
    expired["exp"] = json!(now() - 1.0);
    let expired = token(&expired);
    let forged = format!("{}forged", &good[..good.len() - 6]);
    let address = node.address();
    let mut answered = String::new();
    let mut tickets = Vec::new();
    for token in [&good, &expired, &forged] {
        let bearer = format!("Bearer {token}");
        let cookie = format!("headwater={token}");
        let own = ("sec-fetch-site", "same-origin");
        for headers in [[("authorization", &*bearer), own], [("cookie", &*cookie), own]] {
            let path = "/sse/stream?channel=news";
            let stream = EventStream::open_with(address, path, &headers, None).await;
            answered += &format!("{:?}", stream.headers);
            let answers = [
                http::request(address, "POST", "/sse/publish?channel=news", &headers, b"x").await,
                http::request(address, "HEAD", "/sse/stream?channel=secret", &headers, b"").await,
                http::request(address, "DELETE", "/admin/streams?user=a", &headers, b"").await,
            ];
            answered += &format!("{answers:?}");
            answered += &answers.map(|answer| answer.text()).concat();
            let made = http::request(address, "POST", "/sse/ticket", &headers, b"").await;
            if made.status == 200 {
                let ticket = made.json()["ticket"].as_str().expect("a ticket").to_owned();
                secrets::keep(&ticket);
                tickets.push(ticket);
            }
        }
        let path = format!("/sse/stream?channel=news&token={token}&chanel=x");
        answered += &http::get(address, &path).await.text();
        answered += &http::get(address, &format!("/nothing?token={token}")).await.text();
        answered +=
            &http::post(address, &format!("/sse/publish?token={token}%FF"), b"x").await.text();
    }
    let cookie = [("cookie", "session=c00kie-of-somebody")];
    answered += &http::request(address, "GET", "/sse/stream?channel=x", &cookie, b"").await.text();
    for ticket in &tickets {
        let path = format!("/sse/stream?channel=news&ticket={ticket}");
        assert_eq!(EventStream::open(address, &path).await.status, 200);
        answered += &http::get(address, &path).await.text();
    }
    assert_eq!(tickets.len(), 2);
    over_http2(address, &good).await;
    answered += &http::get(address, "/metrics").await.text();
    secrets::search("an answer", &answered);
    assert!(node.log().contains("stream opened"), "everything is logged");
}

/// Libraries for HTTP/2 write what they decode to their log.
async fn over_http2(address: std::net::SocketAddr, token: &str) {
    let mut curl = tokio::process::Command::new("curl");
    curl.args(["--silent", "--http2-prior-knowledge", "--max-time", "10", "--head"]);
    curl.args(["--header", &format!("authorization: Bearer {token}")]);
    curl.arg(format!("http://{address}/sse/stream?channel=news&token={token}"));
    let output = curl.output().await.expect("curl runs");
    let head = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(head.starts_with("HTTP/2 200"), "{head}");
}
