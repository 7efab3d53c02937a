//! TLS: both versions of HTTP over it, a certificate that changes, and clients that do not speak
//! it. Look here for what is promised to clients with https:// in their URL.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_test_support::tls::{Files, connect, try_shake_hands, write_private};
use headwater_test_support::{Node, PATIENCE, eventually, http};
use rustls::{HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::BINARY;
use crate::support::command_line::{headwater, outcome, wait_for_notice};
use crate::support::http2::Connection;
use crate::support::tls::{ask, certificate_of, read_until};

async fn connect_http2(node: &Node, files: &Files) -> Connection {
    let socket = connect(node.address(), &Arc::new(files.client(&["h2", "http/1.1"]))).await;
    assert_eq!(socket.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    Connection::over(socket, format!("https://localhost:{}", node.address().port())).await
}

const OPEN: &str = "GET /sse/stream?channel=news HTTP/1.1\r\nhost: localhost\r\n\r\n";

fn publish(data: &str) -> String {
    let length = data.len();
    format!(
        "POST /sse/publish?channel=news HTTP/1.1\r\nhost: localhost\r\ncontent-length: \
         {length}\r\n\r\n{data}"
    )
}

#[tokio::test]
async fn one_http2_connection_carries_150_streams() {
    let files = Files::new();
    let node = files.start(BINARY, &[]);
    let mut connection = connect_http2(&node, &files).await;
    let mut streams = Vec::new();
    for number in 0..150 {
        streams
            .push(connection.stream(&format!("/sse/stream?channel=news&channel=c{number}")).await);
    }
    node.wait_for_metric("headwater_streams", 150.0).await;
    let mut publisher = connect(node.address(), &Arc::new(files.client(&["http/1.1"]))).await;
    ask(&mut publisher, &publish("hello"), "\"channel\":\"news\"").await;
    for stream in &mut streams {
        assert_eq!(stream.next().await.expect("the stream is open").data, "hello");
    }
    node.wait_for_metric("headwater_tls_handshakes_total", 2.0).await;
}

#[tokio::test]
async fn http1_and_both_versions_of_tls_are_spoken() {
    let files = Files::new();
    let node = files.start(BINARY, &[]);
    for (alpn, version, expected) in [
        (&["http/1.1"][..], &rustls::version::TLS13, ProtocolVersion::TLSv1_3),
        (&[], &rustls::version::TLS12, ProtocolVersion::TLSv1_2),
    ] {
        let config = Arc::new(files.client_of_versions(alpn, &[version]));
        let mut socket = connect(node.address(), &config).await;
        let session = socket.get_ref().1;
        assert_eq!(session.protocol_version(), Some(expected));
        assert_eq!(session.alpn_protocol().is_some(), !alpn.is_empty());
        let head = ask(&mut socket, OPEN, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let mut publisher = connect(node.address(), &config).await;
        ask(&mut publisher, &publish("hello"), "\"channel\":\"news\"").await;
        read_until(&mut socket, "data: hello\n").await;
        // The second handshake was cheap: clients that reconnect all at once cost no signatures.
        assert_eq!(publisher.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    }
}

#[tokio::test]
async fn a_client_that_offers_only_other_protocols_is_rejected() {
    let files = Files::new();
    let node = files.start(BINARY, &[]);
    let socket = TcpStream::connect(node.address()).await.expect("the server listens");
    let config = Arc::new(files.client(&["smtp"]));
    let shaken = try_shake_hands(socket, &config, "localhost").await;
    let error = shaken.expect_err("nothing to speak about");
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    node.wait_for_metric("headwater_tls_errors_total", 1.0).await;
}

#[tokio::test]
async fn a_new_certificate_is_used_and_open_streams_stay() {
    let mut files = Files::new();
    let node = files.start(BINARY, &[]);
    let first = files.certificate.clone();
    let mut stream = connect(node.address(), &Arc::new(files.client(&[]))).await;
    ask(&mut stream, OPEN, "retry: ").await;
    assert_eq!(certificate_of(&stream), first);

    // A signal.
    files.renew();
    node.signal("HUP");
    node.wait_for_metric("headwater_tls_reloads_total", 1.0).await;
    let config = Arc::new(files.client(&[]));
    let mut publisher = connect(node.address(), &config).await;
    assert_eq!(certificate_of(&publisher), files.certificate);
    assert_ne!(files.certificate, first);
    ask(&mut publisher, &publish("after the signal"), "\"channel\":\"news\"").await;
    read_until(&mut stream, "data: after the signal\n").await;

    // A key that is not the certificate's: the old pair stays.
    let key = fs::read(files.key_path()).expect("the key");
    write_private(&files.key_path(), &rcgen::KeyPair::generate().expect("a key").serialize_pem());
    node.signal("HUP");
    node.wait_for_metric("headwater_tls_reload_errors_total", 1.0).await;
    node.wait_for_log("do not fit together");
    let other = connect(node.address(), &config).await;
    assert_eq!(certificate_of(&other), files.certificate);

    // Without a signal, when the files have settled.
    fs::write(files.key_path(), key).expect("the key is written");
    files.renew();
    node.wait_for_metric("headwater_tls_reloads_total", 2.0).await;
    let mut publisher = connect(node.address(), &Arc::new(files.client(&[]))).await;
    assert_eq!(certificate_of(&publisher), files.certificate);
    ask(&mut publisher, &publish("after the look"), "\"channel\":\"news\"").await;
    read_until(&mut stream, "data: after the look\n").await;

    // Gone, and logged once.
    fs::remove_file(files.certificate_path()).expect("the certificate is removed");
    node.wait_for_metric("headwater_tls_reload_errors_total", 2.0).await;
    node.wait_for_log("cannot read");
    connect(node.address(), &Arc::new(files.client(&[]))).await;
    let expiry = node.metric("headwater_tls_certificate_expiry_timestamp_seconds").await;
    assert!(expiry > 4e9, "{expiry}: certificates of tests last long");
}

#[tokio::test]
async fn plain_http_is_redirected_to_https() {
    let files = Files::new();
    let node = files.start(BINARY, &[]);
    let address = node.address();
    let answer = http::get(address, "/sse/stream?channel=a%20b").await;
    assert_eq!(answer.status, 308);
    let location = format!("https://{address}/sse/stream?channel=a%20b");
    assert_eq!(answer.header("location"), Some(&*location));
    assert_eq!(http::request(address, "HEAD", "/", &[], b"").await.status, 308);
    let refused = http::post(address, "/sse/publish?channel=news", b"x").await;
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("use https://"), "{}", refused.text());
    for request in [
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: user@example.org\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a/b\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let answer = http::exchange(address, request.as_bytes()).await;
        assert_eq!((answer.status, answer.header("location")), (400, None), "{request:?}");
    }
    node.wait_for_metric("headwater_streams_opened_total", 0.0).await;
    node.wait_for_metric("headwater_tls_plain_total", 7.0).await;
}

#[tokio::test]
async fn a_handshake_that_does_not_end_times_out() {
    let files = Files::new();
    let node = files.start(BINARY, &[]);
    let begin = Instant::now();
    let mut sockets = Vec::new();
    // Nothing; a record that does not end; a request without TLS that does not end.
    for bytes in [&b""[..], &[0x16, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3], b"GET / HTTP"] {
        let mut socket = TcpStream::connect(node.address()).await.expect("the server listens");
        socket.write_all(bytes).await.expect("it is sent");
        sockets.push(socket);
    }
    // What is no handshake is not waited for.
    let mut socket = TcpStream::connect(node.address()).await.expect("the server listens");
    socket.write_all(&[0x16, 9, 9, 0, 5, 0, 0, 0, 0, 0]).await.expect("it is sent");
    closed(socket).await;
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    for socket in sockets {
        closed(socket).await;
        assert!(begin.elapsed() > Duration::from_secs(9), "{:?}", begin.elapsed());
    }
    node.wait_for_metric("headwater_tls_errors_total", 3.0).await;
}

/// How many sockets a process has.
fn sockets_of(process: u32) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{process}/fd")).expect("the process runs");
    let targets = descriptors.flatten().flat_map(|entry| fs::read_link(entry.path()));
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

async fn closed(mut socket: TcpStream) {
    let mut bytes = Vec::new();
    // A reset is an end too.
    let _ = timeout(PATIENCE, socket.read_to_end(&mut bytes)).await.expect("an end in time");
}

#[tokio::test]
async fn a_client_that_accepts_no_data_is_disconnected() {
    let files = Files::new();
    let node = files.start(BINARY, &["--send-timeout", "1s"]);
    let config = Arc::new(files.client(&["http/1.1"]));
    let mut publisher = connect(node.address(), &config).await;
    ask(&mut publisher, &publish("x"), "\"channel\":\"news\"").await;
    let sockets = sockets_of(node.process_id());
    let mut stream = connect(node.address(), &config).await;
    ask(&mut stream, OPEN, "retry: ").await;
    let data = "x".repeat(200_000);
    // More than the kernel holds for the client, and less than a queue: it must be the clock that
    // ends it.
    for _ in 0..40 {
        ask(&mut publisher, &publish(&data), "\"channel\":\"news\"").await;
        if node.metric("headwater_streams").await < 0.5 {
            break;
        }
    }
    node.wait_for_metric("headwater_streams", 0.0).await;
    let stalled = node.metric("headwater_streams_ended_total{reason=\"stalled\"}").await;
    let overflow = node.metric("headwater_streams_ended_total{reason=\"overflow\"}").await;
    assert!((stalled + overflow - 1.0).abs() < f64::EPSILON, "{stalled} {overflow}");
    // Its connection is closed too, though it still takes nothing.
    let closed = || async { sockets_of(node.process_id()) == sockets };
    eventually("the connection is closed", closed).await;
}

#[tokio::test]
async fn streams_end_well_when_the_server_stops() {
    let files = Files::new();
    let mut node = files.start(BINARY, &["--drain-timeout", "60s"]);
    let mut stream = connect(node.address(), &Arc::new(files.client(&["http/1.1"]))).await;
    ask(&mut stream, OPEN, "retry: ").await;
    // One that is in the middle of its handshake does not hold the end up.
    let _silent = TcpStream::connect(node.address()).await.expect("the server listens");
    node.signal("TERM");
    let mut rest = Vec::new();
    // An end without the close of TLS would be an error here.
    let read = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("an end in time");
    read.expect("an end that TLS vouches for");
    assert!(rest.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&rest));
    assert_eq!(node.wait_for_end(PATIENCE).code(), Some(0), "{}", node.log());
}

#[test]
fn invalid_files_are_rejected_with_a_remedy() {
    #[track_caller]
    fn check(spoil: impl FnOnce(&Files), expected: &str) {
        let files = Files::new();
        spoil(&files);
        let output = std::process::Command::new(BINARY)
            .args(["serve", "--listen", "127.0.0.1:0", "--open", "--tls-cert"])
            .arg(files.certificate_path())
            .arg("--tls-key")
            .arg(files.key_path())
            .output()
            .expect("the binary runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(expected), "{text}");
    }
    let copy = |from: PathBuf, to: PathBuf| {
        fs::copy(from, to).expect("a copy");
    };
    check(|files| fs::remove_file(files.key_path()).expect("removed"), "cannot read");
    check(|files| copy(files.key_path(), files.certificate_path()), "has no certificate in it");
    check(|files| copy(files.certificate_path(), files.key_path()), "has no private key in it");
    check(
        |files| write_private(&files.certificate_path(), &"x".repeat(2 << 20)),
        "it holds more than",
    );
    check(
        |files| write_private(&files.key_path(), &Files::new().key_text()),
        "do not fit together: the first certificate must be the one of the key",
    );
}

#[tokio::test]
async fn a_key_that_others_can_read_is_warned_about() {
    let files = Files::new();
    let node = files.start(BINARY, &[]);
    assert!(!node.log().contains("chmod"), "{}", node.log());
    fs::set_permissions(files.key_path(), fs::Permissions::from_mode(0o644)).expect("permissions");
    files.start(BINARY, &[]).wait_for_log("every user of this machine can read");
}

#[tokio::test]
async fn client_commands_speak_https() {
    let files = Files::new();
    let node = files.start(BINARY, &[]);
    let url = format!("https://localhost:{}", node.address().port());
    let trusting = |arguments: &[&str]| {
        let mut command = headwater(&[arguments, &["--url", &url]].concat());
        command.env("SSL_CERT_FILE", files.certificate_path());
        command
    };
    let mut subscriber = trusting(&["subscribe", "news", "--count", "1"]).spawn().expect("it runs");
    wait_for_notice(&mut subscriber, "connected to https://").await;
    let publish = timeout(PATIENCE, trusting(&["publish", "news", "hello"]).output()).await;
    let (code, output, error) = outcome(publish.expect("it ends").expect("it runs"));
    assert_eq!((code, &*error), (0, ""));
    assert!(output.starts_with("published to news as "), "{output}");
    let received = timeout(PATIENCE, subscriber.wait_with_output()).await.expect("it ends");
    let (code, output, _) = outcome(received.expect("it is read"));
    assert_eq!(code, 0);
    assert!(output.starts_with("news #") && output.ends_with(": hello\n"), "{output}");

    // Another certificate than the one that the server has.
    let stranger = Files::new();
    let mut distrusting = headwater(&["publish", "news", "x", "--url", &url]);
    distrusting.env("SSL_CERT_FILE", stranger.certificate_path());
    let publish = timeout(PATIENCE, distrusting.output()).await.expect("it ends");
    let (code, output, error) = outcome(publish.expect("it runs"));
    assert_eq!((code, &*output), (1, ""));
    let expected = format!("error: cannot reach {url}: TLS failed: invalid peer certificate");
    assert!(error.starts_with(&expected), "{error}");
}
