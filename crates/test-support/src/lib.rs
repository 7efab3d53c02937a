//! What tests of more than one crate need: a real Redis, a real node, real sockets. Every process is started here, on a
//! free port of the loopback, and ended by its id.

pub mod http;
pub mod node;
pub mod redis_server;
pub mod stream;

use std::future::Future;
use std::time::{Duration, Instant};

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

/// Sends a signal to a process that a test started.
pub(crate) fn send_signal(process: u32, signal: &str) {
    let sent = std::process::Command::new("kill")
        .args([format!("-{signal}"), process.to_string()])
        .status()
        .is_ok_and(|status| status.success());
    assert!(sent, "cannot send SIG{signal} to process {process}");
}
