//! A connection that events are published over. Look here for how responses are read.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;

use mio::net::TcpStream;
use mio::{Registry, Token};

use crate::framing::Framing;
use crate::socket;

/// A connection with its unwritten bytes, and the number of responses that are due.
pub(super) struct Lane {
    socket: TcpStream,
    out: Vec<u8>,
    written: usize,
    pub(super) in_flight: usize,
    answers: Answers,
}

enum Answers {
    Http(Framing),
    Redis(RedisReplies),
}

/// Counts of the responses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) accepted: u64,
    pub(super) rejected: u64,
    /// The message of the first rejection.
    pub(super) why: Option<String>,
}

impl Lane {
    /// Connects, for HTTP or Redis, and waits until connected.
    pub(super) fn connect(
        address: SocketAddr,
        is_http: bool,
        token: Token,
        registry: &Registry,
    ) -> io::Result<Self> {
        let socket = socket::connect(address, token, registry)?;
        let answers = if is_http {
            Answers::Http(Framing::new())
        } else {
            Answers::Redis(RedisReplies::default())
        };
        Ok(Self { socket, out: Vec::new(), written: 0, in_flight: 0, answers })
    }

    /// Queues a request; `flush` sends it.
    pub(super) fn queue(&mut self, request: &[&[u8]]) {
        for part in request {
            self.out.extend_from_slice(part);
        }
        self.in_flight += 1;
    }

    /// Writes queued bytes until the socket is full.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while self.written < self.out.len() {
            match self.socket.write(&self.out[self.written..]) {
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }

    /// Reads the responses that have arrived.
    pub(super) fn read(&mut self, buffer: &mut [u8], answered: &mut Answered) -> io::Result<()> {
        loop {
            match self.socket.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => {
                    self.take(&buffer[..bytes], answered).map_err(io::Error::other)?;
                    if bytes < buffer.len() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self, bytes: &[u8], answered: &mut Answered) -> Result<(), String> {
        let count = match &mut self.answers {
            Answers::Http(framing) => take_response(framing, bytes, answered)?,
            Answers::Redis(replies) => replies.take(bytes, answered),
        };
        self.in_flight = self.in_flight.checked_sub(count).ok_or("a response without a request")?;
        Ok(())
    }
}

/// One request is in flight at a time, so all bytes belong to one response.
fn take_response(
    framing: &mut Framing,
    bytes: &[u8],
    answered: &mut Answered,
) -> Result<usize, String> {
    let mut body = Vec::new();
    framing.feed(bytes, |part| body.extend_from_slice(part))?;
    if !framing.is_done() {
        return Ok(0);
    }
    match framing.status() {
        Some(200..=299) => answered.accepted += 1,
        status => {
            answered.rejected += 1;
            let status = status.unwrap_or_default();
            let body = String::from_utf8_lossy(&body);
            answered.why.get_or_insert_with(|| format!("status {status}: {}", body.trim()));
        }
    }
    *framing = Framing::new();
    Ok(1)
}

/// Counts the replies of Redis, each of which is one line.
#[derive(Debug, Default)]
struct RedisReplies {
    line: Vec<u8>,
}

/// The part of a line that is stored, for an error message.
const LINE_BYTES_MAX: usize = 200;

impl RedisReplies {
    fn take(&mut self, bytes: &[u8], answered: &mut Answered) -> usize {
        let mut count = 0;
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = LINE_BYTES_MAX.saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            if !part.ends_with(b"\n") {
                continue;
            }
            count += 1;
            if self.line.first() == Some(&b'-') {
                answered.rejected += 1;
                let why = String::from_utf8_lossy(&self.line[1..]).trim().to_owned();
                answered.why.get_or_insert(why);
            } else {
                answered.accepted += 1;
            }
            self.line.clear();
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_replies_are_counted_however_they_are_cut() {
        let replies = b":1\r\n-ERR no\r\n:20\r\n+OK\r\n-NOAUTH later\r\n";
        for piece in 1..replies.len() {
            let mut state = RedisReplies::default();
            let mut answered = Answered::default();
            let count: usize =
                replies.chunks(piece).map(|part| state.take(part, &mut answered)).sum();
            let expected = Answered { accepted: 3, rejected: 2, why: Some("ERR no".to_owned()) };
            assert_eq!((count, answered), (5, expected), "by {piece}");
        }
    }
}
