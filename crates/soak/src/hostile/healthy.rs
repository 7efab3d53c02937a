//! The other clients of the node: streams of quiet channels, and a publisher with a good token.
//! Look here for what they notice.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use headwater_test_support::EventStream;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use super::node::ConfinedNode;

const CHANNELS: usize = 10;
const STREAMS_PER_CHANNEL: usize = 5;

/// Between two events.
const PACE: Duration = Duration::from_millis(20);

/// How long an answer to a publish may take.
const ANSWER: Duration = Duration::from_secs(5);

/// How late an event may arrive before it counts as missing.
pub(super) const LATE: Duration = Duration::from_secs(5);

/// What the clients have noticed since they were asked last.
#[derive(Debug, Default, Clone)]
pub(super) struct Noticed {
    pub(super) published: u64,
    /// Publishes without a receipt.
    pub(super) refused: u64,
    pub(super) received: u64,
    /// Events that a stream did not receive in time.
    pub(super) missing: u64,
    /// Streams that ended.
    pub(super) ended: u64,
    pub(super) p99: Duration,
}

impl fmt::Display for Noticed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { published, refused, received, missing, ended, p99 } = self;
        write!(
            f,
            "{published} published, {refused} refused, {received} received, {missing} missing, \
             {ended} streams ended, p99 {:.1} ms",
            p99.as_secs_f64() * 1e3
        )
    }
}

impl Noticed {
    /// Adds what was noticed afterwards, except how fast that was.
    pub(super) fn add_faults(&mut self, later: &Self) {
        self.published += later.published;
        self.refused += later.refused;
        self.received += later.received;
        self.missing += later.missing;
        self.ended += later.ended;
    }

    /// What is wrong, however fast the events were.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.refused > 0 {
            faults.push(format!("{} of {} publishes refused", self.refused, self.published));
        }
        if self.missing > 0 {
            faults.push(format!("{} events missing", self.missing));
        }
        if self.ended > 0 {
            faults.push(format!("{} streams ended", self.ended));
        }
        faults
    }
}

#[derive(Default)]
struct Record {
    /// When each acknowledged event was due, by its number, and how many streams lack it.
    sent: HashMap<u64, (Instant, usize)>,
    latencies: Vec<Duration>,
    counts: Noticed,
}

/// The clients; they end when this is dropped.
pub(super) struct Healthy {
    record: Arc<Mutex<Record>>,
    _tasks: JoinSet<()>,
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Healthy {
    pub(super) async fn start(node: &ConfinedNode) -> Result<Self, String> {
        let (record, mut tasks) = (Arc::<Mutex<Record>>::default(), JoinSet::new());
        for number in 0..CHANNELS * STREAMS_PER_CHANNEL {
            let path = format!("/sse/stream?channel=quiet.{}", number % CHANNELS);
            let bearer = format!("Bearer {}", node.good_token());
            let headers = [("authorization", &*bearer)];
            let stream = EventStream::open_with(node.address(), &path, &headers, None).await;
            if stream.status != 200 {
                return Err(format!("a stream of {path} is answered {}", stream.status));
            }
            tasks.spawn(listen(stream, Arc::clone(&record)));
        }
        let token = node.good_token().to_owned();
        tasks.spawn(publish(node.address(), token, Arc::clone(&record)));
        Ok(Self { record, _tasks: tasks })
    }

    /// What was noticed since the last call.
    pub(super) fn notice(&mut self) -> Noticed {
        let mut record = lock(&self.record);
        let late = |(sent, lacking): &(Instant, usize)| {
            if sent.elapsed() >= LATE { *lacking as u64 } else { 0 }
        };
        let missing = record.sent.values().map(late).sum();
        record.sent.retain(|_, (sent, _)| sent.elapsed() < LATE);
        let mut noticed = std::mem::take(&mut record.counts);
        let mut latencies = std::mem::take(&mut record.latencies);
        latencies.sort_unstable();
        noticed.missing = missing;
        noticed.p99 = latencies.get(latencies.len() * 99 / 100).copied().unwrap_or_default();
        noticed
    }
}

async fn listen(mut stream: EventStream, record: Arc<Mutex<Record>>) {
    while let Ok(event) = stream.next().await {
        let mut record = lock(&record);
        let number: Option<u64> = event.data.parse().ok();
        let Some((sent, lacking)) = number.and_then(|it| record.sent.get_mut(&it)) else {
            continue;
        };
        *lacking -= 1;
        let (took, is_last) = (sent.elapsed(), *lacking == 0);
        if is_last && let Some(number) = number {
            record.sent.remove(&number);
        }
        record.latencies.push(took);
        record.counts.received += 1;
    }
    lock(&record).counts.ended += 1;
}

/// Publishes at a steady pace, on a connection that stays open.
async fn publish(address: SocketAddr, token: String, record: Arc<Mutex<Record>>) {
    let (mut connection, mut pace) = (None, interval(PACE));
    for number in 0_u64.. {
        // When it was due: what keeps one event waiting is part of the latency of the next.
        let due = pace.tick().await.into_std();
        {
            // Before it is sent: a stream may receive it before the receipt arrives.
            let mut record = lock(&record);
            record.counts.published += 1;
            record.sent.insert(number, (due, STREAMS_PER_CHANNEL));
        }
        let channel = number % CHANNELS as u64;
        let path = format!("/sse/publish?channel=quiet.{channel}");
        let post = send(address, &mut connection, &path, &token, number.to_string());
        if !timeout(ANSWER, post).await.is_ok_and(|sent| sent.is_some()) {
            connection = None;
            let mut record = lock(&record);
            record.counts.refused += 1;
            record.sent.remove(&number);
        }
    }
}

async fn send(
    address: SocketAddr,
    connection: &mut Option<SendRequest<Full<Bytes>>>,
    path: &str,
    token: &str,
    data: String,
) -> Option<()> {
    let open = connection.take().filter(|sender| !sender.is_closed());
    let mut sender = if let Some(sender) = open {
        sender
    } else {
        let socket = TcpStream::connect(address).await.ok()?;
        let (sender, driver) = handshake(TokioIo::new(socket)).await.ok()?;
        tokio::spawn(driver);
        sender
    };
    sender.ready().await.ok()?;
    let request = Request::post(path)
        .header("host", "localhost")
        .header("authorization", format!("Bearer {token}"))
        .body(Full::new(Bytes::from(data)))
        .ok()?;
    let response = sender.send_request(request).await.ok()?;
    let is_accepted = response.status() == 200;
    response.into_body().collect().await.ok()?;
    *connection = Some(sender);
    is_accepted.then_some(())
}
