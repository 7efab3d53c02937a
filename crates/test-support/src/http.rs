//! HTTP/1.1 requests over raw sockets, one connection each.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::secrets;
use crate::wait::PATIENCE;

/// A response.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The lines of the head after the status line, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, without chunked framing.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When the body is not JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }

    /// The `detail` of a problem document (RFC 9457).
    ///
    /// # Panics
    /// When the body is not a problem document for this status.
    #[track_caller]
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let problem = self.json();
        assert_eq!((&problem["type"], &problem["status"]), (&"about:blank".into(), &status.into()));
        assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()), "{problem}");
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(!detail.is_empty(), "{problem}");
        detail.to_owned()
    }

    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Sends a GET request.
pub async fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, "GET", path, &[], b"").await
}

/// Sends a POST request.
pub async fn post(address: SocketAddr, path: &str, body: &[u8]) -> Answer {
    request(address, "POST", path, &[], body).await
}

/// Sends a request on a connection that closes after the response.
///
/// # Panics
/// When the server cannot be reached, or the response is not HTTP/1.1.
pub async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    secrets::keep_from_request(path, headers);
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    exchange(address, &[head.as_bytes(), body].concat()).await
}

/// Sends raw bytes, and reads the response until the server closes the connection.
///
/// # Panics
/// When the server cannot be reached, or the response is not HTTP/1.1.
pub async fn exchange(address: SocketAddr, request: &[u8]) -> Answer {
    let mut socket = TcpStream::connect(address).await.expect("the server listens");
    // A server may respond and close before it has read a body that it rejects.
    let _ = socket.write_all(request).await;
    read_answer(&mut socket).await
}

/// Reads a response until the server closes the connection.
///
/// # Panics
/// When the response is not HTTP/1.1, or does not arrive in time.
pub async fn read_answer(socket: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    let read = timeout(PATIENCE, socket.read_to_end(&mut bytes)).await;
    // What arrived before an error counts: a server that rejects a body resets the connection.
    let _ = read.expect("a response and the end of the connection in time");
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(bytes);
    let split = bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap_or_else(|| panic!("not an HTTP response: {text:?}"));
    let (status, headers) = parse_head(&bytes[..split]);
    let mut answer = Answer { status, headers, body: bytes[split + 4..].to_vec() };
    if answer.header("transfer-encoding") == Some("chunked") {
        let mut chunks = Chunks::default();
        let (mut body, raw) = (Vec::new(), std::mem::take(&mut answer.body));
        chunks.push(&raw, |piece| body.extend_from_slice(piece));
        answer.body = body;
    }
    secrets::search("a head", &String::from_utf8_lossy(&bytes[..split]));
    if status >= 400 {
        secrets::search("an error", &answer.text());
    }
    answer
}

/// Status and headers, names in lower case.
///
/// # Panics
/// When the text is not the head of an HTTP/1 response.
pub fn parse_head(head: &[u8]) -> (u16, Vec<(String, String)>) {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status line");
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    (status.parse().expect("a status"), headers)
}

/// Decodes a chunked body (RFC 9112, section 7.1), piece by piece.
#[derive(Default)]
pub struct Chunks {
    line: Vec<u8>,
    /// Bytes left of the chunk, its line end included.
    left: usize,
    /// Whether the last chunk arrived, so the body is complete.
    pub ended: bool,
}

impl Chunks {
    /// Decodes the next bytes and passes the content on.
    ///
    /// # Panics
    /// When a chunk size is not a hexadecimal number.
    pub fn push(&mut self, mut bytes: &[u8], mut content: impl FnMut(&[u8])) {
        while !bytes.is_empty() && !self.ended {
            if self.left > 0 {
                let taken = self.left.min(bytes.len());
                let end = taken.min(self.left.saturating_sub(2));
                content(&bytes[..end]);
                self.left -= taken;
                bytes = &bytes[taken..];
                continue;
            }
            let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
                self.line.extend_from_slice(bytes);
                return;
            };
            self.line.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            let line = String::from_utf8_lossy(&self.line).trim().to_owned();
            self.line.clear();
            let size = usize::from_str_radix(&line, 16)
                .unwrap_or_else(|error| panic!("invalid chunk size {line:?}: {error}"));
            self.left = size + 2;
            self.ended = size == 0;
        }
    }
}
