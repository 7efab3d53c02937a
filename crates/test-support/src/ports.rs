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
    stable_ports(&[0])
}

/// Like [`stable_port`], for a node of Redis Cluster, whose bus has the port that is higher by
/// 10,000.
pub(crate) fn cluster_port() -> u16 {
    stable_ports(&[0, 10_000])
}

/// A port that is free, as are the ports that are higher by these distances.
fn stable_ports(distances: &[u16]) -> u16 {
    static ASSIGNED: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let highest = distances.iter().max().copied().unwrap_or(0);
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let mut assigned = ASSIGNED.lock().unwrap_or_else(PoisonError::into_inner);
    // Below the ports for outgoing connections: Linux starts at 32768, others at 49152.
    let ports = std::iter::repeat_with(|| fastrand::u16(10_240..32_768 - highest)).take(1_000);
    let found = ports.map(|port| distances.iter().map(|it| port + it).collect::<Vec<_>>());
    let mut found = found.filter(|all| all.iter().all(|it| is_free(*it) && !assigned.contains(it)));
    let all = found.next().expect("a free port");
    drop(found);
    assigned.extend(&all);
    all[0]
}
