//! What a request costs: the table of docs/limits.md, the order of the steps, and a measurement of
//! every kind of request. Look here for what is the worst that a client may ask for.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use headwater_server::price::Price;
use headwater_server::router::{Part, ROUTES, Route, price_table};
use headwater_test_support::tls::Files;
use headwater_test_support::{EventStream, Node, http};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::BINARY;
use crate::support::access::{SecretFile, claims, token};
use crate::support::backend::{Backend, json};
use crate::support::transport::{Ask, Transport, ask};

/// What the process may take beside: the allocator keeps pages, and its threads have a heap each.
const NOISE_BYTES: u64 = 16 << 20;

/// How many requests are measured at a time.
const AT_ONCE: u32 = 8;

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

#[test]
fn the_table_in_the_documentation_is_current() {
    const BEGIN: &str = "--test it prices -->\n";
    const END: &str = "<!-- end -->";
    let path = in_repository("docs/limits.md");
    let page = fs::read_to_string(&path).expect("the page");
    let (before, rest) = page.split_once(BEGIN).expect("where the table begins");
    let (found, after) = rest.split_once(END).expect("where it ends");
    let wanted = price_table();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, [before, BEGIN, &wanted, END, after].concat()).expect("it is written");
        return;
    }
    assert!(
        found == wanted,
        "docs/limits.md is not what the routes say: run `UPDATE_DOCS=1 cargo test -p \
         headwater-server --test it prices` and commit the file"
    );
}

/// Each route names its price, so a path without one must have been added in another way.
#[test]
fn paths_are_added_by_the_list_of_routes_only() {
    let mut folders = vec![in_repository("crates/headwater-server/src")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).expect("a file");
            for way in [".route(", ".route_service(", ".nest(", ".nest_service("] {
                let file = path.file_name().expect("a name").to_string_lossy();
                found.extend(text.matches(way).map(|way| format!("{file}: {way}")));
            }
        }
    }
    assert_eq!(found, ["router.rs: .route("]);
}

/// A path of this route.
fn path_of(route: &Route) -> String {
    route.path.replace("{file}", "info")
}

#[tokio::test]
async fn every_route_is_served_on_its_address_and_over_every_transport() {
    let files = Files::new();
    let plain = Node::start(BINARY, &["--open", "--admin", "127.0.0.1:0"]);
    let nodes = [plain, files.start(BINARY, &[])];
    for transport in Transport::ALL {
        let node = &nodes[usize::from(transport.is_tls)];
        for route in ROUTES {
            let is_admin = route.part == Part::Admin;
            let path = path_of(route);
            let request =
                Ask { method: "TRACE", path: &path, headers: &[], body: "", receive_buffer: None };
            let reply = ask(transport, node, &files, request).await;
            let what = format!("{path} over {transport}");
            // The address for operators has the same versions of HTTP, without TLS.
            assert_eq!(reply.status, if is_admin { 404 } else { 405 }, "{what}");
            if !is_admin {
                assert_eq!(reply.headers["allow"], route.methods, "{what}");
            }
        }
    }
    let admin = nodes[0].admin_address().expect("the log says where");
    for route in ROUTES {
        let answer = http::request(admin, "TRACE", &path_of(route), &[], b"").await;
        let is_admin = route.part == Part::Admin;
        assert_eq!(answer.status, if is_admin { 405 } else { 404 }, "{}", route.path);
        if is_admin {
            assert_eq!(answer.header("allow"), Some(route.methods), "{}", route.path);
        }
    }
}

/// Sends a head that announces a body, and reads the status of whatever comes first.
async fn first_status(node: &Node, head: &str) -> (u16, TcpStream) {
    let mut socket = TcpStream::connect(node.address()).await.expect("the server listens");
    socket.write_all(format!("{head}\r\n\r\n").as_bytes()).await.expect("it is sent");
    let mut answer = [0; 12];
    let read = timeout(Duration::from_secs(5), socket.read_exact(&mut answer)).await;
    read.expect("an answer without the body").expect("an answer");
    let status = String::from_utf8_lossy(&answer)[9..].parse().expect("a status");
    (status, socket)
}

/// A body's length, then `Expect`, or pieces that never come.
const BODIES: [&str; 3] = [
    "content-length: 1000\r\nexpect: 100-continue",
    "content-length: 1000",
    "transfer-encoding: chunked",
];

#[tokio::test]
async fn a_request_that_is_refused_is_answered_before_its_body_is_read() {
    let secret = SecretFile::new();
    let arguments = ["--jwt-secret-file", secret.path(), "--max-failed-logins", "off"];
    let node = Node::start(BINARY, &arguments);
    let good = token(&claims(&["a"], &["a"]));
    for route in ROUTES {
        for body in BODIES {
            for method in route.methods.split(", ").filter(|it| *it != "HEAD") {
                let head = |query: &str, token: &str| {
                    let path = path_of(route);
                    format!(
                        "{method} {path}{query} HTTP/1.1\r\nhost: localhost\r\nauthorization: \
                         Bearer {token}\r\n{body}"
                    )
                };
                let what = format!("{method} {} with {body}", route.path);
                let (status, _socket) = first_status(&node, &head("?channel=a", "wrong")).await;
                let is_open = matches!(route.part, Part::Demo)
                    || route.path.starts_with("/health")
                    || route.path == "/metrics";
                assert!(is_open == (status < 400) && status != 100, "{what}: {status}");
                if route.price.body_copies == 0 {
                    continue;
                }
                // A cheap check comes first, whatever the credential.
                let (status, _socket) = first_status(&node, &head("?channel=", "wrong")).await;
                assert_eq!(status, 400, "{what}");
                if body.contains("expect") {
                    let (status, _socket) = first_status(&node, &head("?channel=a", &good)).await;
                    assert_eq!(status, 100, "{what}: a good one is read");
                }
            }
        }
    }
}

/// The share of bodies is a tenth of the memory, and a body counts three times.
const ROOM: usize = (16 << 20) / 100 * 10 / 3;

/// The largest leaves a quarter to others.
const LARGEST: usize = ROOM - ROOM / 4;

#[tokio::test]
async fn a_full_share_of_bodies_refuses_before_the_body_is_read() {
    let secret = SecretFile::new();
    let arguments = ["--jwt-secret-file", secret.path(), "--memory", "16MiB"];
    let node = Node::start(BINARY, &arguments);
    let of = |user: &str| {
        let mut claims = claims(&["a"], &["a"]);
        claims["sub"] = user.into();
        token(&claims)
    };
    let head = |user: &str, body: &str| {
        format!(
            "POST /sse/publish?channel=a HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer \
             {}\r\n{body}",
            of(user)
        )
    };
    let bearer = format!("Bearer {}", of("cy"));
    let headers = [("authorization", &*bearer)];
    let stream_path = "/sse/stream?channel=a";
    let mut stream = EventStream::open_with(node.address(), stream_path, &headers, None).await;
    // Nobody has sent a byte of it.
    let of_size = |bytes: usize| format!("content-length: {bytes}\r\nexpect: 100-continue");
    let (status, first) = first_status(&node, &head("ann", &of_size(LARGEST))).await;
    assert_eq!(status, 100);
    let (status, _) = first_status(&node, &head("ann", BODIES[0])).await;
    assert_eq!(status, 503, "she has her share");
    let (status, second) = first_status(&node, &head("dee", &of_size(ROOM - LARGEST))).await;
    assert_eq!(status, 100, "there is room for others");
    for (user, body) in [("bob", BODIES[0]), ("bob", BODIES[1]), ("ann", BODIES[0])] {
        let (status, mut socket) = first_status(&node, &head(user, body)).await;
        assert_eq!(status, 503, "{user} with {body}");
        let mut rest = vec![0; 2_000];
        let length = socket.read(&mut rest).await.expect("the rest of the answer");
        let rest = String::from_utf8_lossy(&rest[..length]).to_lowercase();
        assert!(rest.contains("\r\nretry-after: 1\r\n"), "{rest}");
    }
    let refusals = "headwater_memory_refusals_total{share=\"bodies\"}";
    assert!(node.metric(refusals).await >= 2.0);
    let used = node.metric("headwater_memory_used_bytes{share=\"bodies\"}").await;
    assert!(used <= node.metric("headwater_memory_limit_bytes{share=\"bodies\"}").await);
    let too_large = of_size(LARGEST + 1);
    assert_eq!(first_status(&node, &head("bob", &too_large)).await.0, 413);
    // Others go on, and there is room once the first has left.
    let path = "/sse/ticket?channel=a";
    assert_eq!(http::request(node.address(), "POST", path, &headers, b"").await.status, 200);
    drop((first, second));
    headwater_test_support::eventually("there is room again", || async {
        let path = "/sse/publish?channel=a";
        http::request(node.address(), "POST", path, &headers, b"x").await.status == 200
    })
    .await;
    assert_eq!(stream.next().await.expect("an open stream").data, "x");
}

/// The longest query that a client may ask with: every channel that there can be, each with the
/// longest name that fits the URL of a question.
fn longest_query() -> String {
    let channel = |number| format!("channel={number:02}{}", "n".repeat(200));
    (0..100).map(channel).collect::<Vec<_>>().join("&")
}

struct Measured {
    bytes: u64,
    cpu: Duration,
}

/// Takes the peak of the memory, and the time of the processor, while something is done.
async fn measured<T>(node: &Node, what: impl Future<Output = T>) -> (Measured, T) {
    node.forget_peak();
    let (memory, cpu) = (node.memory_bytes(), node.cpu_time());
    let done = what.await;
    let bytes = node.peak_bytes().saturating_sub(memory);
    (Measured { bytes, cpu: node.cpu_time().saturating_sub(cpu) }, done)
}

/// Compares a measurement of so many requests with their price.
fn check(name: &str, measured: &Measured, price: &Price, requests: u32, body_bytes: usize) {
    let Measured { bytes, cpu } = *measured;
    println!("{name}: {requests} requests took {} KiB and {cpu:?}", bytes >> 10);
    let allowed = u64::from(requests) * price.memory_with(body_bytes) as u64 + NOISE_BYTES;
    assert!(bytes <= allowed, "{name}: {bytes} bytes, allowed {allowed}");
    let allowed = requests * price.cpu_with(body_bytes) + Duration::from_millis(20);
    assert!(cpu <= allowed, "{name}: {cpu:?}, allowed {allowed:?}");
}

#[tokio::test]
async fn the_longest_head_costs_what_every_route_says() {
    let backend = Backend::start(&json("{}")).await;
    backend.answer_with(&json("{}"), Duration::from_millis(200));
    let url = backend.url("/sse-auth");
    let arguments = ["--authorize-url", &url, "--max-failed-logins", "off"];
    let node = Node::start_quiet(BINARY, &arguments);
    let address = node.address();
    let query = longest_query();
    for (at, route) in ROUTES.iter().enumerate() {
        for method in route.methods.split(", ") {
            let asked = backend.requests().len();
            let is_stream = method == "GET" && route.path == "/sse/stream";
            let requests = async {
                let mut all = JoinSet::new();
                for number in 0..AT_ONCE {
                    let query = if route.path == "/admin/streams" { "user=ann" } else { &*query };
                    let path = format!("{}?{query}", path_of(route));
                    let cookie = format!("session={at}-{number}-{}", "c".repeat(38 << 10));
                    let origin = format!("http://{address}");
                    let method = method.to_owned();
                    all.spawn(async move {
                        let headers = [("cookie", &*cookie), ("origin", &*origin)];
                        if is_stream {
                            let open = EventStream::open_with(address, &path, &headers, None);
                            return open.await.status;
                        }
                        http::request(address, &method, &path, &headers, b"").await.status
                    });
                }
                all.join_all().await
            };
            let (measured, statuses) = measured(&node, requests).await;
            let name = format!("{method} {}", route.path);
            assert!(statuses.iter().all(|it| *it < 400), "{name}: {statuses:?}");
            check(&name, &measured, &route.price, AT_ONCE, 0);
            let asked = backend.requests().len() - asked;
            assert!(asked <= AT_ONCE as usize * route.price.questions, "{name}: {asked} questions");
        }
    }
}

#[tokio::test]
async fn the_largest_bodies_cost_what_publishing_says() {
    const BODY_BYTES: usize = 8 << 20;
    let route = ROUTES.iter().find(|it| it.path == "/sse/publish").expect("the route");
    let line = |number: usize| {
        let data = "d".repeat(BODY_BYTES / 10_000 - 40);
        format!("{{\"channel\":\"c{number:05}\",\"data\":\"{data}\"}}\n")
    };
    let batch: String = (0..10_000).map(line).collect();
    let many: Vec<_> = (0..100).map(|number| format!("channel=many{number}")).collect();
    let many = format!("/sse/publish?{}", many.join("&"));
    let plain = "text/plain";
    for (name, path, kind, body) in [
        ("text", "/sse/publish?channel=a", plain, "t".repeat(BODY_BYTES)),
        ("line ends", "/sse/publish?channel=a", plain, "\n".repeat(BODY_BYTES)),
        ("many channels", &*many, plain, "m".repeat(BODY_BYTES)),
        ("batch", "/sse/publish", "application/x-ndjson", batch),
    ] {
        let node = Node::start_quiet(BINARY, &["--open", "--queue-bytes", "64MiB"]);
        let _stream = EventStream::open(node.address(), "/sse/stream?channel=a").await;
        let publish = async {
            let headers = [("content-type", kind)];
            http::request(node.address(), "POST", path, &headers, body.as_bytes()).await.status
        };
        let (measured, status) = measured(&node, publish).await;
        assert_eq!(status, 200, "{name}");
        check(name, &measured, &route.price, 1, body.len());
    }
}

#[tokio::test]
async fn a_request_waits_for_the_application_no_longer_than_it_says() {
    let backend = Backend::start(&json("{}")).await;
    backend.answer_with(&json("{}"), Duration::from_secs(60));
    let url = backend.url("/sse-auth");
    let node = Node::start(BINARY, &["--authorize-url", &url, "--authorize-timeout", "200ms"]);
    for route in ROUTES.iter().filter(|it| it.price.questions > 0) {
        let method = route.methods.split(", ").next().expect("a method");
        let path = format!("{}?channel=a", path_of(route));
        let begin = Instant::now();
        let answer = http::request(node.address(), method, &path, &[], b"").await;
        answer.problem(503);
        assert_eq!(answer.header("retry-after"), Some("1"), "{path}");
        let took = begin.elapsed();
        assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(3), "{took:?}");
    }
}
