//! The engine over real sockets: which streams it takes, that it sends the same bytes as hyper, and
//! how streams and servers end. Look in `slow.rs` for clients that do not read, or leave.

mod client;
mod fairness;
mod replays;
mod slow;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use headwater::broker::MemoryBroker;
use headwater::response::Heartbeat;
use headwater::stream::CloseReason;
use headwater::{Channel, Event, EventSourceResponse, Hub, LastEventId, Publish, Rewind};
use headwater_test_support::http::parse_head;
use headwater_test_support::{EventStream, PATIENCE, eventually};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use self::client::{Raw, get_request, read_head, send};

fn channel(name: &str) -> Channel {
    Channel::new(name).unwrap()
}

async fn publish(hub: &Hub, name: &str, data: impl ToString) {
    hub.publish(&channel(name), Event::new(data.to_string())).await.unwrap();
}

/// `/a`, `/a,b` and so on are streams of these channels; `/a/named` and so on have an option.
fn router(hub: Hub) -> Router {
    async fn subscribe(
        State(hub): State<Hub>,
        LastEventId(id): LastEventId,
        request: Request,
    ) -> Response {
        let path = request.uri().path().trim_start_matches('/').to_owned();
        let (names, options) = path.split_once('/').unwrap_or((&path, ""));
        let channels = names.split(',').map(channel);
        let subscription = match hub.subscribe(channels) {
            Ok(subscription) => subscription,
            Err(error) => return headwater::Problem::from(error).into_response(),
        };
        let (is_rewound, options) = match options.strip_prefix("rewind") {
            Some(rest) => (true, rest.trim_start_matches('-')),
            None => (false, options),
        };
        let mut subscription =
            if is_rewound { subscription.rewind(Rewind::All) } else { subscription.after(id) };
        if options != "not-ready" {
            subscription.ready().await;
        }
        let response = EventSourceResponse::new(subscription).retry(None);
        let response = match options {
            "named" => response.name_by_channel(true),
            "until" => response.until(std::future::pending()),
            "brief" => response.send_timeout(Duration::from_secs(1)),
            "heartbeat" => response.heartbeat(Heartbeat::comment().every(Duration::from_secs(1))),
            "short" => response.lifetime_max(Duration::from_secs(1)),
            _ => response,
        };
        response.into_response()
    }
    Router::new().fallback(get(subscribe)).with_state(hub)
}

/// Serves a router with this number of shards until the runtime of the test ends.
async fn serve(router: Router, shards: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(headwater::serve(listener, router).shards(shards).into_future());
    address
}

/// The number of streams that the engine has.
fn on_shards(hub: &Hub) -> usize {
    hub.shards().iter().map(|shard| shard.streams).sum()
}

/// One hub behind two servers: one with the engine, and one where streams stay with hyper.
struct Both {
    hub: Hub,
    engine: SocketAddr,
    hyper: SocketAddr,
}

impl Both {
    async fn new() -> Self {
        let hub = Hub::in_memory();
        let engine = serve(router(hub.clone()), 2).await;
        let hyper = serve(router(hub.clone()), 0).await;
        Self { hub, engine, hyper }
    }

    async fn open(&self, path: &str) -> [Raw; 2] {
        [Raw::open(self.engine, path).await, Raw::open(self.hyper, path).await]
    }
}

/// Reads both bodies to their end. They must be complete and equal, and contain the parts in order.
async fn assert_same(mut both: [Raw; 2], contains: &[&str]) {
    for raw in &mut both {
        raw.until_closed_or_ended().await;
        assert!(raw.chunks.ended, "the body is incomplete: {:?}", raw.text());
    }
    let [engine, hyper] = both;
    assert_eq!(engine.text(), hyper.text());
    let mut rest = engine.text();
    for part in contains {
        let at = rest.find(part).unwrap_or_else(|| panic!("no {part:?} in {rest:?}"));
        rest = rest[at + part.len()..].to_owned();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_engine_and_hyper_send_the_same_bytes() {
    for path in ["/a", "/a,b", "/a/named", "/a,b/named", "/a/rewind", "/a/not-ready"] {
        let both = Both::new().await;
        publish(&both.hub, "a", "before").await;
        publish(&both.hub, "b", "before too").await;
        let mut streams = both.open(path).await;
        assert_eq!(on_shards(&both.hub), 1);
        for raw in &mut streams {
            // They have begun: with an event, or with an ID alone.
            raw.until(|body| body.windows(5).any(|bytes| bytes == b"\nid: ")).await;
        }
        for (name, data) in [("a", "one"), ("b", "other"), ("a", "two\nlines"), ("a", "")] {
            publish(&both.hub, name, data).await;
        }
        publish(&both.hub, "a", "x".repeat(300_000)).await;
        let event = Event::new("named").with_name("n").unwrap().with_id("7").unwrap();
        both.hub.publish(&channel("a"), event).await.unwrap();
        for name in ["a", "b"] {
            let last = Publish::to(channel(name), Event::new("bye")).with_end(true);
            both.hub.publish_all([last]).await.unwrap();
        }
        let contains = match path {
            "/a" => &["data: one\n\n", "data: two\ndata: lines\n\n", "id: 7\n", "bye"][..],
            "/a,b" => &["data: one\n\n", "data: other\n\n", "data: two\n", "bye", "bye"][..],
            "/a/named" => &["event: a\nid: ", "event: n\nid: 7\n", "event: a\n"][..],
            "/a,b/named" => &["event: a\n", "event: b\n", "event: a\n", "event: b\n"][..],
            "/a/rewind" => &["data: before\n\n", "data: one\n\n"][..],
            _ => &["data: one\n\n"][..],
        };
        assert_same(streams, contains).await;
        both.hub.drained().await;
        let ended = both.hub.stats().streams_ended;
        assert_eq!(ended.by(CloseReason::Finished), 2, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_streams_of_the_engine_and_of_hyper_alike() {
    let both = Both::new().await;
    let streams = both.open("/a").await;
    publish(&both.hub, "a", "last").await;
    both.hub.drain();
    assert_same(streams, &["data: last\n\n"]).await;
    both.hub.drained().await;
    assert_eq!(both.hub.stats().streams_ended.by(CloseReason::Drain), 2);
    assert_eq!((both.hub.channels(), both.hub.streams()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_and_lifetimes_are_alike() {
    let both = Both::new().await;
    let mut heartbeats = both.open("/a/heartbeat").await;
    let short = both.open("/a/short").await;
    for raw in &mut heartbeats {
        raw.until(|body| body.ends_with(b":\n\n:\n\n")).await;
    }
    assert_same(short, &[]).await;
    assert_eq!(both.hub.stats().streams_ended.by(CloseReason::Lifetime), 2);
}

/// Passes on a body unchanged, and counts it as long as it lives.
async fn observe(State(alive): State<Arc<AtomicUsize>>, request: Request, next: Next) -> Response {
    struct Alive(Arc<AtomicUsize>);
    impl Drop for Alive {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let response = next.run(request).await;
    alive.fetch_add(1, Ordering::SeqCst);
    let alive = Alive(alive);
    response.map(|body| {
        Body::new(body.map_err(move |error| {
            let _ = &alive;
            error
        }))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_engine_takes_eligible_streams_only() {
    let hub = Hub::in_memory();
    let alive = Arc::new(AtomicUsize::new(0));
    let upper = |response: Response| async {
        response.map(|body| {
            Body::new(body.map_frame(|frame| {
                frame.map_data(|data| bytes::Bytes::from(data.to_ascii_uppercase()))
            }))
        })
    };
    let encoded = |response: Response| async { ([("content-encoding", "x-none")], response) };
    let app = Router::new()
        .nest("/bare", router(hub.clone()))
        .nest("/upper", router(hub.clone()).layer(map_response(upper)))
        .nest("/encoded", router(hub.clone()).layer(map_response(encoded)))
        .nest(
            "/observed",
            router(hub.clone())
                .layer(axum::middleware::from_fn_with_state(Arc::clone(&alive), observe)),
        );
    let address = serve(app, 1).await;
    let line = |path: &str| get_request(path);
    for (name, request, taken) in [
        ("no layer", line("/bare/a"), true),
        ("a layer that observes the body", line("/observed/a"), true),
        ("a layer that changes the body", line("/upper/a"), false),
        ("a layer that sets content-encoding", line("/encoded/a"), false),
        ("until", line("/bare/a/until"), false),
        ("HTTP/1.0", "GET /bare/a HTTP/1.0\r\nhost: h\r\n\r\n".into(), false),
        (
            "a request with a body",
            "GET /bare/a HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabc".into(),
            false,
        ),
        ("after another request", line("/nowhere") + &line("/bare/a"), true),
    ] {
        let mut socket = send(address, &request).await;
        eventually(&format!("{name}: a stream is open"), || async { hub.streams() == 1 }).await;
        eventually(&format!("{name}: taken is {taken}"), || async {
            (on_shards(&hub) == 1) == taken
        })
        .await;
        publish(&hub, "a", "hello").await;
        let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
        let has = |seen: &[u8]| {
            let text = String::from_utf8_lossy(seen).to_lowercase();
            text.contains("data: hello\n\n")
        };
        while !has(&seen) {
            let read = timeout(PATIENCE, socket.read(&mut buffer)).await.expect(name).unwrap();
            assert_ne!(read, 0, "{name}: {}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&buffer[..read]);
        }
        assert_eq!(on_shards(&hub) == 1, taken, "{name}");
        if name.contains("observes") {
            assert_eq!(alive.load(Ordering::SeqCst), 1, "the wrapper lives as long as the stream");
        }
        if name.contains("changes") {
            assert!(String::from_utf8_lossy(&seen).contains("DATA: HELLO"));
        }
        drop(socket);
        eventually(&format!("{name}: the stream is gone"), || async { hub.streams() == 0 }).await;
    }
    eventually("the wrapper is dropped", || async { alive.load(Ordering::SeqCst) == 0 }).await;
}

/// Sends a request, and reads the head of the response.
async fn head_of(socket: &mut TcpStream, request: &str) -> String {
    socket.write_all(request.as_bytes()).await.unwrap();
    read_head(socket).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responses_without_a_stream_stay_with_hyper_and_keep_the_connection() {
    let hub = Hub::in_memory();
    let last = Publish::to(channel("ended"), Event::new("bye")).with_end(true);
    let receipt = hub.publish_all([last]).await.unwrap().remove(0);
    let id = receipt.id.expect("an id").to_string();
    let resume = format!("GET /ended HTTP/1.1\r\nhost: h\r\nlast-event-id: {id}\r\n\r\n");
    let address = serve(router(hub.clone()), 1).await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    for _ in 0..2 {
        let head = head_of(&mut socket, &get_request("/a").replace("GET", "HEAD")).await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("text/event-stream"), "{head}");
        let head = head_of(&mut socket, &resume).await;
        assert!(head.starts_with("HTTP/1.1 204 No Content\r\n"), "{head}");
        eventually("no stream is left", || async { hub.streams() == 0 }).await;
        assert_eq!(on_shards(&hub), 0);
    }
    // None of the responses left a body behind: the next one is a stream, on a shard.
    socket.write_all(get_request("/a").as_bytes()).await.unwrap();
    let mut stream = Raw::of(socket).await;
    eventually("the engine has the stream", || async { on_shards(&hub) == 1 }).await;
    publish(&hub, "a", "hello").await;
    stream.until(|body| body.ends_with(b"data: hello\n\n")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_earlier_response_that_the_client_has_not_read_is_not_lost() {
    const LARGE: usize = 4 << 20;
    let hub = Hub::in_memory();
    let app = router(hub.clone()).route("/large", get(|| async { vec![b'x'; LARGE] }));
    let address = serve(app, 1).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut socket = socket.connect(address).await.unwrap();
    // The second request arrives while hyper still buffers the first response.
    let requests = get_request("/large") + &get_request("/a");
    socket.write_all(requests.as_bytes()).await.unwrap();
    let head = read_head(&mut socket).await;
    assert_eq!(parse_head(head.as_bytes()).0, 200);
    let mut body = vec![0; LARGE];
    timeout(PATIENCE, socket.read_exact(&mut body)).await.expect("in time").unwrap();
    assert!(body.iter().all(|byte| *byte == b'x'));
    let mut stream = Raw::of(socket).await;
    assert!(stream.head.starts_with("HTTP/1.1 200 OK\r\n"), "{}", stream.head);
    eventually("the engine has the stream", || async { on_shards(&hub) == 1 }).await;
    publish(&hub, "a", "after").await;
    stream.until(|body| body.ends_with(b"data: after\n\n")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_joins_live_without_gap_or_duplicate_under_load() {
    const EVENTS: usize = 3000;
    let hub = Hub::in_memory();
    let address = serve(router(hub.clone()), 2).await;
    let publisher = tokio::spawn({
        let hub = hub.clone();
        async move {
            for number in 0..EVENTS {
                let name = if number % 3 == 0 { "b" } else { "a" };
                publish(&hub, name, number).await;
                if number % 16 == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
    });
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..20 {
        clients.spawn(async move {
            // Reconnects all the time, and must have received everything once in the end.
            let mut next = None;
            let mut id = String::new();
            loop {
                let path = if next.is_none() { "/a,b/rewind" } else { "/a,b" };
                let headers = [("last-event-id", id.as_str())];
                let headers = if id.is_empty() { &[][..] } else { &headers };
                let mut stream = EventStream::open_with(address, path, headers, None).await;
                for _ in 0..50 + client * 7 {
                    let event = stream.next().await.expect("an open stream");
                    let number: usize = event.data.parse().expect("a number, no gap");
                    assert_eq!(number, next.unwrap_or(number), "client {client}");
                    (next, id) = (Some(number + 1), event.id);
                    if number + 1 == EVENTS {
                        return;
                    }
                }
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.expect("a client that received everything");
    }
    publisher.await.unwrap();
    eventually("no stream is left", || async { hub.streams() == 0 && on_shards(&hub) == 0 }).await;
    assert_eq!(hub.channels(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queued_events_are_combined_into_few_writes() {
    const STREAMS: usize = 50;
    const EVENTS: usize = 2000;
    let hub = Hub::in_memory();
    let address = serve(router(hub.clone()), 1).await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..STREAMS {
        let mut stream = EventStream::open(address, "/a").await;
        clients.spawn(async move {
            for number in 0..EVENTS {
                assert_eq!(stream.next().await.unwrap().data, number.to_string());
            }
        });
    }
    let batch = (0..EVENTS).map(|number| (channel("a"), Event::new(number.to_string())));
    hub.publish_all(batch).await.unwrap();
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let writes: u64 = hub.shards().iter().map(|shard| shard.writes).sum();
    let deliveries = (STREAMS * EVENTS) as u64;
    assert!(writes < deliveries / 10, "{writes} writes for {deliveries} deliveries");
    assert_eq!(hub.stats().events_sent, deliveries);
}

/// A shard that had more pending than one turn processes used to miss messages pushed meanwhile,
/// and slept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_exceed_a_turn_are_all_delivered() {
    let hub = Hub::builder().queue_bytes_max(64 << 20).build(MemoryBroker::new());
    let address = serve(router(hub.clone()), 1).await;
    let mut stream = EventStream::open(address, "/a,b,c,d").await;
    let mut publishers = tokio::task::JoinSet::new();
    for name in ["a", "b", "c", "d"] {
        let hub = hub.clone();
        publishers.spawn(async move {
            for number in 0..400 {
                publish(&hub, name, format!("{number} {name} {}", "x".repeat(40_000))).await;
            }
        });
    }
    let began = std::time::Instant::now();
    let mut next = std::collections::BTreeMap::new();
    for _ in 0..1600 {
        let event = stream.next().await.expect("an open stream");
        let mut words = event.data.split(' ');
        let number: usize = words.next().unwrap().parse().unwrap();
        let expected = next.entry(words.next().unwrap().to_owned()).or_insert(0);
        assert_eq!(number, *expected);
        *expected += 1;
    }
    publishers.join_all().await;
    // It takes well under a second; a shard that slept would be woken by the first heartbeat.
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aborted_server_cuts_its_streams_and_its_threads_end() {
    let hub = Hub::in_memory();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = headwater::serve(listener, router(hub.clone())).shards(2);
    let server = tokio::spawn(server.into_future());
    let mut stream = Raw::open(address, "/a").await;
    eventually("the engine has the stream", || async { on_shards(&hub) == 1 }).await;
    server.abort();
    stream.until_closed().await;
    eventually("no shard is left", || async { hub.shards().is_empty() }).await;
    assert_eq!((hub.streams(), hub.channels()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_shutdown_waits_for_streams_of_the_engine() {
    let hub = Hub::in_memory();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = headwater::serve(listener, router(hub.clone()))
        .with_graceful_shutdown(async { drop(stopped.await) });
    let server = tokio::spawn(server.into_future());
    let mut stream = Raw::open(address, "/a").await;
    eventually("the engine has the stream", || async { on_shards(&hub) == 1 }).await;
    stop.send(()).unwrap();
    eventually("connections are refused", || async { TcpStream::connect(address).await.is_err() })
        .await;
    publish(&hub, "a", "late").await;
    stream.until(|body| body.ends_with(b"data: late\n\n")).await;
    assert!(!server.is_finished());
    hub.drain();
    stream.until_closed().await;
    assert!(stream.chunks.ended);
    timeout(PATIENCE, server).await.expect("the server ends").unwrap().unwrap();
}
