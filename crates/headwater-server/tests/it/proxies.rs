//! Whose address counts behind a proxy: the PROXY protocol and headers, from trusted and from other
//! peers. Look here for what is rejected; the parsers have their own tests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_test_support::{Node, PATIENCE, http, tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::BINARY;

/// One publish in an hour for each address: the status distinguishes addresses.
const ONE_EACH: [&str; 5] =
    ["--max-publishes-per-address", "1/h", "--admin", "127.0.0.1:0", "--open"];

const REQUEST: &str =
    "POST /sse/publish HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx";

fn version_2(client: [u8; 4], further: usize) -> Vec<u8> {
    let length = u16::try_from(12 + further).expect("it fits").to_be_bytes();
    let addresses = [&client[..], &[127, 0, 0, 1, 0x10, 0, 0x20, 0]].concat();
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11", &length[..], &addresses, &vec![0; further]].concat()
}

#[tokio::test]
async fn the_proxy_protocol_identifies_the_client() {
    let proxy = ["--proxy-protocol", "--trusted-proxy", "127.0.0.1"];
    let node = Node::start(BINARY, &[&proxy[..], &ONE_EACH].concat());
    let status = async |header: &[u8]| {
        http::exchange(node.address(), &[header, REQUEST.as_bytes()].concat()).await.status
    };
    assert_eq!(status(&version_2([192, 0, 2, 1], 0)).await, 200);
    assert_eq!(status(&version_2([192, 0, 2, 1], 0)).await, 429);
    assert_eq!(status(b"PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\n").await, 429);
    assert_eq!(status(b"PROXY TCP4 192.0.2.2 127.0.0.1 1 2\r\n").await, 200);
    assert_eq!(
        status(&version_2([192, 0, 2, 3], 500)).await,
        200,
        "further fields are passed over"
    );
    assert_eq!(status(b"PROXY UNKNOWN\r\n").await, 200, "the proxy itself");
    assert_eq!(status(b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0").await, 429, "the proxy itself");

    // In pieces.
    let mut socket = TcpStream::connect(node.address()).await.expect("the server listens");
    socket.set_nodelay(true).expect("it can be set");
    for byte in version_2([192, 0, 2, 4], 3) {
        socket.write_all(&[byte]).await.expect("it is sent");
        tokio::task::yield_now().await;
    }
    socket.write_all(REQUEST.as_bytes()).await.expect("it is sent");
    assert_eq!(http::read_answer(&mut socket).await.status, 200);
    node.wait_for_metric("headwater_proxy_headers_refused_total", 0.0).await;
}

/// What the server says before it closes the connection, and when that is.
async fn answer_to(node: &Node, bytes: &[u8]) -> (String, Duration) {
    let begin = Instant::now();
    let mut socket = TcpStream::connect(node.address()).await.expect("the server listens");
    socket.write_all(bytes).await.expect("it is sent");
    let mut answer = Vec::new();
    // A reset is an end too.
    let _ = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("an end in time");
    (String::from_utf8_lossy(&answer).into_owned(), begin.elapsed())
}

#[tokio::test]
async fn connections_without_the_proxy_protocol_are_rejected() {
    let proxy = ["--proxy-protocol", "--trusted-proxy", "127.0.0.1"];
    let node = Node::start(BINARY, &[&proxy[..], &ONE_EACH].concat());
    let too_long = version_2([192, 0, 2, 1], 5_000);
    let endless = [b"PROXY ", &[b'x'; 200][..]].concat();
    for bytes in
        [REQUEST.as_bytes(), b"PROXY TCP4 a b c d\r\n", &too_long, &endless, b"\x16\x03\x01"]
    {
        let (answer, lasted) = answer_to(&node, bytes).await;
        assert_eq!(answer, "", "{bytes:?}");
        assert!(lasted < Duration::from_secs(3), "{bytes:?}: {lasted:?}");
    }
    node.wait_for_metric("headwater_proxy_headers_refused_total", 5.0).await;
    // Strangers cannot fill the log. The log comes through a pipe.
    node.wait_for_log("connection rejected");
    assert_eq!(node.log().matches("connection rejected").count(), 1, "{}", node.log());
    let whole = version_2([192, 0, 2, 1], 0);
    let (silent, slow) = tokio::join!(answer_to(&node, b""), answer_to(&node, &whole[..20]));
    for (answer, lasted) in [silent, slow] {
        assert_eq!(answer, "");
        assert!((4..10).contains(&lasted.as_secs()), "{lasted:?}");
    }
    node.wait_for_metric("headwater_proxy_headers_refused_total", 7.0).await;
}

#[tokio::test]
async fn a_peer_that_is_not_trusted_cannot_speak_for_others() {
    let proxy = ["--proxy-protocol", "--trusted-proxy", "192.0.2.0/24"];
    let node = Node::start(BINARY, &[&proxy[..], &ONE_EACH].concat());
    let request = [&version_2([192, 0, 2, 1], 0), REQUEST.as_bytes()].concat();
    assert_eq!(answer_to(&node, &request).await.0, "");
    node.wait_for_log("the peer is not a trusted proxy");
    node.wait_for_metric("headwater_proxy_headers_refused_total", 1.0).await;

    let header = ["--client-address-header", "X-Forwarded-For", "--trusted-proxy", "192.0.2.0/24"];
    let node = Node::start(BINARY, &[&header[..], &ONE_EACH].concat());
    for (address, status) in [("198.51.100.1", 200), ("198.51.100.2", 429)] {
        let headers = [("x-forwarded-for", address)];
        let answer = http::request(node.address(), "POST", "/sse/publish", &headers, b"x").await;
        assert_eq!(answer.status, status, "{address}");
    }
}

#[tokio::test]
async fn headers_of_a_trusted_proxy_identify_the_client() {
    for (name, [first, same, other]) in [
        ("X-Forwarded-For", ["192.0.2.1", "6.6.6.6, 192.0.2.1", "192.0.2.1, 192.0.2.2"]),
        ("Forwarded", ["for=192.0.2.1", "for=6.6.6.6, for=192.0.2.1", "for=192.0.2.2"]),
        ("X-Real-IP", ["192.0.2.1", "192.0.2.1", "192.0.2.2"]),
    ] {
        let header = ["--client-address-header", name, "--trusted-proxy", "127.0.0.0/8"];
        let node = Node::start(BINARY, &[&header[..], &ONE_EACH].concat());
        for (value, status) in [(first, 200), (same, 429), (other, 200)] {
            let headers = [(name, value)];
            let answer =
                http::request(node.address(), "POST", "/sse/publish", &headers, b"x").await;
            assert_eq!(answer.status, status, "{name}: {value}");
        }
    }
}

#[tokio::test]
async fn the_proxy_protocol_comes_before_tls_and_headers_after_it() {
    let files = tls::Files::new();
    let proxy = [
        "--proxy-protocol",
        "--trusted-proxy=127.0.0.1",
        "--trusted-proxy=192.0.2.0/24",
        "--client-address-header=X-Forwarded-For",
        "--max-publishes-per-address=1/h",
    ];
    let node = files.start(BINARY, &proxy);
    let config = Arc::new(files.client(&["http/1.1"]));
    // From outside, through one proxy, and through two of which each says its part.
    for (client, forwarded, status) in [
        ([198, 51, 100, 1], "6.6.6.6", "200"),
        ([198, 51, 100, 1], "7.7.7.7", "429"),
        ([192, 0, 2, 9], "198.51.100.1", "429"),
        ([192, 0, 2, 9], "198.51.100.2", "200"),
    ] {
        let mut socket = TcpStream::connect(node.address()).await.expect("the server listens");
        socket.write_all(&version_2(client, 0)).await.expect("it is sent");
        let mut socket = tls::shake_hands(socket, &config).await;
        let header = format!("x-forwarded-for: {forwarded}\r\nhost: h");
        let request = REQUEST.replace("host: h", &header);
        socket.write_all(request.as_bytes()).await.expect("it is sent");
        let mut answer = Vec::new();
        let read = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("in time");
        read.expect("an answer, and the end");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{client:?}: {answer}");
    }
}
