//! The floor's connection to Redis: subscribes to channels and receives messages. Look here for how
//! little of the Redis protocol it parses.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::ops::Range;

use memchr::memchr;
use mio::net::TcpStream;
use mio::{Registry, Token};

use crate::limits::FLOOR_REQUEST_BYTES_MAX;
use crate::socket;

/// The connection.
pub(super) struct Subscriber {
    socket: TcpStream,
    out: Vec<u8>,
    /// Received bytes; pushes are ranges of it.
    pub(super) input: Vec<u8>,
    parsed: usize,
}

/// A message from Redis.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Push {
    /// The channel is subscribed.
    Confirmed(String),
    /// An event; both are ranges of the input.
    Message { channel: Range<usize>, data: Range<usize> },
}

impl Subscriber {
    pub(super) fn connect(
        address: SocketAddr,
        token: Token,
        registry: &Registry,
    ) -> io::Result<Self> {
        let socket = socket::connect(address, token, registry)?;
        Ok(Self { socket, out: Vec::new(), input: Vec::new(), parsed: 0 })
    }

    /// Queues a SUBSCRIBE; `flush` sends it.
    pub(super) fn subscribe(&mut self, name: &str) {
        let command = format!("*2\r\n$9\r\nSUBSCRIBE\r\n${}\r\n{name}\r\n", name.len());
        self.out.extend_from_slice(command.as_bytes());
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            match self.socket.write(&self.out) {
                Ok(bytes) => drop(self.out.drain(..bytes)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads until the socket is empty.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        loop {
            match self.socket.read(buffer) {
                Ok(0) => return Err(io::Error::other("Redis closed the connection")),
                Ok(bytes) => self.input.extend_from_slice(&buffer[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// The next complete push.
    pub(super) fn next_push(&mut self) -> io::Result<Option<Push>> {
        let mut reader = Reader { input: &self.input, at: self.parsed };
        let Some(push) = reader.push()? else {
            if self.input.len() - self.parsed > FLOOR_REQUEST_BYTES_MAX {
                return Err(io::Error::other("a message from Redis is too long"));
            }
            return Ok(None);
        };
        self.parsed = reader.at;
        Ok(Some(push))
    }

    /// Discards the parsed input.
    pub(super) fn discard_read(&mut self) {
        self.input.drain(..self.parsed);
        self.parsed = 0;
    }
}

/// Parses arrays of three: a word, a name, and a number or data.
struct Reader<'a> {
    input: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn push(&mut self) -> io::Result<Option<Push>> {
        let Some(()) = self.mark(b'*')?.map(|_| ()) else { return Ok(None) };
        let Some(word) = self.bulk()? else { return Ok(None) };
        let Some(channel) = self.bulk()? else { return Ok(None) };
        match &self.input[word] {
            b"message" => {
                let Some(data) = self.bulk()? else { return Ok(None) };
                Ok(Some(Push::Message { channel, data }))
            }
            b"subscribe" => {
                let Some(_) = self.mark(b':')? else { return Ok(None) };
                let name = String::from_utf8_lossy(&self.input[channel]).into_owned();
                Ok(Some(Push::Confirmed(name)))
            }
            word => {
                let word = String::from_utf8_lossy(word).into_owned();
                Err(io::Error::other(format!("unexpected reply from Redis: `{word}`")))
            }
        }
    }

    /// A line with a type byte and a number.
    fn mark(&mut self, mark: u8) -> io::Result<Option<usize>> {
        let rest = &self.input[self.at..];
        let Some(end) = memchr(b'\n', rest) else { return Ok(None) };
        let line = String::from_utf8_lossy(&rest[..end]);
        let number = line.trim().strip_prefix(char::from(mark)).and_then(|it| it.parse().ok());
        let number = number
            .ok_or_else(|| io::Error::other(format!("unexpected reply from Redis: `{line}`")))?;
        self.at += end + 1;
        Ok(Some(number))
    }

    fn bulk(&mut self) -> io::Result<Option<Range<usize>>> {
        let Some(bytes) = self.mark(b'$')? else { return Ok(None) };
        let range = self.at..self.at + bytes;
        if range.end + 2 > self.input.len() {
            return Ok(None);
        }
        self.at = range.end + 2;
        Ok(Some(range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_pushes_are_parsed() {
        let input = b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n\
            *3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n";
        for length in 0..=input.len() {
            let mut reader = Reader { input: &input[..length], at: 0 };
            let first = reader.push().expect("the protocol");
            assert_eq!(first.is_some(), length >= 30, "{length}");
            let Some(first) = first else { continue };
            assert_eq!(first, Push::Confirmed("a".to_owned()));
            let second = reader.push().expect("the protocol");
            let expected = Push::Message { channel: 51..52, data: 58..60 };
            assert_eq!(second, (length == input.len()).then_some(expected), "{length}");
        }
        let mut reader = Reader { input: b"-NOAUTH\r\n", at: 0 };
        assert!(reader.push().is_err());
    }
}
