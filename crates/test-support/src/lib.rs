//! What tests of more than one crate need: a real Redis, a real node, a real ACME server, real sockets. Every process is started here, on a
//! free port of the loopback, and ended by its id.

pub mod acme_server;
pub mod http;
pub mod node;
pub mod redis_server;
pub mod secrets;
pub mod stream;
pub mod tls;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use acme_server::AcmeServer;
pub use node::Node;
pub use redis_server::RedisServer;
pub use stream::EventStream;

/// The longest that a test waits for anything, unless it says otherwise. Generous, since it only
/// matters when a test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until a condition holds, and fails with its name if it does not in time.
///
/// # Panics
/// When the time is over.
#[track_caller]
pub fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until an async condition holds, and fails with its name if it does not in time.
///
/// # Panics
/// When the time is over.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A port that is free now.
///
/// # Panics
/// When the loopback has none.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// A port that is free now and stays so while nobody listens on it: the system gives it to no outgoing
/// connection, and no other test of this process gets it. For what is killed and started again on the same port; a
/// client that tries to connect meanwhile could even meet itself.
///
/// # Panics
/// When none is found.
pub fn stable_port() -> u16 {
    // Below what Linux (from 32768) and others (from 49152) give to outgoing connections.
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut ports = std::iter::repeat_with(|| fastrand::u16(10_240..32_768)).take(1_000);
    ports.find(|port| is_free(port) && given.insert(*port)).expect("a free port")
}

/// Sends a signal to a process that a test started.
pub(crate) fn send_signal(process: u32, signal: &str) {
    let sent = std::process::Command::new("kill")
        .args([format!("-{signal}"), process.to_string()])
        .status()
        .is_ok_and(|status| status.success());
    assert!(sent, "cannot send SIG{signal} to process {process}");
}
