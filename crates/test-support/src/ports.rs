//! Free ports of the loopback interface.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

/// A port that is free now.
///
/// # Panics
/// When the loopback interface has none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// A port that is free now and is not assigned again: not by the system to an outgoing connection,
/// and not by this function in the same process.
///
/// For a server that is killed and restarted on the same port. Without it, a client that reconnects
/// in between could even connect to itself.
///
/// # Panics
/// When no such port is found.
pub fn stable_port() -> u16 {
    // Below the ports for outgoing connections: Linux starts at 32768, others at 49152.
    static ASSIGNED: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let mut assigned = ASSIGNED.lock().unwrap_or_else(PoisonError::into_inner);
    let mut ports = std::iter::repeat_with(|| fastrand::u16(10_240..32_768)).take(1_000);
    ports.find(|port| is_free(port) && assigned.insert(*port)).expect("a free port")
}
