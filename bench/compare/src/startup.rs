//! What starting a program takes: a free address, and waiting until the program is ready.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use headwater_bench::Error;

/// How long any program may take to start or to exit.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A free address of the loopback interface, below the ports of outgoing connections.
pub(crate) fn free_address() -> Result<SocketAddr, Error> {
    let start = 10_240 + std::process::id() % 10_000;
    let mut ports = (start..start + 12_000).filter_map(|port| u16::try_from(port).ok());
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let port = ports.find(is_free);
    let port = port.ok_or_else(|| Error::failed("no free port on the loopback interface"))?;
    Ok(SocketAddr::from(([127, 0, 0, 1], port)))
}

/// Waits until a condition about a program holds.
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) -> Result<(), Error> {
    let deadline = Instant::now() + TIMEOUT;
    while !holds() {
        if Instant::now() >= deadline {
            let seconds = TIMEOUT.as_secs();
            return Err(Error::Failed(format!("timed out after {seconds} s: {what}")));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
