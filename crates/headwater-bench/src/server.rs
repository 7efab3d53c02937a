//! The server that the benchmark starts. Look here for its settings.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::error::{Context as _, Error};

/// How long a server may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Connections besides the streams: those of the publisher, and closed ones that the server has not
/// noticed yet.
const CONNECTIONS_EXTRA: usize = 4_000;

/// A running `headwater serve`; killed when dropped.
pub struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts a program with `serve` on a free loopback port, and waits until it listens.
    ///
    /// # Errors
    /// When the server does not start; the error contains its log.
    pub fn start(program: &Path, streams: usize, redis: Option<&str>) -> Result<Self, Error> {
        Self::start_with(Command::new(program), streams, redis)
    }

    /// Like [`start`](Self::start), with a command that may run the program through another one,
    /// such as `taskset`.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with(
        mut command: Command,
        streams: usize,
        redis: Option<&str>,
    ) -> Result<Self, Error> {
        let connections = (streams + CONNECTIONS_EXTRA).to_string();
        command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]);
        command.args(["--max-connections", &connections]);
        if let Some(redis) = redis {
            // Not a flag: the URL may contain a password, and command lines are visible to all
            // users.
            command.env("HEADWATER_REDIS", redis);
        }
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start a server to measure")?;
        let stderr = process.stderr.take().expect("it is piped");
        let mut server = Self { process, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let (found, address) = mpsc::channel();
        // The thread drains the log and ends with the server.
        std::thread::spawn(move || {
            let mut log = String::new();
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some(address) = listening_at(&line) {
                    let _ = found.send(Ok(address));
                } else if log.len() < 10_000 {
                    log = log + &line + "\n";
                }
            }
            let _ = found.send(Err(log));
        });
        server.address = match address.recv_timeout(START_TIMEOUT) {
            Ok(Ok(address)) => address,
            Ok(Err(log)) => {
                return Err(Error::Failed(format!("the server to measure exited: {}", log.trim())));
            }
            Err(_) => return Err(Error::failed("the server to measure did not start in time")),
        };
        Ok(server)
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn listening_at(line: &str) -> Option<SocketAddr> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    if line["message"] != "serving" {
        return None;
    }
    line["listen"].as_str()?.parse().ok()
}
