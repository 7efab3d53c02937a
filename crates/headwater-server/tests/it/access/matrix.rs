//! The access matrix: every credential at every endpoint, and everything that ends a stream in
//! every phase of it, each over every transport. The cells are generated, and their number is
//! asserted. Look here for what is decided in which case.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream;
use headwater_test_support::Node;
use headwater_test_support::http;
use headwater_test_support::tls::Files;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

use crate::support::BINARY;
use crate::support::access::{SecretFile, by_hand, claims, now, sign, token};
use crate::support::transport::{Ask, Reply, Transport, ask};

/// The nodes of a matrix: one without TLS, one with it.
struct Nodes {
    plain: Node,
    tls: Node,
    files: Files,
    _secret: SecretFile,
}

impl Nodes {
    async fn start() -> Self {
        let (files, secret) = (Files::new(), SecretFile::new());
        let arguments = [
            "--jwt-secret-file",
            secret.path(),
            "--jwt-cookie",
            "hw",
            "--public",
            "public",
            "--retention",
            "big* events=1000 bytes=64MiB",
            // Blocked streams must not end before they are ended.
            "--queue-bytes",
            "64MiB",
            // A page of many cells has one address.
            "--max-failed-logins",
            "off",
        ];
        let plain = Node::start(BINARY, &arguments);
        let tls = files.start(BINARY, &arguments);
        plain.wait_until_ready().await;
        tls.wait_until_ready().await;
        Self { plain, tls, files, _secret: secret }
    }

    fn node(&self, transport: Transport) -> &Node {
        if transport.is_tls { &self.tls } else { &self.plain }
    }

    async fn ask(&self, transport: Transport, request: Ask<'_>) -> Reply {
        ask(transport, self.node(transport), &self.files, request).await
    }

    /// Closes streams, or revokes a token, on the node that serves this transport.
    async fn revoke(&self, transport: Transport, query: &str) {
        let node = self.node(transport);
        let address = node.admin_address().unwrap_or(node.address());
        let path = format!("/admin/streams?{query}");
        let headers = [("authorization", &*bearer(&admin()))];
        let answer = http::request(address, "DELETE", &path, &headers, b"").await;
        assert_eq!(answer.status, 204, "{query}: {}", answer.text());
    }
}

fn bearer(claims: &Value) -> String {
    format!("Bearer {}", token(claims))
}

fn admin() -> Value {
    json!({ "exp": now() + 60.0, "headwater": { "admin": true } })
}

fn with(mut claims: Value, change: &Value) -> Value {
    for (name, value) in change.as_object().expect("claims") {
        claims[name] = value.clone();
    }
    claims
}

// === credentials and endpoints ===

#[derive(Debug, Clone, Copy, PartialEq)]
enum Credential {
    Nothing,
    Garbage,
    Basic,
    Unsigned,
    OtherKey,
    Expired,
    NotYet,
    Revoked,
    /// Valid, for another channel.
    OtherChannel,
    Subscriber,
    Publisher,
    Both,
    Admin,
    /// The token of `Both` in a cookie, from a page of this server and of another one.
    Cookie,
    ForeignCookie,
}

use Credential::{
    Admin, Basic, Both, Cookie, Expired, ForeignCookie, Garbage, NotYet, Nothing, OtherChannel,
    OtherKey, Publisher, Revoked, Subscriber, Unsigned,
};

const CREDENTIALS: [Credential; 15] = [
    Nothing,
    Garbage,
    Basic,
    Unsigned,
    OtherKey,
    Expired,
    NotYet,
    Revoked,
    OtherChannel,
    Subscriber,
    Publisher,
    Both,
    Admin,
    Cookie,
    ForeignCookie,
];

impl Credential {
    fn headers(self, transport: Transport) -> Vec<(String, String)> {
        let both = claims(&["news"], &["news"]);
        let authorization = match self {
            Nothing => return Vec::new(),
            Garbage => "Bearer garbage".to_owned(),
            Basic => "Basic dXNlcjpwYXNzd29yZA==".to_owned(),
            Unsigned => format!("Bearer {}", by_hand(&json!({ "alg": "none" }), &both, b"")),
            OtherKey => {
                let key = EncodingKey::from_secret(b"another-another-another-another-");
                format!("Bearer {}", sign(Algorithm::HS256, &key, &both))
            }
            Expired => bearer(&with(both, &json!({ "exp": now() - 100.0 }))),
            NotYet => bearer(&with(both, &json!({ "nbf": now() + 100.0 }))),
            Revoked => bearer(&with(both, &json!({ "jti": "revoked" }))),
            OtherChannel => bearer(&claims(&["other"], &["other"])),
            Subscriber => bearer(&claims(&["news"], &[])),
            Publisher => bearer(&claims(&[], &["news"])),
            Both => bearer(&both),
            Admin => bearer(&admin()),
            Cookie | ForeignCookie => {
                let scheme = if transport.is_tls { "https" } else { "http" };
                let own = format!("{scheme}://localhost");
                let origin = if self == Cookie { own } else { "https://evil.example".to_owned() };
                let cookie = format!("hw={}", token(&both));
                return vec![("cookie".to_owned(), cookie), ("origin".to_owned(), origin)];
            }
        };
        vec![("authorization".to_owned(), authorization)]
    }

    fn is_valid(self) -> bool {
        let invalid = [Nothing, Garbage, Basic, Unsigned, OtherKey, Expired, NotYet, Revoked];
        !invalid.contains(&self)
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Endpoint {
    Stream,
    Head,
    Rewind,
    PublicStream,
    /// A public channel, and one that is not.
    MixedStream,
    Publish,
    Batch,
    PublishToPublic,
    Ticket,
    Revoke,
}

const ENDPOINTS: [Endpoint; 10] = [
    Endpoint::Stream,
    Endpoint::Head,
    Endpoint::Rewind,
    Endpoint::PublicStream,
    Endpoint::MixedStream,
    Endpoint::Publish,
    Endpoint::Batch,
    Endpoint::PublishToPublic,
    Endpoint::Ticket,
    Endpoint::Revoke,
];

impl Endpoint {
    fn request(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Stream => ("GET", "/sse/stream?channel=news", ""),
            Self::Head => ("HEAD", "/sse/stream?channel=news", ""),
            Self::Rewind => ("GET", "/sse/stream?channel=news&rewind=all", ""),
            Self::PublicStream => ("GET", "/sse/stream?channel=public", ""),
            Self::MixedStream => ("GET", "/sse/stream?channel=public&channel=news", ""),
            Self::Publish => ("POST", "/sse/publish?channel=news", "x"),
            Self::Batch => ("POST", "/sse/publish", "{\"channel\":\"news\",\"data\":\"x\"}"),
            Self::PublishToPublic => ("POST", "/sse/publish?channel=public", "x"),
            Self::Ticket => ("POST", "/sse/ticket?channel=news", ""),
            Self::Revoke => ("DELETE", "/admin/streams?user=nobody", ""),
        }
    }

    /// The right answer.
    fn expected(self, credential: Credential, transport: Transport) -> u16 {
        if self == Self::Revoke && transport.is_tls {
            // Administration has an address of its own there.
            return 404;
        }
        let subscribes = [Subscriber, Both, Cookie, ForeignCookie].contains(&credential);
        let publishes = [Publisher, Both, Cookie, ForeignCookie].contains(&credential);
        let (may, granted) = match self {
            Self::PublicStream => return 200,
            Self::Stream | Self::Head | Self::Rewind | Self::MixedStream | Self::Ticket => {
                (subscribes, 200)
            }
            Self::Publish | Self::Batch => (publishes, 200),
            Self::PublishToPublic => (false, 200),
            Self::Revoke => (credential == Admin, 204),
        };
        match (credential.is_valid(), may && credential != ForeignCookie) {
            (false, _) => 401,
            (true, false) => 403,
            (true, true) => granted,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_credential_at_every_endpoint_over_every_transport() {
    let nodes = Nodes::start().await;
    for transport in Transport::ALL {
        nodes.revoke(transport, "token=revoked").await;
    }
    let (mut cells, mut wrong) = (0, Vec::new());
    for transport in Transport::ALL {
        for endpoint in ENDPOINTS {
            for credential in CREDENTIALS {
                let (method, path, body) = endpoint.request();
                let mut headers = credential.headers(transport);
                if endpoint == Endpoint::Batch {
                    headers.push(("content-type".to_owned(), "application/x-ndjson".to_owned()));
                }
                let request = Ask { method, path, headers: &headers, body, receive_buffer: None };
                let reply = nodes.ask(transport, request).await;
                let expected = endpoint.expected(credential, transport);
                if reply.status != expected {
                    let status = reply.status;
                    wrong.push(format!(
                        "{credential:?} at {endpoint:?} over {transport}: {status}, not {expected}"
                    ));
                }
                cells += 1;
            }
        }
    }
    assert!(wrong.is_empty(), "{} cells: {wrong:#?}", wrong.len());
    assert_eq!(cells, 600);
}

// === what ends a stream ===

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// It has received everything.
    Live,
    /// It has received nothing but the start of a long history.
    Replaying,
    /// Live events wait for its client, which does not read.
    Blocked,
    /// It resumed from an id, and is live.
    Resumed,
}

const PHASES: [Phase; 4] = [Phase::Live, Phase::Replaying, Phase::Blocked, Phase::Resumed];

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    User,
    Token,
    Channel,
    Stream,
    Expiry,
}

const ENDS: [End; 5] = [End::User, End::Token, End::Channel, End::Stream, End::Expiry];

/// What may be in flight when a stream is ended, in bytes: the kernel's buffers, 4 MiB at most,
/// and one page.
const IN_FLIGHT: usize = 6 << 20;

/// Events of the history, and of those that block a stream: 23 MB.
const EVENTS: usize = 390;

const SECONDS: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_ends_a_stream_does_so_in_every_phase_over_every_transport() {
    let nodes = Nodes::start().await;
    for transport in [Transport::ALL[0], Transport::ALL[2]] {
        fill(&nodes, transport, "big").await;
    }
    let cells = Transport::ALL.into_iter().flat_map(|transport| {
        PHASES.into_iter().flat_map(move |phase| ENDS.map(|end| (transport, phase, end)))
    });
    let cells: Vec<_> = cells.enumerate().collect();
    assert_eq!(cells.len(), 80);
    let checked = stream::iter(cells).map(|(number, cell)| check_end(&nodes, number, cell));
    let wrong: Vec<String> =
        checked.buffer_unordered(8).filter_map(|wrong| async { wrong }).collect().await;
    assert!(wrong.is_empty(), "{} cells: {wrong:#?}", wrong.len());
}

/// Publishes a long history.
async fn fill(nodes: &Nodes, transport: Transport, channel: &str) {
    let transport = Transport { is_http2: false, ..transport };
    let headers = [
        ("authorization".to_owned(), bearer(&claims(&[], &["*"]))),
        ("content-type".to_owned(), "application/x-ndjson".to_owned()),
    ];
    let line = json!({ "channel": channel, "data": "x".repeat(60_000) }).to_string() + "\n";
    let mut left = EVENTS;
    while left > 0 {
        let count = left.min(100);
        left -= count;
        let body = line.repeat(count);
        let request = Ask {
            method: "POST",
            path: "/sse/publish",
            headers: &headers,
            body: &body,
            receive_buffer: None,
        };
        let mut reply = nodes.ask(transport, request).await;
        let text = reply.text().await;
        if reply.status == 503 {
            // The bodies of one user share a part of the room.
            left += count;
            tokio::time::sleep(SECONDS / 10).await;
            continue;
        }
        assert_eq!(reply.status, 200, "{text}");
    }
}

/// Opens a stream, brings it into a phase, ends it, and reads on. Returns what is wrong.
async fn check_end(
    nodes: &Nodes,
    number: usize,
    (transport, phase, end): (Transport, Phase, End),
) -> Option<String> {
    let cell = format!("{end:?} while {phase:?} over {transport}");
    let (user, own, id) =
        (format!("user-{number}"), format!("own-{number}"), format!("id-{number}"));
    let expires = if end == End::Expiry { 3.0 } else { 60.0 };
    let claims =
        with(claims(&["*"], &["*"]), &json!({ "sub": user, "jti": id, "exp": now() + expires }));
    let mut headers = vec![("authorization".to_owned(), bearer(&claims))];
    let path = match phase {
        Phase::Replaying => format!("/sse/stream?channel={own}&channel=big&rewind=all"),
        Phase::Live | Phase::Blocked | Phase::Resumed => format!("/sse/stream?channel={own}"),
    };
    if phase == Phase::Resumed {
        headers.push(("last-event-id".to_owned(), "1-1".to_owned()));
    }
    let request = |path, body| Ask {
        method: "GET",
        path,
        headers: &headers,
        body,
        receive_buffer: Some(4096),
    };
    let began = Instant::now();
    let mut stream = nodes.ask(transport, request(&path, "")).await;
    assert_eq!(stream.status, 200, "{cell}");
    stream.read_until(":").await;
    if phase == Phase::Blocked {
        fill(nodes, transport, &own).await;
    }
    let stream_id = stream.headers["headwater-stream"].to_str().expect("an id").to_owned();
    match end {
        End::User => nodes.revoke(transport, &format!("user={user}")).await,
        End::Token => nodes.revoke(transport, &format!("token={id}")).await,
        End::Channel => nodes.revoke(transport, &format!("channel={own}")).await,
        End::Stream => nodes.revoke(transport, &format!("stream={stream_id}")).await,
        End::Expiry => {
            tokio::time::sleep((3 * SECONDS + SECONDS / 2).saturating_sub(began.elapsed())).await;
        }
    }
    let (ended, mut bytes) = (Instant::now(), 0);
    while let Some(more) = stream.next(10 * SECONDS).await {
        bytes += more.len();
        if bytes > IN_FLIGHT || ended.elapsed() > 10 * SECONDS {
            return Some(format!("{cell}: {bytes} bytes after the end, and it goes on"));
        }
    }
    None
}
