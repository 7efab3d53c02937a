//! A Redis for one run: without persistence, on a free port, on the generator's core. Look here for its settings.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use headwater_bench::Error;

/// How long any program may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A running `redis-server`; it ends when this is dropped.
pub(crate) struct Redis {
    process: Child,
    pub(crate) address: SocketAddr,
}

impl Redis {
    pub(crate) fn start() -> Result<Self, Error> {
        let address = free_address()?;
        let port = address.port().to_string();
        let process = Command::new("redis-server")
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            // The FastAPI pattern has a connection for each stream.
            .args(["--maxclients", "15000"])
            .current_dir(std::env::temp_dir())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| {
                Error::failed(format!("redis-server does not start ({error}): install it"))
            })?;
        let redis = Self { process, address };
        wait_for("redis-server", || redis.answers())?;
        Ok(redis)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    fn answers(&self) -> bool {
        let ping = || -> std::io::Result<bool> {
            let mut socket = TcpStream::connect(self.address)?;
            socket.write_all(b"PING\r\n")?;
            let mut answer = [0; 7];
            socket.read_exact(&mut answer)?;
            Ok(&answer == b"+PONG\r\n")
        };
        ping().unwrap_or(false)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An address of the loopback that nobody listens on now, below the ports of outgoing connections.
pub(crate) fn free_address() -> Result<SocketAddr, Error> {
    let start = 10_240 + std::process::id() % 10_000;
    let mut ports = (start..start + 12_000).filter_map(|port| u16::try_from(port).ok());
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let port = ports.find(is_free).ok_or_else(|| Error::failed("the loopback has no free port"))?;
    Ok(SocketAddr::from(([127, 0, 0, 1], port)))
}

/// Waits until a program does what it should.
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) -> Result<(), Error> {
    let deadline = Instant::now() + START_TIMEOUT;
    while !holds() {
        if Instant::now() >= deadline {
            let seconds = START_TIMEOUT.as_secs();
            return Err(Error::Failed(format!("{what} is not ready after {seconds} s")));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
