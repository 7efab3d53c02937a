//! The bytes of one stream, over a raw socket or HTTP/2. Look here for how a stream is cut in the
//! middle of an event.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use headwater::Error;
use headwater::event::Decoder;
use headwater_test_support::http::{Chunks, parse_head};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use crate::log::Protocol;
use crate::scenario::Pace;

/// Bytes per read.
const READ_BYTES: usize = 64 << 10;

/// Bytes per read of a slow client.
const SLOW_READ_BYTES: usize = 2 << 10;
/// The receive buffer of a slow client. With less, TCP itself is too slow on the loopback
/// interface, whose packets are large.
const SLOW_BUFFER_BYTES: u32 = 32 << 10;

/// The request for a stream.
pub struct StreamRequest<'a> {
    /// The address of the node.
    pub address: SocketAddr,
    /// Path and query.
    pub path: &'a str,
    /// The header `Last-Event-ID`.
    pub last_event_id: Option<&'a str>,
    /// The protocol of the client.
    pub protocol: Protocol,
    /// How the client reads.
    pub pace: Pace,
}

/// Why a stream did not open.
pub enum NoStream {
    /// The node cannot be reached.
    Unreachable,
    /// The node responded with this status.
    Rejected(u16),
}

/// An open stream.
pub enum Connection {
    /// A raw socket, whose chunked framing is decoded here.
    Http1 {
        /// The socket.
        socket: TcpStream,
        /// The framing.
        chunks: Chunks,
        /// Bytes that arrived with the response head.
        rest: Vec<u8>,
        /// Bytes per read.
        bytes_max: usize,
    },
    /// A response body, and the task that drives the connection.
    Http2 {
        /// The body.
        body: Incoming,
        /// Must live as long as the body.
        _requests: SendRequest<Empty<Bytes>>,
        /// The task.
        task: JoinHandle<()>,
    },
}

impl Connection {
    /// Requests a stream, and waits for the response head.
    ///
    /// # Errors
    /// Why the stream did not open.
    pub async fn open(request: &StreamRequest<'_>) -> Result<Self, NoStream> {
        match request.protocol {
            Protocol::Http1 => open_http1(request).await,
            Protocol::Http2 => open_http2(request).await,
        }
    }

    /// The next bytes from the network; `None` is the end. Cancel safe.
    pub async fn read(&mut self) -> Option<Vec<u8>> {
        match self {
            Self::Http1 { socket, rest, bytes_max, chunks } => {
                if chunks.ended {
                    return None;
                }
                if !rest.is_empty() {
                    return Some(std::mem::take(rest));
                }
                let mut bytes = Vec::with_capacity(*bytes_max);
                let read = socket.read_buf(&mut bytes).await.unwrap_or(0);
                (read > 0).then_some(bytes)
            }
            Self::Http2 { body, .. } => {
                let frame = body.frame().await?.ok()?;
                Some(frame.into_data().unwrap_or_default().to_vec())
            }
        }
    }

    /// Passes bytes that were read to the decoder, without their framing.
    ///
    /// # Errors
    /// When they are not an event stream.
    pub fn decode(&mut self, bytes: &[u8], decoder: &mut Decoder) -> Result<(), Error> {
        let Self::Http1 { chunks, .. } = self else { return decoder.push(bytes) };
        let mut result = Ok(());
        chunks.push(bytes, |content| {
            if result.is_ok() {
                result = decoder.push(content);
            }
        });
        result
    }

    /// Whether the stream ended with its last chunk or END_STREAM, and was not cut.
    pub fn ended_cleanly(&self) -> bool {
        match self {
            Self::Http1 { chunks, .. } => chunks.ended,
            Self::Http2 { body, .. } => hyper::body::Body::is_end_stream(body),
        }
    }

    /// Closes the connection: with a reset if `hard`, else as a browser does.
    pub fn cut(self, hard: bool) {
        match self {
            Self::Http1 { socket, .. } => {
                if hard {
                    // Closing the socket now sends a reset.
                    let _ = socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
                }
            }
            Self::Http2 { body, task, _requests: requests } => {
                if hard {
                    task.abort();
                }
                // hyper resets the stream, and closes the connection that nothing uses any more.
                drop((body, requests));
            }
        }
    }
}

async fn open_http1(request: &StreamRequest<'_>) -> Result<Connection, NoStream> {
    let unreachable = |_| NoStream::Unreachable;
    let socket = TcpSocket::new_v4().map_err(unreachable)?;
    let mut bytes_max = READ_BYTES;
    if request.pace == Pace::Slow {
        bytes_max = SLOW_READ_BYTES;
        socket.set_recv_buffer_size(SLOW_BUFFER_BYTES).map_err(unreachable)?;
    }
    let mut socket = socket.connect(request.address).await.map_err(unreachable)?;
    let mut head = format!("GET {} HTTP/1.1\r\nhost: localhost\r\n", request.path);
    if let Some(id) = request.last_event_id {
        head += &format!("last-event-id: {id}\r\n");
    }
    head += "\r\n";
    socket.write_all(head.as_bytes()).await.map_err(unreachable)?;
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if socket.read_buf(&mut bytes).await.map_err(unreachable)? == 0 {
            return Err(NoStream::Unreachable);
        }
    };
    let (status, _) = parse_head(&bytes[..end]);
    if status != 200 {
        return Err(NoStream::Rejected(status));
    }
    let rest = bytes.split_off(end + 4);
    Ok(Connection::Http1 { socket, chunks: Chunks::default(), rest, bytes_max })
}

async fn open_http2(request: &StreamRequest<'_>) -> Result<Connection, NoStream> {
    let socket = TcpStream::connect(request.address).await.map_err(|_| NoStream::Unreachable)?;
    let shaken = handshake(TokioExecutor::new(), TokioIo::new(socket)).await;
    let (mut requests, connection) = shaken.map_err(|_| NoStream::Unreachable)?;
    let task = tokio::spawn(async move {
        // An error also shows in the body.
        let _ = connection.await;
    });
    let mut get = Request::get(format!("http://{}{}", request.address, request.path));
    if let Some(id) = request.last_event_id {
        get = get.header("last-event-id", id);
    }
    let get = get.body(Empty::new()).map_err(|_| NoStream::Unreachable)?;
    let answer = requests.send_request(get).await.map_err(|_| NoStream::Unreachable)?;
    if answer.status() != 200 {
        return Err(NoStream::Rejected(answer.status().as_u16()));
    }
    Ok(Connection::Http2 { body: answer.into_body(), _requests: requests, task })
}
