//! No secret is told: not in a log at any level, not in a metric, not in an answer.

use headwater_test_support::{EventStream, Node, RedisServer, http};
use serde_json::json;

use super::backend::{Backend, answer};
use super::{BINARY, SECRET, SecretFile, claims, now, token};

const PASSWORD: &str = "r3dis-passw0rd";

#[tokio::test]
async fn nothing_that_is_secret_is_seen_anywhere() {
    let redis = RedisServer::start_with(&["--requirepass", PASSWORD, "--save", ""]);
    let backend = Backend::start(&answer("500 Oops", "text/html", "b4ckend-w0rd")).await;
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
        "--log",
        "trace,h2=trace,hyper=trace,redis=trace,h2::hpack=trace",
    ];
    let node = Node::start(BINARY, &arguments);
    node.wait_until_ready().await;
    let good = token(&claims(&["news"], &["news"]));
    let mut expired = claims(&["news"], &["news"]);
    expired["exp"] = json!(now() - 1.0);
    let expired = token(&expired);
    let forged = format!("{}forged", &good[..good.len() - 6]);
    let address = node.address();
    let mut told = String::new();
    let mut tickets = Vec::new();
    for token in [&good, &expired, &forged] {
        let bearer = format!("Bearer {token}");
        let cookie = format!("headwater={token}");
        for headers in [[("authorization", &*bearer)], [("cookie", &*cookie)]] {
            let path = "/sse/stream?channel=news";
            let stream = EventStream::open_with(address, path, &headers, None).await;
            told += &format!("{:?}", stream.headers);
            let answers = [
                http::request(address, "POST", "/sse/publish?channel=news", &headers, b"x").await,
                http::request(address, "HEAD", "/sse/stream?channel=secret", &headers, b"").await,
                http::request(address, "DELETE", "/admin/streams?user=a", &headers, b"").await,
            ];
            told += &format!("{answers:?}");
            told += &answers.map(|answer| answer.text()).concat();
            let made = http::request(address, "POST", "/sse/ticket", &headers, b"").await;
            if made.status == 200 {
                tickets.push(made.json()["ticket"].as_str().expect("a ticket").to_owned());
            }
        }
        let path = format!("/sse/stream?channel=news&token={token}&chanel=x");
        told += &http::get(address, &path).await.text();
        told += &http::get(address, &format!("/nothing?token={token}")).await.text();
        told += &http::post(address, &format!("/sse/publish?token={token}%FF"), b"x").await.text();
    }
    let cookie = [("cookie", "session=c00kie-of-somebody")];
    told += &http::request(address, "GET", "/sse/stream?channel=x", &cookie, b"").await.text();
    for ticket in &tickets {
        let path = format!("/sse/stream?channel=news&ticket={ticket}");
        assert_eq!(EventStream::open(address, &path).await.status, 200);
        told += &http::get(address, &path).await.text();
    }
    assert_eq!(tickets.len(), 2);
    over_http2(address, &good).await;
    told += &http::get(address, "/metrics").await.text();
    told += &node.log();
    assert!(told.contains("a stream opened"), "the log is there");
    let signature = |token: &str| token.rsplit('.').next().unwrap_or_default().to_owned();
    let mut secrets = vec![
        SECRET.to_owned(),
        PASSWORD.to_owned(),
        signature(&good),
        signature(&expired),
        signature(&forged),
        "c00kie-of-somebody".to_owned(),
        "k3y-of-the-url".to_owned(),
        "b4ckend-w0rd".to_owned(),
    ];
    secrets.extend(tickets);
    for secret in secrets {
        let at = told.find(&secret);
        let around = at.map(|at| &told[at.saturating_sub(200)..(at + 100).min(told.len())]);
        assert_eq!(around, None, "a secret is told");
    }
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
