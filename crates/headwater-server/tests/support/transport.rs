//! Requests over each transport that a client can choose, with a body that is read as it comes.
//! Look here for how one request is made the same way over all of them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use headwater_test_support::tls::{Files, shake_hands};
use headwater_test_support::{Node, PATIENCE};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpSocket;
use tokio::time::timeout;

/// A version of HTTP, with or without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transport {
    pub(crate) is_http2: bool,
    pub(crate) is_tls: bool,
}

impl Transport {
    pub(crate) const ALL: [Self; 4] = [
        Self { is_http2: false, is_tls: false },
        Self { is_http2: true, is_tls: false },
        Self { is_http2: false, is_tls: true },
        Self { is_http2: true, is_tls: true },
    ];
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = if self.is_http2 { "HTTP/2" } else { "HTTP/1.1" };
        write!(f, "{version}{}", if self.is_tls { " over TLS" } else { "" })
    }
}

/// A request without a body's length: what differs between two cells of a table.
pub(crate) struct Ask<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) headers: &'a [(String, String)],
    pub(crate) body: &'a str,
    /// The receive buffer of the socket, in bytes; `None` for the system's.
    pub(crate) receive_buffer: Option<u32>,
}

/// The server's answer. The connection closes when it is dropped.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    body: Incoming,
    connection: tokio::task::AbortHandle,
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Reply {
    /// The next bytes of the body; `None` at a clean end.
    pub(crate) async fn next(&mut self, within: Duration) -> Option<Bytes> {
        let frame = timeout(within, self.body.frame()).await.expect("something in time")?;
        Some(frame.expect("a clean body").into_data().unwrap_or_default())
    }

    /// Reads until a text comes.
    pub(crate) async fn read_until(&mut self, text: &str) {
        let mut bytes = Vec::new();
        while !bytes.windows(text.len()).any(|part| part == text.as_bytes()) {
            bytes.extend(self.next(PATIENCE).await.expect("an open stream"));
        }
    }

    /// The rest of a short body.
    pub(crate) async fn text(&mut self) -> String {
        let mut bytes = Vec::new();
        while let Some(more) = self.next(PATIENCE).await {
            bytes.extend(more);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Makes a request on a connection of its own. `files` has the certificate of a node with TLS.
pub(crate) async fn ask(transport: Transport, node: &Node, files: &Files, ask: Ask<'_>) -> Reply {
    let socket = TcpSocket::new_v4().expect("a socket");
    if let Some(bytes) = ask.receive_buffer {
        socket.set_recv_buffer_size(bytes).expect("a small buffer");
    }
    let socket = socket.connect(node.address()).await.expect("the server listens");
    if !transport.is_tls {
        return over(transport, socket, ask).await;
    }
    let version = if transport.is_http2 { "h2" } else { "http/1.1" };
    let socket = shake_hands(socket, &Arc::new(files.client(&[version]))).await;
    over(transport, socket, ask).await
}

async fn over<S>(transport: Transport, socket: S, ask: Ask<'_>) -> Reply
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let scheme = if transport.is_tls { "https" } else { "http" };
    let uri = if transport.is_http2 {
        format!("{scheme}://localhost{}", ask.path)
    } else {
        ask.path.to_owned()
    };
    let mut request = Request::builder().method(ask.method).uri(uri);
    if !transport.is_http2 {
        request = request.header("host", "localhost");
    }
    for (name, value) in ask.headers {
        request = request.header(name, value);
    }
    let body = Full::new(Bytes::copy_from_slice(ask.body.as_bytes()));
    let request = request.body(body).expect("a request");
    let socket = TokioIo::new(socket);
    let (response, connection) = if transport.is_http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(64 << 10).initial_connection_window_size(64 << 10);
        let (mut sender, connection) = builder.handshake(socket).await.expect("HTTP/2");
        let connection = tokio::spawn(connection).abort_handle();
        (timeout(PATIENCE, sender.send_request(request)).await, connection)
    } else {
        let (mut sender, connection) = http1::handshake(socket).await.expect("HTTP/1.1");
        let connection = tokio::spawn(connection).abort_handle();
        (timeout(PATIENCE, sender.send_request(request)).await, connection)
    };
    let response: Response<Incoming> = response.expect("in time").expect("an answer");
    let (head, body) = response.into_parts();
    Reply { status: head.status.as_u16(), headers: head.headers, body, connection }
}
