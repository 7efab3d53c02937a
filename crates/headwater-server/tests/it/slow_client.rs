//! One client that never reads among 100 that do, and 200 MB for each. Look here for the bound on a
//! node's memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use headwater::limits;
use headwater_test_support::http::{Chunks, parse_head};
use headwater_test_support::{EventStream, Node, PATIENCE, http};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::BINARY;

const HEALTHY: usize = 100;
const EVENTS: usize = 2000;
const EVENT_BYTES: usize = 100_000;
const QUEUE_BYTES: usize = 1 << 20;

/// How far the publisher may be ahead of the slowest healthy client: half of a stream's queue.
const AHEAD_MAX: usize = QUEUE_BYTES / 2 / EVENT_BYTES;

/// How much freed memory the allocator may keep. Chosen from what was measured, up to 2 MiB.
const ALLOCATOR_BYTES: usize = 4 << 20;

/// What a node may hold beyond what it held with all streams open and nothing published. Frames are
/// shared, so all streams together hold the frames of one full queue, however far each is behind;
/// and each connection holds what hyper took for its socket, the largest frame or 64 KiB of small
/// ones. Those are shared too, but a bound that needs no luck counts them. The channel's history
/// and its recent frames are there whatever subscribes. The allocator keeps some of what was freed.
const MEMORY_BYTES_MAX: u64 = (QUEUE_BYTES
    + ALLOCATOR_BYTES
    + (HEALTHY + 1) * (EVENT_BYTES + (64 << 10))
    + limits::RETENTION_BYTES_DEFAULT
    + limits::RING_BYTES_MAX) as u64;

/// A client that only counts: it reads the number at the beginning of each event, and how many
/// bytes of data there were.
#[derive(Default)]
struct Counter {
    chunks: Chunks,
    scan: Scan,
}

#[derive(Default)]
struct Scan {
    /// The beginning of a line, as long as it may hold a number.
    start: Vec<u8>,
    line_bytes: usize,
    events: usize,
}

const PREFIX: &[u8] = b"data: ";
const DIGITS: usize = 6;

impl Scan {
    fn push(&mut self, mut content: &[u8]) {
        while !content.is_empty() {
            let end = memchr::memchr(b'\n', content);
            let line = &content[..end.unwrap_or(content.len())];
            let room = (PREFIX.len() + DIGITS).saturating_sub(self.start.len());
            self.start.extend_from_slice(&line[..line.len().min(room)]);
            self.line_bytes += line.len();
            let Some(end) = end else { return };
            self.line();
            content = &content[end + 1..];
        }
    }

    fn line(&mut self) {
        if let Some(digits) = self.start.strip_prefix(PREFIX) {
            let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
            assert_eq!(number, Some(self.events), "events come once and in order");
            assert_eq!(self.line_bytes, PREFIX.len() + EVENT_BYTES);
            self.events += 1;
        }
        self.start.clear();
        self.line_bytes = 0;
    }
}

/// Reads all events, and says after each how many there were.
async fn count_events(
    mut socket: TcpStream,
    progress: Arc<Vec<AtomicUsize>>,
    index: usize,
) -> TcpStream {
    let mut counter = Counter::default();
    let mut buffer = vec![0; 256 << 10];
    while counter.scan.events < EVENTS {
        let read = timeout(PATIENCE, socket.read(&mut buffer)).await;
        let read = read.expect("the next event in time").expect("the stream is open");
        assert_ne!(read, 0, "stream {index} ended after {} events", counter.scan.events);
        let scan = &mut counter.scan;
        counter.chunks.push(&buffer[..read], |content| scan.push(content));
        progress[index].store(counter.scan.events, Ordering::Release);
    }
    socket
}

/// Opens a stream and takes its head off.
async fn open(node: &Node) -> TcpStream {
    let mut socket = TcpStream::connect(node.address()).await.expect("the server listens");
    let request = "GET /sse/stream?channel=news HTTP/1.1\r\nhost: localhost\r\n\r\n";
    socket.write_all(request.as_bytes()).await.expect("the request is sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, socket.read_u8()).await.expect("in time").expect("a head"));
    }
    assert_eq!(parse_head(&head).0, 200);
    socket
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_costs_the_others_nothing() {
    let node = Node::start_quiet(BINARY, &["--send-timeout", "2s", "--queue-bytes", "1MiB"]);
    let path = "/sse/stream?channel=news";
    let stalled = EventStream::open_with(node.address(), path, &[], Some(4096)).await;
    let progress: Arc<Vec<_>> = Arc::new((0..HEALTHY).map(|_| AtomicUsize::new(0)).collect());
    let mut healthy = tokio::task::JoinSet::new();
    for index in 0..HEALTHY {
        healthy.spawn(count_events(open(&node).await, Arc::clone(&progress), index));
    }
    node.wait_for_metric("headwater_streams", 101.0).await;

    let baseline = node.memory_bytes();
    let (mut highest, mut finished) = (baseline, Vec::new());
    let begin = Instant::now();
    let filler = "x".repeat(EVENT_BYTES - DIGITS);
    for number in 0..EVENTS {
        let data = format!("{number:0DIGITS$}{filler}");
        let answer = http::post(node.address(), "/sse/publish?channel=news", data.as_bytes()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        highest = highest.max(node.memory_bytes());
        while slowest(&progress) + AHEAD_MAX <= number {
            if let Some(ended) = healthy.try_join_next() {
                // Its stream stays open.
                finished.push(ended.expect("a healthy client gets everything"));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    finished.extend(healthy.join_all().await);
    let lasted = begin.elapsed();
    highest = highest.max(node.memory_bytes());
    println!(
        "{EVENTS} events of {EVENT_BYTES} bytes to {HEALTHY} streams in {lasted:?}; memory {} MiB \
         before, {} MiB at most, {} MiB more are allowed",
        baseline >> 20,
        highest >> 20,
        MEMORY_BYTES_MAX >> 20
    );
    assert!(
        highest <= baseline + MEMORY_BYTES_MAX,
        "{baseline} bytes before, {highest} at most, {MEMORY_BYTES_MAX} more are allowed"
    );

    // The full queue or the silent socket, whichever was noticed first; and its connection is
    // closed.
    node.wait_for_metric("headwater_streams", 100.0).await;
    let overflow = node.metric("headwater_streams_ended_total{reason=\"overflow\"}").await;
    let silent = node.metric("headwater_streams_ended_total{reason=\"stalled\"}").await;
    assert!((overflow + silent - 1.0).abs() < f64::EPSILON, "{overflow} and {silent}");
    node.wait_for_log("client too slow");
    drop((finished, stalled));
}

fn slowest(progress: &[AtomicUsize]) -> usize {
    progress.iter().map(|events| events.load(Ordering::Acquire)).min().unwrap_or_default()
}

/// Clients that replay an event of maximum size share its bytes, however slowly they read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_replay_a_large_event_and_do_not_read_share_its_memory() {
    let node = Node::start_quiet(BINARY, &[]);
    let data = vec![b'x'; limits::EVENT_DATA_BYTES_MAX];
    let answer = http::post(node.address(), "/sse/publish?channel=large", &data).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let baseline = node.memory_bytes();
    let path = "/sse/stream?channel=large&rewind=all";
    let mut streams = Vec::new();
    for _ in 0..30 {
        streams.push(EventStream::open_with(node.address(), path, &[], Some(4096)).await);
    }
    node.wait_for_metric("headwater_streams", 30.0).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let more = node.memory_bytes().saturating_sub(baseline);
    let allowed = 3 * limits::EVENT_DATA_BYTES_MAX as u64;
    assert!(more <= allowed, "{} MiB more, {} are allowed", more >> 20, allowed >> 20);
}
