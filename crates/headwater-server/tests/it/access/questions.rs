//! How much the application is asked at a time, and for whom: clients that leave, strangers, and
//! those that ask more than others. Look here for what keeps users from being answered.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use headwater_test_support::{Node, eventually, http};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::BINARY;
use crate::support::backend::{Backend, json};

const BEHIND_A_PROXY: [&str; 4] =
    ["--trusted-proxy", "127.0.0.1", "--client-address-header", "X-Forwarded-For"];

/// Most questions in flight, by docs/access/authorize-url.md.
const QUESTIONS_MAX: usize = 32;

/// An application that takes its time, and a node that asks it.
async fn slow(answers_after: Duration, timeout: &str) -> (Backend, Node) {
    let backend = Backend::start("").await;
    backend.answer_with(&json("{}"), answers_after);
    let url = backend.url("/");
    let arguments = ["--authorize-url", &url, "--authorize-timeout", timeout];
    let node = Node::start(BINARY, &[&arguments[..], &BEHIND_A_PROXY].concat());
    (backend, node)
}

/// The status of a stream, and how long it took; without cookie for a stranger.
async fn ask(node: &Node, from: &str, cookie: Option<&str>, channel: &str) -> (u16, Duration) {
    let began = Instant::now();
    let mut headers = vec![("x-forwarded-for", from)];
    headers.extend(cookie.map(|cookie| ("cookie", cookie)));
    let path = format!("/sse/stream?channel={channel}");
    let answer = http::request(node.address(), "HEAD", &path, &headers, b"").await;
    (answer.status, began.elapsed())
}

#[tokio::test]
async fn a_question_counts_until_it_is_answered() {
    // Clients that leave at once, and clients that are denied before the answer has come.
    for (timeout, stays) in [("10s", false), ("100ms", true)] {
        let (backend, node) = slow(Duration::from_secs(2), timeout).await;
        let node = &node;
        let ask_and_leave = async |number: usize| {
            let mut socket = TcpStream::connect(node.address()).await.expect("it listens");
            let head = format!(
                "GET /sse/stream?channel=a HTTP/1.1\r\nhost: a\r\nx-forwarded-for: \
                 192.0.2.{number}\r\ncookie: a={number}\r\n\r\n"
            );
            socket.write_all(head.as_bytes()).await.expect("it is sent");
            if stays {
                http::read_answer(&mut socket).await.problem(503);
            } else {
                // It must have arrived, or there would be nothing to abandon.
                tokio::time::timeout(Duration::from_millis(50), socket.readable()).await.ok();
            }
        };
        join_all((0..100).map(ask_and_leave)).await;
        eventually("questions", || async { backend.most_at_once() > 4 }).await;
        // Those that were asked instead of them would be at work by now.
        join_all((100..150).map(ask_and_leave)).await;
        let at_once = backend.most_at_once();
        assert!(at_once <= QUESTIONS_MAX, "{at_once} at once with {timeout}");
    }
}

/// Who asks too much: the address of each request, and whether it has a cookie.
type Greedy = (&'static str, fn(usize) -> String, bool);

#[tokio::test]
async fn nobody_keeps_others_waiting_for_the_application() {
    let (backend, node) = slow(Duration::from_millis(400), "10s").await;
    let node = &node;
    let greedy: [Greedy; 4] = [
        ("a stranger", |_| "192.0.2.1".into(), false),
        ("many strangers", |it| format!("192.0.{it}.1"), false),
        ("one address with cookies", |_| "192.0.2.2".into(), true),
        ("one network of IPv6 with cookies", |it| format!("2001:db8:1:1::{it}"), true),
    ];
    for (number, (who, address, has_cookie)) in greedy.into_iter().enumerate() {
        let flood = join_all((0..60).map(|it| async move {
            let cookie = has_cookie.then(|| format!("a={number}-{it}"));
            let channel = format!("x{number}-{it}");
            ask(node, &address(it), cookie.as_deref(), &channel).await
        }));
        let before = backend.requests().len();
        let users = async {
            eventually("the flood", || async { backend.requests().len() >= before + 4 }).await;
            let user = async |it: usize| {
                let cookie = format!("user={number}-{it}");
                ask(node, &format!("198.51.100.{it}"), Some(&cookie), "a").await
            };
            join_all((0..6).map(user)).await
        };
        let (flood, users) = tokio::join!(flood, users);
        for (status, took) in users {
            assert_eq!(status, 200, "beside {who}");
            assert!(took < Duration::from_millis(1_600), "{took:?} beside {who}");
        }
        let longest = flood.iter().map(|(_, took)| *took).max().expect("some");
        assert!(longest > Duration::from_millis(1_600), "{who} waits for itself: {longest:?}");
    }
    assert!(backend.most_at_once() <= QUESTIONS_MAX);
}
