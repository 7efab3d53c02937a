//! One stream of a client, as bytes: over a raw socket or over HTTP/2. Look here for how a stream is
//! cut in the middle of an event.

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

/// What is read at a time.
const READ_BYTES: usize = 64 << 10;

/// What a slow client reads at a time, and its buffer in the kernel.
const SLOW_READ_BYTES: usize = 2 << 10;
/// See [`SLOW_READ_BYTES`]. With less, TCP itself is too slow on the loopback, whose packets are large.
const SLOW_BUFFER_BYTES: u32 = 32 << 10;

/// What a client asks for.
pub struct Ask<'a> {
    /// The node.
    pub address: SocketAddr,
    /// Path and query.
    pub path: &'a str,
    /// The header `Last-Event-ID`.
    pub last_event_id: Option<&'a str>,
    /// What the client speaks.
    pub protocol: Protocol,
    /// How it reads.
    pub pace: Pace,
}

/// Why there is no stream.
pub enum NoStream {
    /// The node cannot be reached.
    Unreachable,
    /// It answered with this status.
    Refused(u16),
}

/// An open stream.
pub enum Connection {
    /// The socket, and the framing that is taken off what comes from it.
    Http1 {
        /// The socket.
        socket: TcpStream,
        /// The framing.
        chunks: Chunks,
        /// Bytes that came with the head.
        rest: Vec<u8>,
        /// How much is read at a time.
        bytes_max: usize,
    },
    /// The body, and the task that drives the connection.
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
    /// Asks for a stream.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn open(ask: &Ask<'_>) -> Result<Self, NoStream> {
        match ask.protocol {
            Protocol::Http1 => open_http1(ask).await,
            Protocol::Http2 => open_http2(ask).await,
        }
    }

    /// The next bytes, as they come from the network; `None` is the end. Cancel safe.
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

    /// Gives bytes that were read to the decoder, without framing.
    ///
    /// # Errors
    /// When they are no event stream.
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

    /// Whether the stream ended as it should, after its last byte.
    pub fn ended_well(&self) -> bool {
        match self {
            Self::Http1 { chunks, .. } => chunks.ended,
            Self::Http2 { body, .. } => hyper::body::Body::is_end_stream(body),
        }
    }

    /// Goes away: with a reset if `hard`, else as a browser does.
    pub fn cut(self, hard: bool) {
        match self {
            Self::Http1 { socket, .. } => {
                if hard {
                    // Closing then resets the connection.
                    let _ = socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
                }
            }
            Self::Http2 { body, task, _requests: requests } => {
                if hard {
                    task.abort();
                }
                // hyper resets the stream, and closes the connection when nobody can use it.
                drop((body, requests));
            }
        }
    }
}

async fn open_http1(ask: &Ask<'_>) -> Result<Connection, NoStream> {
    let unreachable = |_| NoStream::Unreachable;
    let socket = TcpSocket::new_v4().map_err(unreachable)?;
    let mut bytes_max = READ_BYTES;
    if ask.pace == Pace::Slow {
        bytes_max = SLOW_READ_BYTES;
        socket.set_recv_buffer_size(SLOW_BUFFER_BYTES).map_err(unreachable)?;
    }
    let mut socket = socket.connect(ask.address).await.map_err(unreachable)?;
    let mut head = format!("GET {} HTTP/1.1\r\nhost: soak\r\n", ask.path);
    if let Some(id) = ask.last_event_id {
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
        return Err(NoStream::Refused(status));
    }
    let rest = bytes.split_off(end + 4);
    Ok(Connection::Http1 { socket, chunks: Chunks::default(), rest, bytes_max })
}

async fn open_http2(ask: &Ask<'_>) -> Result<Connection, NoStream> {
    let socket = TcpStream::connect(ask.address).await.map_err(|_| NoStream::Unreachable)?;
    let shaken = handshake(TokioExecutor::new(), TokioIo::new(socket)).await;
    let (mut requests, connection) = shaken.map_err(|_| NoStream::Unreachable)?;
    let task = tokio::spawn(async move {
        // How it ended shows in the body.
        let _ = connection.await;
    });
    let mut request = Request::get(format!("http://{}{}", ask.address, ask.path));
    if let Some(id) = ask.last_event_id {
        request = request.header("last-event-id", id);
    }
    let request = request.body(Empty::new()).map_err(|_| NoStream::Unreachable)?;
    let answer = requests.send_request(request).await.map_err(|_| NoStream::Unreachable)?;
    if answer.status() != 200 {
        return Err(NoStream::Refused(answer.status().as_u16()));
    }
    Ok(Connection::Http2 { body: answer.into_body(), _requests: requests, task })
}
