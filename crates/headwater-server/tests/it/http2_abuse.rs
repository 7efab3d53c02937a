//! What a client may do over HTTP/2 to make the server work for nothing, each on a connection of
//! its own, and the reason for which that is closed. Look here for the known attacks:
//! CVE-2016-6581, CVE-2019-9511 to 9518, CVE-2023-44487, CVE-2024-27316, CVE-2025-8671.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use headwater_test_support::http2::{PREFACE, frame};
use headwater_test_support::{EventStream, Node, eventually, http as http1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::support::BINARY;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITIZED: u8 = 0x20;

/// Both flags of a whole request without body.
const WHOLE: u8 = END_HEADERS | END_STREAM;

/// How long a connection may stay open whose client does nothing but abuse it.
const CLOSED_WITHIN: Duration = Duration::from_secs(10);

/// What all of them together may cost.
const MEMORY_BYTES_MAX: u64 = 24 << 20;

/// Where floods come from, which is not where other clients are.
const FLOODING: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), 0);

/// What a client sends once, and then again and again until the connection is closed.
struct Abuse {
    name: &'static str,
    begin: Vec<u8>,
    /// The argument is a stream that is not open yet.
    repeat: fn(u32) -> Vec<u8>,
    reason: &'static str,
}

/// A header block by the tables of RFC 7541: method, http, an authority of one letter, a path.
fn head(method: u8, path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).expect("a short path");
    [&[method, 0x86, 0x01, 1, b'h', 0x04, length][..], path.as_bytes()].concat()
}

fn get() -> Vec<u8> {
    head(0x82, "/sse/stream")
}

fn post() -> Vec<u8> {
    head(0x83, "/sse/publish")
}

fn nothing(_: u32) -> Vec<u8> {
    Vec::new()
}

/// A stream that is opened, and a frame about it.
fn opened(id: u32, kind: u8, content: &[u8]) -> Vec<u8> {
    [frame(HEADERS, WHOLE, id, &get()), frame(kind, 0, id, content)].concat()
}

/// Frames that carry no part of a request.
fn floods() -> Vec<Abuse> {
    let flood = |name, begin, repeat| Abuse { name, begin, repeat, reason: "flood" };
    let publish = frame(HEADERS, END_HEADERS, 1, &post());
    let half = frame(HEADERS, END_STREAM, 1, &get());
    vec![
        flood("PING", vec![], |_| frame(PING, 0, 0, &[0; 8])),
        flood("SETTINGS", vec![], |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])),
        flood("WINDOW_UPDATE", vec![], |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        flood("PRIORITY", vec![], |_| frame(PRIORITY, 0, 1, &[0; 5])),
        flood("unknown frames", vec![], |_| frame(99, 0, 0, &[])),
        flood("empty DATA", publish.clone(), |_| frame(DATA, 0, 1, &[])),
        flood("DATA of padding", publish, |_| frame(DATA, PADDED, 1, &[0])),
        flood("CONTINUATION", half.clone(), |_| frame(CONTINUATION, 0, 1, &[0, 1, b'x', 1, b'y'])),
        flood("empty CONTINUATION", half, |_| frame(CONTINUATION, 0, 1, &[])),
    ]
}

/// Requests that are taken back, that the client makes the server reset, or that it never accepts.
fn resets() -> Vec<Abuse> {
    let flood = |name, repeat| Abuse { name, begin: vec![], repeat, reason: "flood" };
    vec![
        flood("rapid reset", |id| opened(id, RST_STREAM, &8_u32.to_be_bytes())),
        flood("window overflow", |id| opened(id, WINDOW_UPDATE, &0x7fff_ffff_u32.to_be_bytes())),
        flood("a stream that depends on itself", |id| {
            let dependency = [&id.to_be_bytes()[..], &[0], &get()].concat();
            frame(HEADERS, WHOLE | PRIORITIZED, id, &dependency)
        }),
        flood("PRIORITY on itself", |id| {
            opened(id, PRIORITY, &[&id.to_be_bytes()[..], &[0]].concat())
        }),
        flood("more body than announced", |id| {
            let length = [&post()[..], &[0x0f, 0x0d, 1, b'1']].concat();
            let begin = frame(HEADERS, END_HEADERS, id, &length);
            [begin, frame(DATA, 0, id, b"xx")].concat()
        }),
        flood("heads without a method", |id| frame(HEADERS, WHOLE, id, &[0x86])),
        flood("empty heads", |id| frame(HEADERS, WHOLE, id, &[])),
        flood("a second method in a head", |id| {
            [frame(HEADERS, END_STREAM, id, &get()), frame(CONTINUATION, 0, id, &[0x82])].concat()
        }),
        flood("more streams than allowed", |id| frame(HEADERS, WHOLE, id, &get())),
        flood("headers that grow when they are unpacked", |id| {
            // A value of 3,000 bytes (127, and 2,873 in groups of seven bits) that is kept, and is
            // then repeated with a byte each.
            let kept = [&[0x40, 1, b'x', 0x7f, 0xb9, 0x16][..], &[b'y'; 3_000]].concat();
            frame(HEADERS, WHOLE, id, &[get(), kept, vec![0xbe; 10_000]].concat())
        }),
    ]
}

/// What the protocol forbids.
fn violations() -> Vec<Abuse> {
    let error = |name, repeat| Abuse { name, begin: vec![], repeat, reason: "protocol-error" };
    vec![
        error("WINDOW_UPDATE of 0", |id| opened(id, WINDOW_UPDATE, &[0; 4])),
        error("a frame that is too long", |id| frame(HEADERS, WHOLE, id, &[0x82; 17_000])),
        error("a RST_STREAM that is too short", |id| opened(id, RST_STREAM, &[0])),
        error("DATA on a stream that is not open", |id| frame(DATA, 0, id, b"x")),
        error("DATA after the end", |id| opened(id, DATA, b"x")),
        error("HEADERS after the end", |id| {
            [frame(HEADERS, WHOLE, id, &get()), frame(HEADERS, WHOLE, id, &get())].concat()
        }),
        error("names in capitals", |id| {
            frame(HEADERS, WHOLE, id, &[&get()[..], &[0, 1, b'X', 1, b'y']].concat())
        }),
        error("fields without name", |id| {
            frame(HEADERS, WHOLE, id, &[&get()[..], &[0, 0, 0].repeat(3_000)].concat())
        }),
        error("PUSH_PROMISE", |id| opened(id, PUSH_PROMISE, &[0, 0, 0, 2])),
        error("a frame within a head", |id| {
            [frame(HEADERS, END_STREAM, id, &get()), frame(PING, 0, 0, &[0; 8])].concat()
        }),
    ]
}

/// What takes no work, but time.
fn waits() -> Vec<Abuse> {
    let no_window = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let asked = frame(HEADERS, WHOLE, 1, &head(0x82, "/sse/demo/info"));
    let half = frame(HEADERS, END_STREAM, 1, &get());
    let wait = |name, begin, reason| Abuse { name, begin, repeat: nothing, reason };
    vec![
        wait("half a head", half, "header-timeout"),
        wait("nothing", vec![], "header-timeout"),
        wait("an answer that is not taken", [no_window, asked].concat(), "stalled"),
    ]
}

/// Does it until the server closes the connection.
async fn abuse(node: &Node, Abuse { name, begin, repeat, reason }: Abuse) {
    let metric = format!("headwater_connections_closed_total{{reason=\"{reason}\"}}");
    let before = node.metric(&metric).await;
    let mut socket = TcpStream::connect(node.address()).await.expect("the server listens");
    let opening = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &begin].concat();
    socket.write_all(&opening).await.expect("it is sent");
    let (mut reading, mut writing) = socket.into_split();
    let sending = tokio::spawn(async move {
        for id in (1..).step_by(2) {
            let bytes = repeat(id);
            if bytes.is_empty() || writing.write_all(&bytes).await.is_err() {
                break;
            }
        }
        writing
    });
    let mut answers = Vec::new();
    let closed = timeout(CLOSED_WITHIN, reading.read_to_end(&mut answers)).await;
    assert!(closed.is_ok(), "{name}: open after {CLOSED_WITHIN:?}");
    sending.abort();
    let counted = async || node.metric(&metric).await > before;
    eventually(&format!("{name} is counted as {reason}"), counted).await;
}

/// Streams of other connections go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_cost_more_than_they_ask_for_are_closed() {
    let arguments = ["--header-timeout", "1s", "--send-timeout", "1s"];
    let node = Node::start_quiet(BINARY, &arguments);
    let mut other = EventStream::open(node.address(), "/sse/stream?channel=news").await;
    let memory = node.memory_bytes();
    for case in floods().into_iter().chain(resets()).chain(violations()).chain(waits()) {
        let name = case.name;
        abuse(&node, case).await;
        http1::post(node.address(), "/sse/publish?channel=news", name.as_bytes()).await;
        assert_eq!(other.next().await.expect("an open stream").data, name);
    }
    let grown = node.memory_bytes().saturating_sub(memory);
    assert!(grown <= MEMORY_BYTES_MAX, "{grown} bytes more");
    node.wait_for_metric("headwater_streams", 1.0).await;
}

/// A connection from an address of this machine that is not that of other clients.
async fn connect_from_flooding(node: &Node) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(FLOODING)?;
    socket.connect(node.address()).await
}

/// Floods once.
async fn flood(node: &Node) {
    let mut socket = connect_from_flooding(node).await.expect("the server listens");
    let pings = frame(PING, 0, 0, &[0; 8]).repeat(2_000);
    let opening = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &pings].concat();
    let _ = socket.write_all(&opening).await;
    let mut answers = Vec::new();
    let closed = socket.read_to_end(&mut answers);
    assert!(timeout(CLOSED_WITHIN, closed).await.is_ok(), "it is closed");
}

/// How many of so many connections at once get an answer, and how long that takes.
async fn ask<F: Future<Output = io::Result<TcpStream>>>(
    count: usize,
    connect: impl Fn() -> F,
) -> (usize, Duration) {
    let asked = Instant::now();
    let request = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let answers = join_all((0..count).map(|_| async {
        let mut socket = connect().await?;
        socket.write_all(request).await?;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await?;
        io::Result::Ok(answer)
    }));
    let is_answer = |answer: &Vec<u8>| answer.starts_with(b"HTTP/1.1 200");
    let answered = answers.await.into_iter().flatten().filter(is_answer).count();
    (answered, asked.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_connections_of_an_address_that_floods_wait_and_others_do_not() {
    let node = Node::start_quiet(BINARY, &[]);
    let mut open = connect_from_flooding(&node).await.expect("the server listens");
    join_all((0..40).map(|_| flood(&node))).await;
    let (answered, late) = ask(60, || connect_from_flooding(&node)).await;
    assert_eq!(answered, 60, "late, and not locked out");
    let (answered, took) = ask(20, || TcpStream::connect(node.address())).await;
    assert_eq!(answered, 20);
    assert!(took < late / 2, "others wait {took:?} of {late:?}");
    // One that was open before does not wait.
    let asked = Instant::now();
    let request = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n";
    open.write_all(request).await.expect("it is open");
    let mut answer = [0; 12];
    open.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200");
    assert!(asked.elapsed() < late / 2, "an open connection waits {:?}", asked.elapsed());
    // The line has an end.
    let (answered, _) = ask(200, || connect_from_flooding(&node)).await;
    let metric = "headwater_connections_closed_total{reason=\"flooding-address\"}";
    assert!((20..180).contains(&answered), "{answered} of 200");
    assert!(node.metric(metric).await >= 20.0);
}
