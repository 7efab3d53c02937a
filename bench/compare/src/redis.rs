//! A Redis for one run: without persistence, on a free port, on the generator's core. Look here for
//! its settings.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use headwater_bench::Error;

use crate::startup::{free_address, wait_for};

/// A running `redis-server`; killed when dropped.
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
            // The FastAPI pattern needs a connection per stream.
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
