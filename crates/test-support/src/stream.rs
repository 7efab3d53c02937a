//! A client of one event stream, over a raw socket.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use headwater::event::{Decoder, Item, Message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::http::{Chunks, parse_head};
use crate::secrets;
use crate::wait::PATIENCE;

/// An open event stream.
pub struct EventStream {
    socket: TcpStream,
    /// The status of the response.
    pub status: u16,
    /// The headers of the response, names in lower case.
    pub headers: Vec<(String, String)>,
    chunks: Chunks,
    decoder: Decoder,
    buffer: Vec<u8>,
}

/// How a stream ended.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum End {
    /// With the last chunk, after a complete event.
    Clean,
    /// The connection was closed or reset without it.
    Cut,
}

impl EventStream {
    /// Opens a stream, and waits for the response head and the first comment.
    pub async fn open(address: SocketAddr, path: &str) -> Self {
        Self::open_with(address, path, &[], None).await
    }

    /// Like [`open`](Self::open), with headers and a receive buffer size in bytes.
    ///
    /// # Panics
    /// When the server cannot be reached, or the response is not HTTP/1.1.
    pub async fn open_with(
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
        receive_buffer: Option<u32>,
    ) -> Self {
        let opened = Self::try_open(address, path, headers, receive_buffer).await;
        opened.expect("the server listens and responds")
    }

    /// Like [`open_with`](Self::open_with), for a server that may be down.
    ///
    /// # Errors
    /// When the server cannot be reached, or closes the connection before the stream has begun.
    ///
    /// # Panics
    /// When the response is not HTTP/1.1, or does not arrive in time.
    pub async fn try_open(
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
        receive_buffer: Option<u32>,
    ) -> io::Result<Self> {
        secrets::keep_from_request(path, headers);
        let socket = TcpSocket::new_v4()?;
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        let mut socket = socket.connect(address).await?;
        let mut head =
            format!("GET {path} HTTP/1.1\r\nhost: {address}\r\naccept: text/event-stream\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        socket.write_all(head.as_bytes()).await?;
        let mut bytes = Vec::new();
        let split = loop {
            if let Some(split) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break split;
            }
            let read = timeout(PATIENCE, socket.read_buf(&mut bytes)).await;
            if read.expect("a response in time")? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let (status, headers) = parse_head(&bytes[..split]);
        // For an error, what has arrived of the body too.
        let searched = if status < 400 { &bytes[..split] } else { &bytes };
        secrets::search("the head of a stream", &String::from_utf8_lossy(searched));
        let mut stream = Self {
            socket,
            status,
            headers,
            chunks: Chunks::default(),
            decoder: Decoder::new(),
            buffer: Vec::with_capacity(64 << 10),
        };
        stream.take(&bytes[split + 4..]);
        if status == 200 {
            // After the first comment the stream is subscribed.
            let Ok(opening) = stream.next_item().await else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            assert!(matches!(opening, Item::Comment(_)), "{opening:?}");
        }
        Ok(stream)
    }

    fn take(&mut self, bytes: &[u8]) {
        let decoder = &mut self.decoder;
        self.chunks.push(bytes, |content| decoder.push(content).expect("an event stream"));
    }

    /// The next event; skips comments and `retry`.
    ///
    /// # Errors
    /// How the stream ended.
    ///
    /// # Panics
    /// When no event arrives in time.
    pub async fn next(&mut self) -> Result<Message, End> {
        // One deadline for the event: heartbeats do not extend it.
        let next = async {
            loop {
                if let Item::Event(message) = self.read_item().await? {
                    return Ok(message);
                }
            }
        };
        timeout(PATIENCE, next).await.expect("an event on the stream in time")
    }

    /// The next item, comments and `retry` included.
    ///
    /// # Errors
    /// How the stream ended.
    ///
    /// # Panics
    /// When nothing arrives in time.
    pub async fn next_item(&mut self) -> Result<Item, End> {
        timeout(PATIENCE, self.read_item()).await.expect("something on the stream in time")
    }

    /// The next event, if it arrives within the time.
    ///
    /// # Panics
    /// When the stream ends.
    pub async fn next_within(&mut self, within: Duration) -> Option<Message> {
        let next = async {
            loop {
                if let Item::Event(message) = self.read_item().await.expect("an open stream") {
                    return message;
                }
            }
        };
        timeout(within, next).await.ok()
    }

    /// Reads to the end of the stream.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn end(&mut self) -> End {
        // One deadline for the end: heartbeats do not extend it.
        let end = async {
            loop {
                if let Err(end) = self.read_item().await {
                    return end;
                }
            }
        };
        timeout(PATIENCE, end).await.expect("the end of the stream in time")
    }

    /// The next item among those already received.
    pub fn take_received(&mut self) -> Option<Item> {
        self.decoder.next_item()
    }

    /// The `Last-Event-ID` that a client would send after the items returned so far.
    pub fn last_event_id(&self) -> &str {
        self.decoder.last_event_id()
    }

    /// The next item, however long it takes. Cancel safe.
    ///
    /// # Errors
    /// How the stream ended.
    pub async fn read_item(&mut self) -> Result<Item, End> {
        // read_buf is cancel safe, and bytes are decoded as soon as they are read.
        loop {
            if let Some(item) = self.decoder.next_item() {
                return Ok(item);
            }
            if self.chunks.ended {
                return Err(End::Clean);
            }
            self.buffer.clear();
            match self.socket.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return Err(End::Cut),
                Ok(_) => {
                    let bytes = std::mem::take(&mut self.buffer);
                    self.take(&bytes);
                    self.buffer = bytes;
                }
            }
        }
    }
}
