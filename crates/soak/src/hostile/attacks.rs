//! What hostile clients do, each as fast as one core can. Look here to add an attack.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use headwater_test_support::http2::{PREFACE, frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Connections of the attacker at a time.
const CONNECTIONS: usize = 64;

/// The attacker's address, which is not that of the other clients.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// How long the attacker waits for an answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Bodies of maximum size, and the largest events that a node with so little memory takes; made
/// once: the attacker's core is for sending them.
static LARGE: LazyLock<Vec<u8>> = LazyLock::new(|| vec![b'x'; 8 << 20]);
static LARGE_EVENT: LazyLock<Vec<u8>> = LazyLock::new(|| vec![b'x'; 4 << 20]);
static LINE_ENDS: LazyLock<Vec<u8>> = LazyLock::new(|| vec![b'\n'; 4 << 20]);

/// The node under attack.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    /// A token for channels of the attacker's own.
    pub(super) token: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attack {
    OpenAndClose,
    NewChannels,
    UnknownIds,
    RewindAll,
    WrongTokens,
    BodiesWithoutToken,
    BodiesWithoutPermission,
    HalfHeads,
    UnreadStreams,
    LargeEvents,
    LineEnds,
    ManyChannels,
    LargeBatches,
    IdempotencyKeys,
    Tickets,
    Pings,
    Settings,
    RapidReset,
    Continuation,
    ManyFields,
    WindowOfZero,
}

pub(super) const ALL: [Attack; 21] = [
    Attack::OpenAndClose,
    Attack::NewChannels,
    Attack::UnknownIds,
    Attack::RewindAll,
    Attack::WrongTokens,
    Attack::BodiesWithoutToken,
    Attack::BodiesWithoutPermission,
    Attack::HalfHeads,
    Attack::UnreadStreams,
    Attack::LargeEvents,
    Attack::LineEnds,
    Attack::ManyChannels,
    Attack::LargeBatches,
    Attack::IdempotencyKeys,
    Attack::Tickets,
    Attack::Pings,
    Attack::Settings,
    Attack::RapidReset,
    Attack::Continuation,
    Attack::ManyFields,
    Attack::WindowOfZero,
];

impl fmt::Display for Attack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenAndClose => "public streams, opened and closed",
            Self::NewChannels => "streams of 100 new channels each",
            Self::UnknownIds => "streams with unknown last event IDs",
            Self::RewindAll => "streams that rewind a long history and do not read",
            Self::WrongTokens => "wrong tokens",
            Self::BodiesWithoutToken => "bodies of 8 MiB without a token",
            Self::BodiesWithoutPermission => "bodies of 8 MiB to channels of others",
            Self::HalfHeads => "heads that are never complete",
            Self::UnreadStreams => "streams that are not read, with large events",
            Self::LargeEvents => "events of 4 MiB",
            Self::LineEnds => "events of 4 MiB of line ends",
            Self::ManyChannels => "events for 100 new channels each",
            Self::LargeBatches => "batches of 10,000 events",
            Self::IdempotencyKeys => "new idempotency keys",
            Self::Tickets => "tickets",
            Self::Pings => "HTTP/2: PING",
            Self::Settings => "HTTP/2: SETTINGS",
            Self::RapidReset => "HTTP/2: requests that are reset at once",
            Self::Continuation => "HTTP/2: CONTINUATION without end",
            Self::ManyFields => "HTTP/2: heads of many short fields",
            Self::WindowOfZero => "HTTP/2: answers that the window does not let through",
        })
    }
}

/// Attacks until it is stopped.
pub(super) async fn run(
    attack: Attack,
    target: Target,
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
) {
    if attack == Attack::RewindAll {
        // The history.
        for _ in 0..8 {
            let head = target.publish("channel=m", LARGE_EVENT.len());
            let answer = answer_to(&target, &head, &LARGE_EVENT).await;
            assert!(answer.is_ok_and(|it| it.starts_with(b"HTTP/1.1 200")), "there is no history");
        }
    }
    let mut attackers = JoinSet::new();
    for number in 0..CONNECTIONS {
        let (target, stop, requests) = (target.clone(), Arc::clone(&stop), Arc::clone(&requests));
        attackers.spawn(async move {
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                round += 1;
                let once = once(attack, &target, number, round, &requests);
                match timeout(ANSWER, once).await {
                    Ok(Ok(())) => {}
                    // It is kept out for a moment.
                    Ok(Err(_)) | Err(_) => sleep(Duration::from_millis(10)).await,
                }
            }
        });
    }
    let stopped = async {
        while !stop.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    stopped.await;
    attackers.shutdown().await;
}

impl Target {
    async fn connect(&self) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(4096)?;
        socket.bind(SocketAddr::from((ATTACKER, 0)))?;
        socket.connect(self.address).await
    }

    fn authorization(&self) -> String {
        format!("authorization: Bearer {}\r\n", self.token)
    }

    fn publish(&self, query: &str, length: usize) -> String {
        let authorization = self.authorization();
        post(&format!("/sse/publish?{query}"), length, &authorization)
    }
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n")
}

fn post(path: &str, length: usize, headers: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n{headers}\r\n")
}

/// Sends a request, and reads the beginning of the answer.
async fn answer_to(target: &Target, head: &str, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut socket = target.connect().await?;
    socket.write_all(head.as_bytes()).await?;
    // The server may answer, and close the connection, before it has read the body.
    let _ = socket.write_all(body).await;
    let mut answer = [0; 256];
    let read = socket.read(&mut answer).await?;
    Ok(answer[..read].to_vec())
}

/// The same for an attack, which does not look at the answer.
async fn exchange(target: &Target, head: &str, body: &[u8]) -> io::Result<()> {
    answer_to(target, head, body).await.map(drop)
}

/// One request, or one connection, of an attack.
async fn once(
    attack: Attack,
    target: &Target,
    number: usize,
    round: u64,
    requests: &AtomicU64,
) -> io::Result<()> {
    let count = || requests.fetch_add(1, Ordering::Relaxed);
    let authorization = target.authorization();
    match attack {
        Attack::OpenAndClose => {
            count();
            exchange(target, &get("/sse/stream?channel=public", ""), b"").await
        }
        Attack::NewChannels => {
            count();
            let names: Vec<String> =
                (0..100).map(|at| format!("channel=m-{number}-{round}-{at}")).collect();
            let path = format!("/sse/stream?{}", names.join("&"));
            exchange(target, &get(&path, &authorization), b"").await
        }
        Attack::UnknownIds => {
            count();
            let id = format!("last-event-id: unknown-{number}-{round}\r\n");
            exchange(target, &get("/sse/stream?channel=public", &id), b"").await
        }
        Attack::RewindAll => {
            count();
            let path = "/sse/stream?channel=m&rewind=all";
            exchange(target, &get(path, &authorization), b"").await
        }
        Attack::WrongTokens => {
            count();
            let headers = format!("authorization: Bearer a.{number}.{round}\r\n");
            exchange(target, &get("/sse/stream?channel=m", &headers), b"").await
        }
        Attack::BodiesWithoutToken => {
            count();
            let head = post("/sse/publish?channel=m", LARGE.len(), "");
            exchange(target, &head, &LARGE).await
        }
        Attack::BodiesWithoutPermission => {
            count();
            exchange(target, &target.publish("channel=quiet.1", LARGE.len()), &LARGE).await
        }
        Attack::HalfHeads => {
            count();
            let mut socket = target.connect().await?;
            socket.write_all(b"GET / HTTP/1.1\r\n").await?;
            for at in 0..1000 {
                socket.write_all(format!("x-{at}: y\r\n").as_bytes()).await?;
                sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        }
        Attack::UnreadStreams => {
            if number == 0 {
                let body = vec![b'x'; 1 << 20];
                let head = target.publish("channel=m", body.len());
                return exchange(target, &head, &body).await;
            }
            count();
            let mut socket = target.connect().await?;
            let head = get("/sse/stream?channel=m", &authorization);
            socket.write_all(head.as_bytes()).await?;
            sleep(ANSWER * 2).await;
            Ok(())
        }
        Attack::LargeEvents => {
            count();
            let query = format!("channel=m{}", round % 20);
            exchange(target, &target.publish(&query, LARGE_EVENT.len()), &LARGE_EVENT).await
        }
        Attack::LineEnds => {
            count();
            let query = format!("channel=m{}", round % 20);
            exchange(target, &target.publish(&query, LINE_ENDS.len()), &LINE_ENDS).await
        }
        Attack::ManyChannels => {
            count();
            let names: Vec<String> =
                (0..100).map(|at| format!("channel=m-{number}-{round}-{at}")).collect();
            exchange(target, &target.publish(&names.join("&"), 1), b"x").await
        }
        Attack::LargeBatches => {
            count();
            let line = format!("{{\"channel\":\"m{number}\",\"data\":\"x\"}}\n");
            let body = line.repeat(10_000);
            let headers = authorization + "content-type: application/x-ndjson\r\n";
            let head = post("/sse/publish", body.len(), &headers);
            exchange(target, &head, body.as_bytes()).await
        }
        Attack::IdempotencyKeys => {
            count();
            let headers = format!("{authorization}idempotency-key: k-{number}-{round}\r\n");
            exchange(target, &post("/sse/publish?channel=m", 1, &headers), b"x").await
        }
        Attack::Tickets => {
            count();
            exchange(target, &post("/sse/ticket?channel=m", 0, &authorization), b"").await
        }
        Attack::Pings => flood(target, &frame(6, 0, 0, &[0; 8]).repeat(100), requests).await,
        Attack::Settings => {
            flood(target, &frame(4, 0, 0, &[0, 4, 0, 1, 0, 0]).repeat(100), requests).await
        }
        Attack::RapidReset => {
            let mut bytes = Vec::new();
            for id in (1..2000_u32).step_by(2) {
                bytes.extend(frame(1, 0x5, id, &head("/sse/stream?channel=public", &[])));
                bytes.extend(frame(3, 0, id, &8_u32.to_be_bytes()));
            }
            flood_once(target, &bytes, requests).await
        }
        Attack::Continuation => {
            let mut socket = http2(target).await?;
            let first = head("/sse/stream?channel=public", &[]);
            socket.write_all(&frame(1, 0x1, 1, &first)).await?;
            let more = frame(9, 0, 1, &field("x", "y").repeat(1000));
            loop {
                count();
                socket.write_all(&more).await?;
            }
        }
        Attack::ManyFields => {
            let fields = field("x", "y").repeat(3000);
            let mut bytes = Vec::new();
            for id in (1..200_u32).step_by(2) {
                bytes.extend(frame(1, 0x4, id, &head("/sse/publish?channel=m", &fields)));
            }
            flood_once(target, &bytes, requests).await
        }
        Attack::WindowOfZero => {
            let mut bytes = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
            for id in (1..400_u32).step_by(2) {
                bytes.extend(frame(1, 0x5, id, &head("/sse/demo", &[])));
            }
            flood_once(target, &bytes, requests).await
        }
    }
}

// === HTTP/2, by hand (RFC 9113) ===

async fn http2(target: &Target) -> io::Result<TcpStream> {
    let mut socket = target.connect().await?;
    socket.write_all(PREFACE).await?;
    socket.write_all(&frame(4, 0, 0, &[])).await?;
    Ok(socket)
}

/// Sends the same bytes until the server closes the connection.
async fn flood(target: &Target, bytes: &[u8], requests: &AtomicU64) -> io::Result<()> {
    let (mut read, mut write) = http2(target).await?.into_split();
    let mut answers = vec![0; 64 << 10];
    loop {
        requests.fetch_add(1, Ordering::Relaxed);
        tokio::select! {
            wrote = write.write_all(bytes) => wrote?,
            // What is read makes room for answers: the server has to do the work.
            count = read.read(&mut answers) => {
                if count? == 0 {
                    return Ok(());
                }
            }
        }
    }
}

/// Sends bytes once, and keeps the connection for a while.
async fn flood_once(target: &Target, bytes: &[u8], requests: &AtomicU64) -> io::Result<()> {
    requests.fetch_add(1, Ordering::Relaxed);
    let mut socket = http2(target).await?;
    socket.write_all(bytes).await?;
    let mut answers = vec![0; 64 << 10];
    let read = async {
        while socket.read(&mut answers).await? > 0 {}
        io::Result::Ok(())
    };
    timeout(Duration::from_secs(2), read).await.unwrap_or(Ok(()))
}

/// A header block (RFC 7541): GET, http, the path, an authority, and more fields.
fn head(path: &str, fields: &[u8]) -> Vec<u8> {
    let mut block = vec![0x82, 0x86];
    for (name, value) in [(4_u8, path), (1, "localhost")] {
        block.push(name);
        string(&mut block, value);
    }
    block.extend_from_slice(fields);
    block
}

/// A field that is not indexed.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0];
    string(&mut field, name);
    string(&mut field, value);
    field
}

fn string(block: &mut Vec<u8>, text: &str) {
    block.push(u8::try_from(text.len()).unwrap_or(0) & 0x7f);
    block.extend_from_slice(text.as_bytes());
}
