//! A client that sees the bytes of its connection. Look here for how chunks are read.

use std::net::SocketAddr;

use headwater_test_support::PATIENCE;
use headwater_test_support::http::Chunks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Sends a request verbatim, and returns the connection.
pub(super) async fn send(address: SocketAddr, request: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    socket
}

pub(super) async fn read_head(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, socket.read_u8()).await.expect("in time").expect("a head"));
    }
    String::from_utf8(head).unwrap()
}

pub(super) fn get_request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n")
}

/// A connection whose response is read into a head and the content of the chunks.
pub(super) struct Raw {
    pub(super) socket: TcpStream,
    pub(super) head: String,
    pub(super) chunks: Chunks,
    body: Vec<u8>,
    closed: bool,
}

impl Raw {
    pub(super) async fn open(address: SocketAddr, path: &str) -> Self {
        Self::of(send(address, &get_request(path)).await).await
    }

    pub(super) async fn of(mut socket: TcpStream) -> Self {
        let head = read_head(&mut socket).await;
        let (chunks, body) = (Chunks::default(), Vec::new());
        let mut raw = Self { socket, head, chunks, body, closed: false };
        raw.until(|body| body.starts_with(b":\n\n")).await;
        raw
    }

    async fn read(&mut self) {
        let mut buffer = vec![0; 64 << 10];
        let read = timeout(PATIENCE, self.socket.read(&mut buffer)).await.expect("in time");
        let read = read.unwrap_or(0);
        self.closed |= read == 0;
        let body = &mut self.body;
        self.chunks.push(&buffer[..read], |content| body.extend_from_slice(content));
    }

    /// Reads until the body meets a condition.
    pub(super) async fn until(&mut self, is_met: impl Fn(&[u8]) -> bool) {
        while !is_met(&self.body) {
            assert!(!self.closed, "closed after {:?}", self.text());
            self.read().await;
        }
    }

    pub(super) async fn until_closed(&mut self) {
        while !self.closed {
            self.read().await;
        }
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(super) async fn until_closed_or_ended(&mut self) {
        while !self.closed && !self.chunks.ended {
            self.read().await;
        }
    }
}
