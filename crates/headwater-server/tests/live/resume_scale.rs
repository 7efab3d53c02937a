//! Many streams that resume at the same time, and a long history replayed from Redis. Look here for
//! the bounds on Redis and on memory. HEADWATER_TEST_FULL=1 resumes 10,000 streams instead of
//! 2,000, and replays 100 MB instead of 30.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use headwater_test_support::{Node, PATIENCE, RedisServer, http, stable_port};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::BINARY;
use crate::support::follower::is_full;
use crate::support::replay::{REPLAY_MEMORY_MAX, check_replay};

// === many streams ===

const CHANNELS: usize = 10;

/// Events of each channel that a client has missed.
const MISSED: usize = 10;

/// The promise for 10,000 streams, on an idle machine. On a busy one it may take twice as long as
/// new streams do.
const LIVE_WITHIN: Duration = Duration::from_secs(3);

async fn publish(address: SocketAddr, channel: usize, data: &str) -> String {
    let path = format!("/sse/publish?channel=c{channel}");
    let answer = http::post(address, &path, data.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["id"].as_str().expect("an id").to_owned()
}

/// How often Redis ran a command, also in a script.
fn calls(redis: &RedisServer, command: &str) -> u64 {
    let info: String = redis.run(&["INFO", "commandstats"]);
    let line =
        info.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |line| line.split(',').next().expect("a number").parse().expect("a number"))
}

/// Reads until a text has arrived.
async fn read_to(socket: &mut TcpStream, seen: &mut Vec<u8>, text: &str) {
    let finder = memchr::memmem::Finder::new(text);
    while finder.find(seen).is_none() {
        let read = timeout(PATIENCE, socket.read_buf(seen)).await.expect("more in time");
        assert_ne!(read.expect("an open stream"), 0, "{:?}", String::from_utf8_lossy(seen));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_resume_together_cost_redis_one_read_per_channel() {
    let streams = if is_full() { 10_000 } else { 2_000 };
    let redis = RedisServer::start();
    let listen = format!("127.0.0.1:{}", stable_port());
    let url = redis.url();
    let arguments =
        ["--redis", &*url, "--max-connections", "12000", "--log", "warn,headwater=info"];
    let mut node = Node::start_on(BINARY, &listen, &arguments);
    node.wait_until_ready().await;
    let address = node.address();
    let mut ids = Vec::new();
    for channel in 0..CHANNELS {
        publish(address, channel, "before").await;
        ids.push(publish(address, channel, "seen").await);
    }
    for number in 0..MISSED {
        for channel in 0..CHANNELS {
            publish(address, channel, &format!("missed-{number}")).await;
        }
    }
    // A node without rings.
    node.signal("KILL");
    node.wait_for_end(PATIENCE);
    node = Node::start_on(BINARY, &listen, &arguments);
    node.wait_until_ready().await;
    let before = calls(&redis, "xrange") + calls(&redis, "xrevrange");

    // What as many new streams take on this machine now; they leave nothing from before in the
    // rings.
    let opened = open_all(address, streams, &[]).await;
    let baseline = opened.iter().map(|client| client.at).max().expect("streams");
    drop(opened);
    node.wait_for_metric("headwater_streams", 0.0).await;

    let begin = Instant::now();
    let mut resumed = open_all(address, streams, &ids).await;
    let last = resumed.iter().map(|client| client.at).max().expect("streams");
    let reads = calls(&redis, "xrange") + calls(&redis, "xrevrange") - before;
    for channel in 0..CHANNELS {
        publish(address, channel, "live").await;
    }
    let mut checks = JoinSet::new();
    for Client { mut socket, mut seen, .. } in resumed.drain(..) {
        checks.spawn(async move {
            read_to(&mut socket, &mut seen, "data: live\n\n").await;
            let text = String::from_utf8_lossy(&seen);
            let data: Vec<_> =
                text.split("data: ").skip(1).map(|rest| rest.lines().next()).collect();
            let missed = (0..MISSED).map(|number| format!("missed-{number}"));
            let wanted: Vec<_> = missed.chain(["live".to_owned()]).collect();
            assert_eq!(data, wanted.iter().map(|data| Some(&**data)).collect::<Vec<_>>());
            socket
        });
    }
    let all = checks.join_all().await;
    println!(
        "{} streams resumed in {last:?}, live after {:?}, {reads} range reads; as many new ones \
         opened in {baseline:?}",
        all.len(),
        begin.elapsed()
    );
    assert!(reads <= CHANNELS as u64, "{reads} reads of {CHANNELS} channels");
    assert!(last < LIVE_WITHIN.max(2 * baseline), "{last:?}");
}

/// An open stream, what it gave, and when that was there.
struct Client {
    socket: TcpStream,
    seen: Vec<u8>,
    at: Duration,
}

/// Opens streams, all at the same time: new ones, or, with the id that each channel's clients have,
/// such that reconnect. Those have got everything then.
async fn open_all(address: SocketAddr, streams: usize, ids: &[String]) -> Vec<Client> {
    let begin = Instant::now();
    let mut clients = JoinSet::new();
    for number in 0..streams {
        let channel = number % CHANNELS;
        let (header, until) = match ids.get(channel) {
            Some(id) => {
                (format!("last-event-id: {id}\r\n"), format!("data: missed-{}\n\n", MISSED - 1))
            }
            None => (String::new(), "\nid: ".to_owned()),
        };
        let request = format!(
            "GET /sse/stream?channel=c{channel} HTTP/1.1\r\nhost: localhost\r\n{header}\r\n"
        );
        clients.spawn(async move {
            let mut socket = TcpStream::connect(address).await.expect("the server listens");
            socket.write_all(request.as_bytes()).await.expect("the request is sent");
            let mut seen = Vec::new();
            read_to(&mut socket, &mut seen, &until).await;
            Client { socket, seen, at: begin.elapsed() }
        });
    }
    clients.join_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_history_is_replayed_from_redis_in_little_memory() {
    let redis = RedisServer::start();
    let grown = check_replay(Some(&redis)).await;
    assert!(grown < REPLAY_MEMORY_MAX, "{grown} bytes");
}
