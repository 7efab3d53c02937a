//! Limits of clients: streams in all and per address, publishing by rate. Look here for what a
//! client sees at a limit; connections.rs has the limits of one connection.

use std::time::{Duration, Instant};

use headwater::event::Item;
use headwater_test_support::stream::End;
use headwater_test_support::{EventStream, Node, http};

use crate::support::BINARY;

const PATH: &str = "/sse/stream?channel=news";

/// Headers of a client at this address, behind a proxy that is trusted.
fn of(address: &str) -> [(&str, &str); 1] {
    [("x-forwarded-for", address)]
}

const BEHIND_A_PROXY: [&str; 5] =
    ["--open", "--trusted-proxy", "127.0.0.1", "--client-address-header", "X-Forwarded-For"];

#[tokio::test]
async fn the_streams_of_an_address_are_limited_and_stay_open() {
    let node =
        Node::start(BINARY, &[&BEHIND_A_PROXY[..], &["--max-streams-per-address", "2"]].concat());
    let open =
        async |address| EventStream::open_with(node.address(), PATH, &of(address), None).await;
    let mut first = open("192.0.2.1").await;
    let second = open("192.0.2.1").await;
    let refused = http::request(node.address(), "GET", PATH, &of("192.0.2.1"), b"").await;
    assert!(refused.problem(429).contains("too many streams from this address"));
    assert_eq!(refused.header("retry-after"), Some("10"));
    // Others notice nothing, and one IPv6 network is one address.
    let mut other = open("192.0.2.2").await;
    let _six = [open("2001:db8::1").await, open("2001:db8::2").await];
    let refused = http::request(node.address(), "GET", PATH, &of("2001:db8::3"), b"").await;
    assert_eq!(refused.status, 429);
    open("2001:db8:0:1::1").await;

    http::post(node.address(), "/sse/publish?channel=news", b"x").await;
    for stream in [&mut first, &mut other] {
        assert_eq!(stream.next().await.expect("an old stream stays").data, "x");
    }
    drop(second);
    headwater_test_support::eventually("there is room again", || async {
        open("192.0.2.1").await.status == 200
    })
    .await;
    let refusals = "headwater_refusals_total{reason=\"streams-per-address\"}";
    assert!(node.metric(refusals).await >= 2.0);
}

#[tokio::test]
async fn a_full_server_answers_with_retry_after() {
    let node = Node::start(BINARY, &["--max-streams", "2"]);
    let mut first = EventStream::open(node.address(), PATH).await;
    let second = EventStream::open(node.address(), PATH).await;
    // An EventSource would not reconnect after any other status.
    let mut third = EventStream::open(node.address(), PATH).await;
    let Ok(Item::Retry(retry)) = third.next_item().await else { panic!("it gets a delay") };
    assert!((10_000..=15_000).contains(&retry.as_millis()), "{retry:?}");
    assert_eq!(third.end().await, End::Clean);
    node.wait_for_metric("headwater_refusals_total{reason=\"streams\"}", 1.0).await;
    node.wait_for_log("max-streams reached");
    http::post(node.address(), "/sse/publish?channel=news", b"x").await;
    assert_eq!(first.next().await.expect("an old stream stays").data, "x");
    drop(second);
    node.wait_for_metric("headwater_streams", 1.0).await;
    let mut again = EventStream::open(node.address(), PATH).await;
    http::post(node.address(), "/sse/publish?channel=news", b"y").await;
    assert_eq!(again.next().await.expect("the stream is open").data, "y");
}

#[tokio::test]
async fn publishing_too_fast_gets_429_with_retry_after() {
    let node = Node::start(
        BINARY,
        &[&BEHIND_A_PROXY[..], &["--max-publishes-per-address", "5/s"]].concat(),
    );
    let publish = async |address, path, body: &'static [u8]| {
        http::request(node.address(), "POST", path, &of(address), body).await
    };
    let path = "/sse/publish?channel=news";
    let begin = Instant::now();
    let mut taken = 0;
    let refused = loop {
        let answer = publish("192.0.2.1", path, b"x").await;
        if answer.status != 200 {
            break answer;
        }
        taken += 1;
        assert!(taken < 1_000, "nothing is refused");
    };
    let allowed = 5.0 + 5.0 * begin.elapsed().as_secs_f64();
    assert!((5.0..=allowed).contains(&f64::from(taken)), "{taken} of {allowed}");
    assert!(refused.problem(429).contains("publish more slowly"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(publish("192.0.2.2", path, b"x").await.status, 200, "others notice nothing");

    // Every channel counts: this is far beyond the rate, goes through once, and is paid for.
    let many: Vec<String> = (0..50).map(|number| format!("channel=c{number}")).collect();
    let many = format!("/sse/publish?{}", many.join("&"));
    assert_eq!(publish("192.0.2.3", &many, b"x").await.status, 200);
    let refused = publish("192.0.2.3", path, b"x").await;
    assert_eq!(refused.status, 429);
    let wait: u64 = refused.header("retry-after").expect("when").parse().expect("seconds");
    assert!((7..=10).contains(&wait), "{wait}");

    // It goes on by itself.
    headwater_test_support::eventually("the first may go on", || async {
        publish("192.0.2.1", path, b"x").await.status == 200
    })
    .await;
    assert!(begin.elapsed() > Duration::from_millis(150));
    let refusals = "headwater_refusals_total{reason=\"publishes-per-address\"}";
    assert!(node.metric(refusals).await >= 2.0);
}
