//! One client of an event stream, over a socket of its own.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use headwater::event::{Decoder, Item, Message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::http::{Chunks, parse_head};
use crate::{PATIENCE, secrets};

/// An open event stream.
pub struct EventStream {
    socket: TcpStream,
    /// The head's status.
    pub status: u16,
    /// The head's headers, names in lower case.
    pub headers: Vec<(String, String)>,
    chunks: Chunks,
    decoder: Decoder,
    buffer: Vec<u8>,
}

/// How a stream ended.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum End {
    /// With its last chunk, on a whole event.
    Clean,
    /// The connection was cut.
    Cut,
}

impl EventStream {
    /// Opens a stream, and waits for its head and its first comment.
    pub async fn open(address: SocketAddr, path: &str) -> Self {
        Self::open_with(address, path, &[], None).await
    }

    /// The same with headers, and with a receive buffer of some size.
    ///
    /// # Panics
    /// When the server cannot be reached or does not answer with HTTP/1.1.
    pub async fn open_with(
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
        receive_buffer: Option<u32>,
    ) -> Self {
        let opened = Self::try_open(address, path, headers, receive_buffer).await;
        opened.expect("the server listens and answers")
    }

    /// The same for a server that may be gone.
    ///
    /// # Errors
    /// When it cannot be reached or goes before its stream has begun.
    ///
    /// # Panics
    /// When it does not answer with HTTP/1.1, or not in time.
    pub async fn try_open(
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
        receive_buffer: Option<u32>,
    ) -> io::Result<Self> {
        secrets::keep_of_request(path, headers);
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
            if read.expect("an answer in time")? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let (status, headers) = parse_head(&bytes[..split]);
        // Of an error, what came of its body too.
        let told = if status < 400 { &bytes[..split] } else { &bytes };
        secrets::search("the head of a stream", &String::from_utf8_lossy(told));
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
            // What is published from now on must arrive.
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

    /// The next event; comments and `retry` are passed over.
    ///
    /// # Errors
    /// How the stream ended.
    ///
    /// # Panics
    /// When nothing comes in time.
    pub async fn next(&mut self) -> Result<Message, End> {
        // Heartbeats do not count as something.
        let next = async {
            loop {
                if let Item::Event(message) = self.read_item().await? {
                    return Ok(message);
                }
            }
        };
        timeout(PATIENCE, next).await.expect("an event on the stream in time")
    }

    /// The next item, comments and `retry` too.
    ///
    /// # Errors
    /// How the stream ended.
    ///
    /// # Panics
    /// When nothing comes in time.
    pub async fn next_item(&mut self) -> Result<Item, End> {
        timeout(PATIENCE, self.read_item()).await.expect("something on the stream in time")
    }

    /// The next event if it comes within the time.
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

    /// Reads to the end.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn end(&mut self) -> End {
        // Heartbeats do not keep it waiting.
        let end = async {
            loop {
                if let Err(end) = self.read_item().await {
                    return end;
                }
            }
        };
        timeout(PATIENCE, end).await.expect("the end of the stream in time")
    }

    /// The next item of those that came already.
    pub fn take_received(&mut self) -> Option<Item> {
        self.decoder.next_item()
    }

    /// What a client that has taken all it received would send as `Last-Event-ID`.
    pub fn last_event_id(&self) -> &str {
        self.decoder.last_event_id()
    }

    /// The next item, however long it takes. Cancel safe.
    ///
    /// # Errors
    /// How the stream ended.
    pub async fn read_item(&mut self) -> Result<Item, End> {
        // read_buf is cancel safe, and bytes are taken as soon as they are read.
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
