//! Publishing over HTTP on a persistent connection. Look here for how a response is interpreted.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a response may take. Longer than the server waits for Redis.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A publisher's connection to one node.
pub struct Requests {
    address: SocketAddr,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// A publish request.
#[derive(Clone)]
pub struct Post {
    /// Path and query.
    pub path: String,
    /// The header `Idempotency-Key`.
    pub key: Option<String>,
    /// The header `Content-Type`.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

/// Why a publish has no receipt.
#[derive(Debug)]
pub enum Failure {
    /// The event may have been published or not.
    Unknown(String),
    /// The server rejected the request.
    Rejected(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(why) | Self::Rejected(why) => f.write_str(why),
        }
    }
}

impl Requests {
    /// Connects to the node at an address with the first request.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, connection: None }
    }

    /// Sends a request and waits for the receipts. An event that has no id has none in its receipt.
    ///
    /// # Errors
    /// When there is no receipt.
    pub async fn send(&mut self, post: &Post) -> Result<Vec<Option<String>>, Failure> {
        let answer = timeout(ANSWER_TIMEOUT, self.exchange(post)).await;
        let answer = answer.unwrap_or_else(|_| Err("no response in time".to_owned()));
        let (status, body) = answer.map_err(|why| {
            self.connection = None;
            Failure::Unknown(why)
        })?;
        let text = String::from_utf8_lossy(&body);
        match status {
            200 => {
                receipts(&body).ok_or_else(|| Failure::Rejected(format!("not a receipt: {text}")))
            }
            400..500 => Err(Failure::Rejected(format!("{status} for {}: {text}", post.path))),
            _ => Err(Failure::Unknown(format!("{status}: {text}"))),
        }
    }

    /// Sends a request, and disconnects after a moment, with or without a response.
    pub async fn send_and_disconnect(&mut self, post: &Post, after: Duration) {
        let _ = timeout(after, self.exchange(post)).await;
        self.connection = None;
    }

    async fn exchange(&mut self, post: &Post) -> Result<(u16, Bytes), String> {
        let text = |error: hyper::Error| error.to_string();
        let connection = self.connect().await?;
        let mut request = Request::post(&post.path)
            .header("host", "localhost")
            .header("content-type", post.content_type);
        if let Some(key) = &post.key {
            request = request.header("idempotency-key", key);
        }
        let body = Full::new(Bytes::from(post.body.clone()));
        let request = request.body(body).map_err(|error| error.to_string())?;
        let answer = connection.send_request(request).await.map_err(text)?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.map_err(text)?.to_bytes();
        Ok((status, body))
    }

    async fn connect(&mut self) -> Result<&mut SendRequest<Full<Bytes>>, String> {
        let ready = match &mut self.connection {
            Some(connection) => connection.ready().await.is_ok(),
            None => false,
        };
        if !ready {
            let socket =
                TcpStream::connect(self.address).await.map_err(|error| error.to_string())?;
            let _ = socket.set_nodelay(true);
            let shaken = handshake(TokioIo::new(socket)).await;
            let (requests, connection) = shaken.map_err(|error| error.to_string())?;
            tokio::spawn(connection);
            self.connection = Some(requests);
        }
        self.connection.as_mut().ok_or_else(|| "no connection".to_owned())
    }
}

/// The ids in one receipt, or in a list of receipts.
fn receipts(body: &[u8]) -> Option<Vec<Option<String>>> {
    let id = |receipt: &serde_json::Value| {
        let id = receipt.get("id")?;
        Some(id.as_str().map(str::to_owned))
    };
    match serde_json::from_slice(body).ok()? {
        serde_json::Value::Array(receipts) => receipts.iter().map(id).collect(),
        receipt => Some(vec![id(&receipt)?]),
    }
}
