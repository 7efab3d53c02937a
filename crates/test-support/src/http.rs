//! Requests over a socket of their own, written and read byte by byte.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::{PATIENCE, secrets};

/// An answer.
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
    /// When it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }

    /// What a problem document (RFC 9457) says to do.
    ///
    /// # Panics
    /// When it is none, or not one for this status.
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

    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// GET.
pub async fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, "GET", path, &[], b"").await
}

/// POST.
pub async fn post(address: SocketAddr, path: &str, body: &[u8]) -> Answer {
    request(address, "POST", path, &[], body).await
}

/// Any request, on a connection that closes after it.
///
/// # Panics
/// When the server cannot be reached or its answer is no HTTP/1.1.
pub async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    secrets::keep_of_request(path, headers);
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    exchange(address, &[head.as_bytes(), body].concat()).await
}

/// Sends bytes as they are, and reads the answer until the server closes the connection.
///
/// # Panics
/// When the server cannot be reached or its answer is no HTTP/1.1.
pub async fn exchange(address: SocketAddr, request: &[u8]) -> Answer {
    let mut socket = TcpStream::connect(address).await.expect("the server listens");
    // A server may answer and close before it has read a body that it refuses.
    let _ = socket.write_all(request).await;
    read_answer(&mut socket).await
}

/// Reads an answer until the server closes the connection.
///
/// # Panics
/// When it is no HTTP/1.1, or nothing comes in time.
pub async fn read_answer(socket: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    let read = timeout(PATIENCE, socket.read_to_end(&mut bytes)).await;
    // What came before an error counts: a server that refuses a body resets the connection.
    let _ = read.expect("an answer, and the end of the connection, in time");
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(bytes);
    let split = bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap_or_else(|| panic!("no HTTP answer: {text:?}"));
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
/// When it is no head of an HTTP/1 answer.
pub fn parse_head(head: &[u8]) -> (u16, Vec<(String, String)>) {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status line");
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    (status.parse().expect("a status"), headers)
}

/// Takes off the framing of a chunked body (RFC 9112, 7.1), piece by piece.
#[derive(Default)]
pub struct Chunks {
    line: Vec<u8>,
    /// Bytes left of the chunk and of its line end.
    left: usize,
    /// Whether the last chunk came: the body ended as it should.
    pub ended: bool,
}

impl Chunks {
    /// Passes on what is content.
    ///
    /// # Panics
    /// When a chunk's size is no hexadecimal number.
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
                .unwrap_or_else(|error| panic!("{line:?} is no chunk size: {error}"));
            self.left = size + 2;
            self.ended = size == 0;
        }
    }
}
