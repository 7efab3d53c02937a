//! Publishing over HTTP, on a connection that is kept. Look here for what counts as an answer.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long an answer may take. Longer than the server waits for Redis.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A publisher's connection to one node.
pub struct Requests {
    address: SocketAddr,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// What a publisher sends.
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

/// Why there is no receipt.
#[derive(Debug)]
pub enum Failure {
    /// It may have been published or not.
    Unknown(String),
    /// The server says that the request is wrong.
    Refused(String),
}

impl Requests {
    /// To the node at an address; connects with the first request.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, connection: None }
    }

    /// Sends, and waits for the receipts: the ids, as far as there are some.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn send(&mut self, post: &Post) -> Result<Vec<Option<String>>, Failure> {
        let answer = timeout(ANSWER_TIMEOUT, self.exchange(post)).await;
        let answer = answer.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let (status, body) = answer.map_err(|why| {
            self.connection = None;
            Failure::Unknown(why)
        })?;
        let text = String::from_utf8_lossy(&body);
        match status {
            200 => receipts(&body).ok_or_else(|| Failure::Refused(format!("a receipt: {text}"))),
            400..500 => Err(Failure::Refused(format!("{status} for {}: {text}", post.path))),
            _ => Err(Failure::Unknown(format!("{status}: {text}"))),
        }
    }

    /// Sends, and goes away after a moment, whether the answer came or not.
    pub async fn send_and_leave(&mut self, post: &Post, after: Duration) {
        let _ = timeout(after, self.exchange(post)).await;
        self.connection = None;
    }

    async fn exchange(&mut self, post: &Post) -> Result<(u16, Bytes), String> {
        let told = |error: hyper::Error| error.to_string();
        let connection = self.connect().await?;
        let mut request = Request::post(&post.path)
            .header("host", "soak")
            .header("content-type", post.content_type);
        if let Some(key) = &post.key {
            request = request.header("idempotency-key", key);
        }
        let body = Full::new(Bytes::from(post.body.clone()));
        let request = request.body(body).map_err(|error| error.to_string())?;
        let answer = connection.send_request(request).await.map_err(told)?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.map_err(told)?.to_bytes();
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

/// The ids of one receipt, or of a list of them.
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
