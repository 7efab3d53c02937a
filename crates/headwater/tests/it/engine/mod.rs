//! The engine over real sockets: which streams it takes, that both roads give the same bytes, and how streams and
//! servers end. `slow.rs` has the clients that do not read, or leave.

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
use headwater::{
    Channel, CloseReason, Event, EventSourceResponse, Heartbeat, Hub, LastEventId, MemoryBroker,
    Publish, Rewind,
};
use headwater_test_support::http::{Chunks, parse_head};
use headwater_test_support::{EventStream, PATIENCE, eventually};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

fn channel(name: &str) -> Channel {
    Channel::new(name).unwrap()
}

async fn publish(hub: &Hub, name: &str, data: impl ToString) {
    hub.publish(&channel(name), Event::new(data.to_string())).await.unwrap();
}

/// `/a`, `/a,b` and so on are streams of these channels.
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
        let mut subscription = match options {
            "rewind" => subscription.rewind(Rewind::All),
            _ => subscription.after(id),
        };
        if options != "unconfirmed" {
            subscription.ready().await;
        }
        let response = EventSourceResponse::new(subscription).retry(None);
        let response = match options {
            "named" => response.name_by_channel(true),
            "until" => response.until(std::future::pending()),
            "brief" => response.send_timeout(Duration::from_secs(1)),
            "beats" => response.heartbeat(Heartbeat::comment().every(Duration::from_secs(1))),
            "short" => response.lifetime_max(Duration::from_secs(1)),
            _ => response,
        };
        response.into_response()
    }
    Router::new().fallback(get(subscribe)).with_state(hub)
}

/// Serves a router with so many shards until the runtime of the test ends.
async fn serve(router: Router, shards: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(headwater::serve(listener, router).shards(shards).into_future());
    address
}

/// How many streams the engine has.
fn on_shards(hub: &Hub) -> usize {
    hub.shards().iter().map(|shard| shard.streams).sum()
}

/// Sends a request as it is, and gives the connection.
async fn send(address: SocketAddr, request: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    socket
}

async fn read_head(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, socket.read_u8()).await.expect("in time").expect("a head"));
    }
    String::from_utf8(head).unwrap()
}

fn get_request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n")
}

/// One client's connection, read into the head and the content of the chunks.
struct Raw {
    socket: TcpStream,
    head: String,
    chunks: Chunks,
    body: Vec<u8>,
    closed: bool,
}

impl Raw {
    async fn open(address: SocketAddr, path: &str) -> Self {
        Self::of(send(address, &get_request(path)).await).await
    }

    async fn of(mut socket: TcpStream) -> Self {
        let head = read_head(&mut socket).await;
        let (chunks, body) = (Chunks::default(), Vec::new());
        let mut raw = Self { socket, head, chunks, body, closed: false };
        raw.until(|body| body.starts_with(b":\n\n")).await;
        raw
    }

    async fn read(&mut self) {
        let mut buffer = vec![0; 64 << 10];
        let read = timeout(PATIENCE, self.socket.read(&mut buffer)).await.expect("in time");
        let read = read.unwrap_or(0);
        self.closed |= read == 0;
        let body = &mut self.body;
        self.chunks.push(&buffer[..read], |content| body.extend_from_slice(content));
    }

    /// Reads until the body is so.
    async fn until(&mut self, is_there: impl Fn(&[u8]) -> bool) {
        while !is_there(&self.body) {
            assert!(!self.closed, "closed after {:?}", self.text());
            self.read().await;
        }
    }

    async fn until_closed(&mut self) {
        while !self.closed {
            self.read().await;
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// The same client on both roads of one hub: the engine's and hyper's.
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

/// Both bodies have an end, whole, and are the same.
async fn assert_same(mut both: [Raw; 2], contains: &[&str]) {
    for raw in &mut both {
        raw.until_closed_or_ended().await;
        assert!(raw.chunks.ended, "no end of the body: {:?}", raw.text());
    }
    let [engine, hyper] = both;
    assert_eq!(engine.text(), hyper.text());
    let mut rest = engine.text();
    for part in contains {
        let at = rest.find(part).unwrap_or_else(|| panic!("no {part:?} in {rest:?}"));
        rest = rest[at + part.len()..].to_owned();
    }
}

impl Raw {
    async fn until_closed_or_ended(&mut self) {
        while !self.closed && !self.chunks.ended {
            self.read().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_roads_give_the_same_bytes() {
    for path in ["/a", "/a,b", "/a/named", "/a,b/named", "/a/rewind", "/a/unconfirmed"] {
        let both = Both::new().await;
        publish(&both.hub, "a", "before").await;
        publish(&both.hub, "b", "before too").await;
        let streams = both.open(path).await;
        eventually("the streams are live", || async { on_shards(&both.hub) == 1 }).await;
        for (name, data) in [("a", "one"), ("b", "other"), ("a", "two\nlines"), ("a", "")] {
            publish(&both.hub, name, data).await;
        }
        publish(&both.hub, "a", "x".repeat(300_000)).await;
        let event = Event::new("named").with_name("n").unwrap().with_id("7").unwrap();
        both.hub.publish(&channel("a"), event).await.unwrap();
        for name in ["a", "b"] {
            let last = Publish::new(channel(name), Event::new("bye")).end(true);
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
async fn a_drain_ends_both_roads_alike() {
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
    let mut beats = both.open("/a/beats").await;
    let short = both.open("/a/short").await;
    for raw in &mut beats {
        raw.until(|body| body.ends_with(b":\n\n:\n\n")).await;
    }
    assert_same(short, &[]).await;
    assert_eq!(both.hub.stats().streams_ended.by(CloseReason::Lifetime), 2);
}

/// A body that is passed through as it is, with something that counts as long as it lives.
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
async fn the_engine_takes_what_it_may_and_leaves_the_rest() {
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
        .nest("/plain", router(hub.clone()))
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
        ("plain", line("/plain/a"), true),
        ("with bytes of a layer that only looks", line("/observed/a"), true),
        ("a layer that changes the body", line("/upper/a"), false),
        ("a layer that says it encodes", line("/encoded/a"), false),
        ("a future that ends it", line("/plain/a/until"), false),
        ("HTTP/1.0", "GET /plain/a HTTP/1.0\r\nhost: h\r\n\r\n".into(), false),
        (
            "a body in the request",
            "GET /plain/a HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabc".into(),
            false,
        ),
        ("after another request", line("/nowhere") + &line("/plain/a"), true),
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
        if name.contains("looks") {
            assert_eq!(
                alive.load(Ordering::SeqCst),
                1,
                "what wraps the body lives with the stream"
            );
        }
        if name.contains("changes") {
            assert!(String::from_utf8_lossy(&seen).contains("DATA: HELLO"));
        }
        drop(socket);
        eventually(&format!("{name}: the stream is gone"), || async { hub.streams() == 0 }).await;
    }
    eventually("the layer's part is gone", || async { alive.load(Ordering::SeqCst) == 0 }).await;
}

/// Sends a request, and reads the head of its answer.
async fn head_of(socket: &mut TcpStream, request: &str) -> String {
    socket.write_all(request.as_bytes()).await.unwrap();
    read_head(socket).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_have_no_stream_are_left_and_their_connection_goes_on() {
    let hub = Hub::in_memory();
    let last = Publish::new(channel("ended"), Event::new("bye")).end(true);
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
    // Nothing of a body stands between: the next answer is a stream, on a shard.
    socket.write_all(get_request("/a").as_bytes()).await.unwrap();
    let mut stream = Raw::of(socket).await;
    eventually("the stream is taken", || async { on_shards(&hub) == 1 }).await;
    publish(&hub, "a", "hello").await;
    stream.until(|body| body.ends_with(b"data: hello\n\n")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_earlier_answer_that_the_client_has_not_read_is_not_lost() {
    const LARGE: usize = 4 << 20;
    let hub = Hub::in_memory();
    let app = router(hub.clone()).route("/large", get(|| async { vec![b'x'; LARGE] }));
    let address = serve(app, 1).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut socket = socket.connect(address).await.unwrap();
    // The second request is there while the first one's answer still waits in hyper.
    let requests = get_request("/large") + &get_request("/a");
    socket.write_all(requests.as_bytes()).await.unwrap();
    let head = read_head(&mut socket).await;
    assert_eq!(parse_head(head.as_bytes()).0, 200);
    let mut body = vec![0; LARGE];
    timeout(PATIENCE, socket.read_exact(&mut body)).await.expect("in time").unwrap();
    assert!(body.iter().all(|byte| *byte == b'x'));
    let mut stream = Raw::of(socket).await;
    assert!(stream.head.starts_with("HTTP/1.1 200 OK\r\n"), "{}", stream.head);
    eventually("the engine has it", || async { on_shards(&hub) == 1 }).await;
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
            // Comes and goes all the time, and must have everything once in the end.
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
        client.expect("a client has everything");
    }
    publisher.await.unwrap();
    eventually("all are gone", || async { hub.streams() == 0 && on_shards(&hub) == 0 }).await;
    assert_eq!(hub.channels(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_wait_together_go_out_together() {
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

/// A shard that had more to do than one turn used to miss what was pushed meanwhile, and slept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_are_more_than_a_turn_all_come() {
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
    // It takes a blink; the first heartbeat would have woken a shard that slept.
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_gone_cuts_its_streams_and_its_threads_end() {
    let hub = Hub::in_memory();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = headwater::serve(listener, router(hub.clone())).shards(2);
    let server = tokio::spawn(server.into_future());
    let mut stream = Raw::open(address, "/a").await;
    eventually("it is taken", || async { on_shards(&hub) == 1 }).await;
    server.abort();
    stream.until_closed().await;
    eventually("no shard is left", || async { hub.shards().is_empty() }).await;
    assert_eq!((hub.streams(), hub.channels()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_end_waits_for_streams_of_the_engine() {
    let hub = Hub::in_memory();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = headwater::serve(listener, router(hub.clone()))
        .with_graceful_shutdown(async { drop(stopped.await) });
    let server = tokio::spawn(server.into_future());
    let mut stream = Raw::open(address, "/a").await;
    eventually("it is taken", || async { on_shards(&hub) == 1 }).await;
    stop.send(()).unwrap();
    eventually("nobody is let in", || async { TcpStream::connect(address).await.is_err() }).await;
    publish(&hub, "a", "late").await;
    stream.until(|body| body.ends_with(b"data: late\n\n")).await;
    assert!(!server.is_finished());
    hub.drain();
    stream.until_closed().await;
    assert!(stream.chunks.ended);
    timeout(PATIENCE, server).await.expect("it ends").unwrap().unwrap();
}
