//! Abuse over TLS: handshakes without an end, and handshakes that stop half-way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use headwater_test_support::tls::{Files, connect as connect_tls};
use rustls::ClientConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::runtime;

use crate::{BINARY, FLOOR, FLOOR_BUSY, alone, connect, withstand};

/// What a handshake that has begun costs: rustls' state and buffers.
const HANDSHAKE_BYTES: u64 = 64 << 10;

/// A way to the node for clients that speak no TLS, on a thread of its own.
fn tunnel(node: SocketAddr, config: Arc<ClientConfig>) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("it can be set");
    let address = listener.local_addr().expect("its address");
    // Ends with the process of the test.
    std::thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let listener = TcpListener::from_std(listener).expect("a listener");
            while let Ok((mut near, _)) = listener.accept().await {
                let config = Arc::clone(&config);
                tokio::spawn(async move {
                    near.set_nodelay(true).expect("it can be set");
                    let mut far = connect_tls(node, &config).await;
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_without_an_end() {
    let _alone = alone().await;
    let files = Files::new();
    let node = files.start(BINARY, &["--header-timeout", "1s", "--log", "info"]);
    let address = node.address();
    let healthy_at = tunnel(address, Arc::new(files.client(&["http/1.1"])));
    // No session is resumed: every handshake costs the server a signature.
    let mut config = files.client(&["http/1.1"]);
    config.resumption = rustls::client::Resumption::disabled();
    let config = Arc::new(config);
    let attack = |blows: Arc<AtomicU64>| {
        let config = Arc::clone(&config);
        async move {
            loop {
                let _whole = connect_tls(address, &config).await;
                blows.fetch_add(1, Ordering::Relaxed);
                // The client's half of the work takes the CPU too: at full speed this would measure
                // it.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    withstand("handshakes", &node, healthy_at, 8, 16 << 20, FLOOR_BUSY, attack).await;
}

/// All that a server can be made to hold for clients that go no further than their first message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_stop_half_way() {
    let _alone = alone().await;
    let files = Files::new();
    let node = files.start(BINARY, &["--log", "info"]);
    let address = node.address();
    let healthy_at = tunnel(address, Arc::new(files.client(&["http/1.1"])));
    let hello = client_hello(&files);
    let attackers = 500;
    let attack = |blows: Arc<AtomicU64>| {
        let hello = hello.clone();
        async move {
            let mut socket = connect(address).await;
            socket.write_all(&hello).await.expect("it is sent");
            blows.fetch_add(1, Ordering::Relaxed);
            std::future::pending::<()>().await;
        }
    };
    let memory = attackers * HANDSHAKE_BYTES;
    withstand("half handshakes", &node, healthy_at, 500, memory, FLOOR, attack).await;
}

/// What a client says first.
fn client_hello(files: &Files) -> Vec<u8> {
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let config = Arc::new(files.client(&["http/1.1"]));
    let mut session = rustls::ClientConnection::new(config, name).expect("a session");
    let mut bytes = Vec::new();
    session.write_tls(&mut bytes).expect("a message");
    bytes
}
