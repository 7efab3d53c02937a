//! Certificates from a real ACME server: the first one, renewal, restarts, and what goes wrong.
//! Look here for `acme-domain`.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use headwater_test_support::{AcmeServer, Node, secrets, stable_port, tls};
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use crate::support::BINARY;
use crate::support::tls::{ask, certificate_of, read_until};

const NAME: &str = "events.example.org";
/// What the log says when a certificate is not only in use, but in its directory too.
const KEPT: &str = "the next certificate is due in";
const HOUR: Duration = Duration::from_secs(60 * 60);

/// A directory for the node's certificate, and the port on which it serves.
struct Place {
    directory: TempDir,
    port: u16,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory"), port: stable_port() }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join("acme").join(name).to_str().expect("UTF-8").to_owned()
    }

    fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// From now on the keys must not leak; the node's log is searched when it ends.
    fn keep_secrets(&self) {
        let read = |name| fs::read_to_string(self.path(name)).expect("what the node keeps");
        secrets::keep(read("certificate.pem").lines().rev().nth(1).expect("a line of the key"));
        let account: serde_json::Value = serde_json::from_str(&read("account.json")).expect("JSON");
        secrets::keep(account["credentials"]["key_pkcs8"].as_str().expect("the account's key"));
    }

    fn start(&self, server: &AcmeServer, names: &[&str]) -> Node {
        let (url, trust) = (server.url(), server.trust_path());
        let directory = self.path("");
        let mut arguments = vec!["--acme-server", &url, "--acme-dir", &directory];
        for name in names {
            arguments.extend(["--acme-domain", name]);
        }
        arguments.extend(["--acme-contact", "ops@example.org", "--admin", "127.0.0.1:0", "--open"]);
        let environment = [("SSL_CERT_FILE", trust.to_str().expect("UTF-8"))];
        Node::start_in(BINARY, &self.address().to_string(), &environment, &arguments)
    }
}

fn client(root: CertificateDer<'static>, alpn: &[&str]) -> Arc<ClientConfig> {
    Arc::new(tls::client_of(root, alpn, rustls::DEFAULT_VERSIONS))
}

async fn connect(
    address: SocketAddr,
    name: &'static str,
    config: &Arc<ClientConfig>,
) -> std::io::Result<tls::Socket> {
    tls::try_shake_hands(TcpStream::connect(address).await?, config, name).await
}

#[tokio::test]
async fn a_certificate_is_requested_and_renewed_while_streams_stay_open() {
    let place = Place::new();
    // Renewed after 16 s: by then the server is back from its restart on a busy machine too.
    let mut server = AcmeServer::start(place.port, Duration::from_secs(24));
    let node = place.start(&server, &[NAME, "Other.example.org"]);
    node.wait_for_metric("headwater_tls_reloads_total", 1.0).await;
    let config = client(server.root().await, &["http/1.1"]);
    // It forgets its accounts, and has another root.
    server.restart();
    let mut stream = connect(place.address(), NAME, &config).await.expect("a handshake");
    let first = certificate_of(&stream);
    connect(place.address(), "other.example.org", &config).await.expect("the other name");
    let open = format!("GET /sse/stream?channel=news HTTP/1.1\r\nhost: {NAME}\r\n\r\n");
    ask(&mut stream, &open, "retry: ").await;

    node.wait_for_metric("headwater_tls_reloads_total", 2.0).await;
    node.wait_for_log("does not know the account any more");
    let config = client(server.root().await, &["http/1.1"]);
    let mut publisher = connect(place.address(), NAME, &config).await.expect("a handshake");
    assert_ne!(certificate_of(&publisher), first);
    let publish = format!(
        "POST /sse/publish?channel=news HTTP/1.1\r\nhost: {NAME}\r\ncontent-length: 5\r\n\r\nhello"
    );
    ask(&mut publisher, &publish, "\"channel\":\"news\"").await;
    read_until(&mut stream, "data: hello\n").await;
    node.wait_for_metric("headwater_tls_reload_errors_total", 0.0).await;
}

#[tokio::test]
async fn a_restart_requests_no_certificate_unless_there_are_more_names() {
    let place = Place::new();
    let server = AcmeServer::start(place.port, HOUR);
    let first = place.start(&server, &[NAME]);
    first.wait_for_metric("headwater_tls_reloads_total", 1.0).await;
    first.wait_for_log(KEPT);
    place.keep_secrets();
    drop(first);
    let account = fs::read_to_string(place.path("account.json")).expect("the account");
    let certificate = fs::read_to_string(place.path("certificate.pem")).expect("the certificate");

    let again = place.start(&server, &[NAME]);
    let config = client(server.root().await, &["h2"]);
    connect(place.address(), NAME, &config).await.expect("a handshake at once");
    again.wait_for_log(KEPT);
    again.wait_for_metric("headwater_tls_reloads_total", 0.0).await;
    assert!(!again.log().contains("for a certificate"), "{}", again.log());
    drop(again);
    assert_eq!(fs::read_to_string(place.path("certificate.pem")).unwrap(), certificate);

    let more = place.start(&server, &[NAME, "more.example.org"]);
    more.wait_for_metric("headwater_tls_reloads_total", 1.0).await;
    more.wait_for_log(KEPT);
    connect(place.address(), "more.example.org", &config).await.expect("the new name");
    assert_eq!(
        fs::read_to_string(place.path("account.json")).unwrap(),
        account,
        "the same account"
    );
    drop(more);

    // A certificate without its key is no reason not to start, and none to go on without a
    // certificate.
    let whole = fs::read_to_string(place.path("certificate.pem")).expect("the certificate");
    let (spoilt, _) = whole.split_once("-----BEGIN PRIVATE KEY").expect("the key");
    fs::write(place.path("certificate.pem"), spoilt).expect("it is written");
    let spoilt = place.start(&server, &[NAME]);
    spoilt.wait_for_log("certificate of the last run not used");
    spoilt.wait_for_metric("headwater_tls_reloads_total", 1.0).await;
    spoilt.wait_for_log(KEPT);
    connect(place.address(), NAME, &config).await.expect("a handshake");
    place.keep_secrets();
}

#[tokio::test]
async fn another_acme_server_gives_another_certificate() {
    let place = Place::new();
    let staging = AcmeServer::start(place.port, HOUR);
    let node = place.start(&staging, &[NAME]);
    node.wait_for_metric("headwater_tls_reloads_total", 1.0).await;
    node.wait_for_log(KEPT);
    drop(node);
    let production = AcmeServer::start(place.port, HOUR);
    let node = place.start(&production, &[NAME]);
    node.wait_for_log("it is not from https://localhost:");
    node.wait_for_metric("headwater_tls_reloads_total", 1.0).await;
    let config = client(production.root().await, &["http/1.1"]);
    connect(place.address(), NAME, &config).await.expect("a handshake");
}

#[tokio::test]
async fn with_a_directory_that_cannot_be_written_to_no_certificate_is_requested() {
    let place = Place::new();
    let server = AcmeServer::start(place.port, Duration::from_secs(12));
    // Stands in the way also where the user of the test may do everything.
    let in_the_way = place.path("probe/in the way");
    fs::create_dir_all(&in_the_way).expect("a directory");
    let output = std::process::Command::new(BINARY)
        .args(["serve", "--listen", "127.0.0.1:0", "--open", "--acme-domain", NAME])
        .args(["--acme-dir", &place.path(""), "--acme-server", &server.url()])
        .output()
        .expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("which acme-dir names: check that there is room"), "{text}");

    fs::remove_dir_all(place.path("probe")).expect("it is removed");
    let node = place.start(&server, &[NAME]);
    node.wait_for_metric("headwater_tls_reloads_total", 1.0).await;
    fs::create_dir_all(&in_the_way).expect("a directory");
    node.wait_for_metric("headwater_tls_reload_errors_total", 1.0).await;
    node.wait_for_log("no certificate could be obtained: cannot write to");
    fs::remove_dir_all(place.path("probe")).expect("it is removed");
    node.signal("HUP");
    node.wait_for_metric("headwater_tls_reloads_total", 2.0).await;
}

#[tokio::test]
async fn a_failed_validation_is_logged_and_retried_at_sighup() {
    let place = Place::new();
    let outside = stable_port();
    let server = AcmeServer::start(outside, HOUR);
    let node = place.start(&server, &[NAME]);
    node.wait_for_log("could not verify the names");
    node.wait_for_log("Failed to connect to 127.0.0.1");
    node.wait_for_metric("headwater_tls_reload_errors_total", 1.0).await;
    node.wait_for_metric("headwater_tls_certificate_expiry_timestamp_seconds", 0.0).await;
    // There is no certificate, and no client that asks like the ACME server gets one.
    for alpn in ["http/1.1", "acme-tls/1"] {
        let config = client(server.root().await, &[alpn]);
        assert!(connect(place.address(), NAME, &config).await.is_err(), "{alpn}");
    }

    // The way from outside is opened.
    let listener = TcpListener::bind(("127.0.0.1", outside)).await.expect("the port is free");
    let inside = place.address();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut to = TcpStream::connect(inside).await?;
                copy_bidirectional(&mut from, &mut to).await
            });
        }
    });
    node.signal("HUP");
    node.wait_for_metric("headwater_tls_reloads_total", 1.0).await;
    let config = client(server.root().await, &["http/1.1"]);
    connect(place.address(), NAME, &config).await.expect("a handshake");
    let config = client(server.root().await, &["acme-tls/1"]);
    assert!(connect(place.address(), NAME, &config).await.is_err(), "no challenge is under way");
}

#[tokio::test]
async fn a_url_that_is_not_an_acme_server_is_an_error_and_check_reports_it() {
    let place = Place::new();
    let server = AcmeServer::start(place.port, HOUR);
    let check = |url: &str| {
        let output = std::process::Command::new(BINARY)
            .args(["check", "--open", "--acme-domain", NAME, "--acme-dir", &place.path("")])
            .args(["--acme-server", url])
            .env("SSL_CERT_FILE", server.trust_path())
            .output()
            .expect("the binary runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, text) = check(&server.url());
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("a certificate is asked for at start: there is none yet"), "{text}");
    assert!(!place.directory.path().join("acme").exists(), "it only looks");
    let (code, text) = check(&server.url().replace("/dir", "/nothing"));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("is no ACME server's directory"), "{text}");
    let (code, text) = check(&format!("https://localhost:{}/dir", stable_port()));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("cannot reach https://localhost:"), "{text}");
    let node = place.start(&server, &[NAME, NAME]);
    node.wait_for_metric("headwater_tls_reloads_total", 1.0).await;
    node.wait_for_log(KEPT);
    let (code, text) = check(&server.url());
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("the certificate that there is will be renewed in 0 days"), "{text}");
}
