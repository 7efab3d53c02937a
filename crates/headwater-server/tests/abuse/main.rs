//! Malicious clients, next to streams that must not notice. A test binary of its own, so
//! that its load disturbs no test that measures times, and one test at a time.
//! HEADWATER_TEST_FULL=1 measures longer.
//!
//! Each test prints what it measured: `cargo test -p headwater-server --test abuse -- --nocapture`.

mod http1;
mod http2;
mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use headwater_test_support::{EventStream, Node, PATIENCE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::sync::{Mutex, MutexGuard, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

const BINARY: &str = env!("CARGO_BIN_EXE_headwater");

/// Streams that mean well.
const HEALTHY: usize = 20;

/// How often one of their events is published.
const PACE: Duration = Duration::from_millis(5);

/// Events of one window. What the machine does beside the test disturbs some windows, and an attack
/// that works all of them: the median of their p99s counts.
const WINDOW_EVENTS: usize = 100;

/// A delivery may take this long whatever it took before. Measured on two cores that six programs
/// shared: 8 ms at most.
const FLOOR: Duration = Duration::from_millis(10);

/// The same beside attackers that keep a core of that machine busy themselves. Measured there: 2 to
/// 20 ms, and more in one round of twenty. Without what holds attackers back it takes seconds.
const FLOOR_BUSY: Duration = Duration::from_millis(20);

/// Other programs disturb a measurement now and then; an attack that works does so every time.
const ROUNDS_MAX: usize = 3;

/// What an allocator may keep of what was given back to it, and what healthy streams need
/// themselves.
const MEMORY_NOISE_BYTES: u64 = 8 << 20;

/// Whether the tests are to run in their full length.
fn is_full() -> bool {
    std::env::var("HEADWATER_TEST_FULL").is_ok_and(|full| full == "1")
}

/// One at a time: each measures.
async fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

/// What healthy streams saw.
struct Seen {
    p50: Duration,
    /// Of each window, the smallest first.
    p99s: Vec<Duration>,
}

impl Seen {
    /// From the delays of the events, for each stream.
    fn of(streams: &[Vec<Duration>]) -> Self {
        let at = |mut delays: Vec<Duration>, percent: usize| {
            delays.sort_unstable();
            delays[(delays.len() - 1) * percent / 100]
        };
        let windows = streams[0].len() / WINDOW_EVENTS;
        let mut p99s: Vec<Duration> = (0..windows)
            .map(|window| {
                let events = window * WINDOW_EVENTS..(window + 1) * WINDOW_EVENTS;
                at(streams.iter().flat_map(|delays| &delays[events.clone()]).copied().collect(), 99)
            })
            .collect();
        p99s.sort_unstable();
        Self { p50: at(streams.concat(), 50), p99s }
    }

    fn p99(&self) -> Duration {
        self.p99s[self.p99s.len() / 2]
    }
}

/// Healthy streams and their publisher, on a thread of their own, so that attackers in this process
/// do not keep them waiting.
struct Healthy {
    address: SocketAddr,
}

impl Healthy {
    /// Opens streams, publishes for so many windows, and says how long deliveries took. All must
    /// arrive.
    async fn measure(&self, windows: usize) -> Seen {
        let address = self.address;
        let (done, seen) = oneshot::channel();
        std::thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            let seen = runtime.expect("a runtime").block_on(measure(address, windows));
            let _ = done.send(seen);
        });
        seen.await.expect("the measurement is not cut short")
    }
}

async fn measure(address: SocketAddr, windows: usize) -> Seen {
    let begin = Instant::now();
    let mut streams = Vec::new();
    for _ in 0..HEALTHY {
        streams.push(EventStream::open(address, "/sse/stream?channel=healthy").await);
    }
    let count = windows * WINDOW_EVENTS;
    let mut readers = JoinSet::new();
    for mut stream in streams {
        readers.spawn(async move {
            let mut delays = Vec::new();
            for _ in 0..count {
                let event = stream.next().await.expect("the stream is open");
                let sent: u64 = event.data.parse().expect("a time");
                delays.push(begin.elapsed().saturating_sub(Duration::from_nanos(sent)));
            }
            delays
        });
    }
    let mut socket = TcpStream::connect(address).await.expect("the server listens");
    socket.set_nodelay(true).expect("it can be set");
    let mut pace = tokio::time::interval(PACE);
    for _ in 0..count {
        pace.tick().await;
        publish(&mut socket, &begin.elapsed().as_nanos().to_string()).await;
    }
    Seen::of(&readers.join_all().await)
}

/// Publishes on a connection that stays.
async fn publish(socket: &mut TcpStream, data: &str) {
    let request = format!(
        "POST /sse/publish?channel=healthy HTTP/1.1\r\nhost: [::1]\r\n\
            content-length: {}\r\n\r\n{data}",
        data.len()
    );
    socket.write_all(request.as_bytes()).await.expect("it is sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") {
        let read =
            timeout(PATIENCE, socket.read_buf(&mut answer)).await.expect("an answer in time");
        assert_ne!(read.expect("an answer"), 0, "{}", String::from_utf8_lossy(&answer));
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

/// Measures healthy streams without and with an attack, and the memory of the node: their p99 may
/// double, or be `floor`. `attack` is started once for every attacker, and dropped when the
/// measurement is over; it says how often it did what it does.
async fn withstand<F>(
    name: &str,
    node: &Node,
    healthy_at: SocketAddr,
    attackers: usize,
    memory_bytes_max: u64,
    floor: Duration,
    attack: impl Fn(Arc<AtomicU64>) -> F,
) -> u64
where
    F: Future<Output = ()> + Send + 'static,
{
    let windows = if is_full() { 25 } else { 5 };
    let mut rounds = 0;
    loop {
        rounds += 1;
        let round = compare(node, healthy_at, attackers, windows, &attack).await;
        let Round { calm, attacked, grown_bytes, blows } = &round;
        println!(
            "{name}: {attackers} attackers, {blows} blows; calm p50 {:.1?} p99 {:.1?}, attacked \
             p50 {:.1?} p99 {:.1?}; memory +{} KiB",
            calm.p50,
            calm.p99s,
            attacked.p50,
            attacked.p99s,
            grown_bytes >> 10
        );
        let allowed = memory_bytes_max + MEMORY_NOISE_BYTES;
        assert!(*grown_bytes <= allowed, "{name}: {grown_bytes} bytes more, allowed {allowed}");
        let allowed = (2 * calm.p99()).max(floor);
        if attacked.p99() <= allowed {
            return *blows;
        }
        assert!(rounds < ROUNDS_MAX, "{name}: p99 {:?}, allowed {allowed:?}", attacked.p99());
    }
}

struct Round {
    calm: Seen,
    attacked: Seen,
    grown_bytes: u64,
    blows: u64,
}

async fn compare<F>(
    node: &Node,
    healthy_at: SocketAddr,
    attackers: usize,
    windows: usize,
    attack: impl Fn(Arc<AtomicU64>) -> F,
) -> Round
where
    F: Future<Output = ()> + Send + 'static,
{
    let healthy = Healthy { address: healthy_at };
    let calm = healthy.measure(windows).await;
    let memory = node.memory_bytes();
    let blows = Arc::new(AtomicU64::new(0));
    let mut attacks = JoinSet::new();
    for _ in 0..attackers {
        attacks.spawn(attack(Arc::clone(&blows)));
    }
    headwater_test_support::eventually("the attack has begun", || async {
        blows.load(Ordering::Relaxed) >= u64::try_from(attackers).expect("a count")
    })
    .await;
    let attacked = healthy.measure(windows).await;
    let grown_bytes = node.memory_bytes().saturating_sub(memory);
    attacks.shutdown().await;
    Round { calm, attacked, grown_bytes, blows: blows.load(Ordering::Relaxed) }
}

/// A connection, which the server may not accept in time when it is busy with others.
async fn connect(address: SocketAddr) -> TcpStream {
    let connected = timeout(PATIENCE, TcpStream::connect(address)).await;
    connected.expect("a connection in time").expect("the server listens")
}

/// Reads until the server closes.
async fn until_closed(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is an end too.
    let _ = socket.read_to_end(&mut bytes).await;
    bytes
}
