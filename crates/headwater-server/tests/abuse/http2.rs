//! Abuse over HTTP/2, with frames made by hand: rapid reset, CONTINUATION without an end, headers
//! that grow when they are unpacked, pings and settings. Source of the frames: RFC 9113, section 6;
//! of the headers: RFC 7541.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use headwater_test_support::http2::{PREFACE, frame};
use headwater_test_support::{Node, PATIENCE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::{BINARY, FLOOR_BUSY, alone, connect, until_closed, withstand};

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// ENHANCE_YOUR_CALM: what a server says to one that asks for too much.
const CALM: u32 = 11;

/// `GET /sse/stream`, scheme http, authority h.
fn get_stream() -> Vec<u8> {
    let path = b"/sse/stream";
    let length = u8::try_from(path.len()).expect("it fits");
    [&[0x82, 0x86, 0x41, 1, b'h', 0x44, length][..], path].concat()
}

/// A connection after the preface and empty settings.
async fn open(address: SocketAddr) -> TcpStream {
    let mut socket = connect(address).await;
    socket.set_nodelay(true).expect("it can be set");
    let opening = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    socket.write_all(&opening).await.expect("it is sent");
    socket
}

/// The error code of the last GOAWAY, if there was one.
fn goaway(mut bytes: &[u8]) -> Option<u32> {
    let mut code = None;
    while let Some((head, rest)) = bytes.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (content, rest) = rest.split_at_checked(length)?;
        if head[3] == GOAWAY {
            let digits = content.get(4..8).and_then(|digits| digits.try_into().ok());
            code = digits.map(u32::from_be_bytes).or(code);
        }
        bytes = rest;
    }
    code
}

/// Sends without an end and reads what comes, until the server closes.
async fn flood(socket: TcpStream, mut next: impl FnMut() -> Vec<u8>, sent: &AtomicU64) -> Vec<u8> {
    let (mut reading, mut writing) = socket.into_split();
    let read = async {
        let mut bytes = Vec::new();
        let _ = reading.read_to_end(&mut bytes).await;
        bytes
    };
    let write = async {
        while writing.write_all(&next()).await.is_ok() {
            sent.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
        // What the server said last is still to be read.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        bytes = read => bytes,
        () = write => Vec::new(),
    }
}

/// Many streams, each taken back at once.
fn rapid_resets(first: &mut u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..50 {
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, *first, &get_stream()));
        bytes.extend(frame(RST_STREAM, 0, *first, &8_u32.to_be_bytes()));
        *first += 2;
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_reset() {
    let _alone = alone().await;
    let node = Node::start_quiet(BINARY, &[]);
    let address = node.address();
    let mut first = 1;
    let sent = AtomicU64::new(0);
    let flooded = flood(open(address).await, || rapid_resets(&mut first), &sent);
    let said = timeout(PATIENCE, flooded).await.expect("the server closes");
    assert_eq!(goaway(&said), Some(CALM), "after {sent:?} times 50 streams");
    let attack = |blows: Arc<AtomicU64>| async move {
        loop {
            let mut first = 1;
            flood(open(address).await, || rapid_resets(&mut first), &blows).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    withstand("rapid reset", &node, address, 4, 16 << 20, FLOOR_BUSY, attack).await;
    node.wait_for_metric("headwater_streams", 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn continuation_without_an_end() {
    let _alone = alone().await;
    let node = Node::start_quiet(BINARY, &[]);
    let address = node.address();
    // A literal header of 100 bytes that is not added to the table, many times over.
    let header = [&[0x00, 1, b'x', 100][..], &[b'y'; 100]].concat();
    let more = frame(CONTINUATION, 0, 1, &header.repeat(100));
    let begin = frame(HEADERS, END_STREAM, 1, &get_stream());
    let mut socket = open(address).await;
    socket.write_all(&begin).await.expect("it is sent");
    let sent = AtomicU64::new(0);
    timeout(PATIENCE, flood(socket, || more.clone(), &sent)).await.expect("the server closes");
    let sent = sent.into_inner();
    println!("CONTINUATION: closed after {sent} frames of {} bytes", more.len());
    // What the kernel takes comes on top of what the server reads.
    assert!(sent < 1_000, "{sent}");
    let attack = |blows: Arc<AtomicU64>| {
        let (begin, more) = (begin.clone(), more.clone());
        async move {
            loop {
                let mut socket = open(address).await;
                socket.write_all(&begin).await.expect("it is sent");
                flood(socket, || more.clone(), &blows).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    withstand("CONTINUATION", &node, address, 4, 16 << 20, FLOOR_BUSY, attack).await;
}

/// One large header is added to the table, and referenced again and again with one byte each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_grow_when_they_are_unpacked() {
    let _alone = alone().await;
    let node = Node::start_quiet(BINARY, &[]);
    let address = node.address();
    // 0x40: keep it; a value of 3,000 bytes: 127, and 2,873 in groups of seven bits.
    let kept = [&[0x40, 1, b'x', 0x7f, 0xb9, 0x16][..], &[b'y'; 3_000]].concat();
    let bomb = [get_stream(), kept, vec![0xbe; 10_000]].concat();
    let bomb = move |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &bomb);
    // 30 MB if it were decompressed: rejected, or the connection is closed.
    let mut socket = open(address).await;
    socket.write_all(&bomb(1)).await.expect("it is sent");
    let mut answer = Vec::new();
    timeout(PATIENCE, async {
        while !answer.windows(3).any(|three| three == b"431")
            && !answer.windows(4).any(|four| four == [0, 0, 0, 1])
            && socket.read_buf(&mut answer).await.is_ok_and(|read| read > 0)
        {}
    })
    .await
    .expect("an answer or an end");
    let attack = |blows: Arc<AtomicU64>| {
        let bomb = bomb.clone();
        async move {
            loop {
                let mut stream = 1;
                let next = || {
                    stream += 2;
                    bomb(stream - 2)
                };
                flood(open(address).await, next, &blows).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    withstand("header bombs", &node, address, 2, 32 << 20, FLOOR_BUSY, attack).await;
}

/// Frames that want an answer, from a client that reads none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_and_settings_whose_acknowledgements_are_not_read() {
    let _alone = alone().await;
    let node = Node::start_quiet(BINARY, &["--send-timeout", "2s"]);
    let address = node.address();
    let attack = |blows: Arc<AtomicU64>| async move {
        let frames = [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &[])].concat().repeat(100);
        loop {
            let mut socket = open(address).await;
            while socket.write_all(&frames).await.is_ok() {
                blows.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
            until_closed(&mut socket).await;
        }
    };
    withstand("pings", &node, address, 4, 16 << 20, FLOOR_BUSY, attack).await;
}
