//! The take-over of a stream from hyper by the engine. Look here for which streams the engine takes
//! over, and for how replay is written before that.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use headwater_core::close::CloseReason;
use headwater_core::frame::{CHUNK_END, LAST_CHUNK, push_chunk, push_chunk_start};
use headwater_core::transport::Mailbox;
use http::response::Parts;
use http::{Method, Request, Response, Version};
use http_body::{Body as _, Frame as BodyFrame, SizeHint};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::head;
use crate::engine::{self, ConnectionSlot, Engine, StreamParts};
use crate::limits::{BATCH_BYTES_MAX, REPLAY_BYTES_MAX, STRAY_BYTES_MAX};
use crate::response::{Callbacks, DetachHandle, DetachedStream, First};

/// A response that has been detached from hyper.
pub(super) struct Detached {
    parts: Parts,
    body: Body,
    handle: DetachHandle,
    /// The first bytes of the body.
    opening: Bytes,
}

/// Where a detached response waits until its connection can be taken from hyper. One per
/// connection.
#[derive(Default)]
pub(super) struct Slot {
    detached: Mutex<Option<Detached>>,
    /// Whether hyper has flushed the socket since `put`. hyper flushes whenever it is polled, and
    /// the flush reaches the socket only when nothing of an earlier response is left in hyper's
    /// buffer.
    flushed: AtomicBool,
}

impl Slot {
    fn put(&self, detached: Detached) {
        self.flushed.store(false, Ordering::Relaxed);
        *self.detached.lock().unwrap_or_else(PoisonError::into_inner) = Some(detached);
    }

    /// Records that the socket was flushed.
    pub(super) fn flushed(&self) {
        self.flushed.store(true, Ordering::Relaxed);
    }

    /// Takes the response, if there is one and hyper has nothing left to write.
    pub(super) fn take(&self) -> Option<Detached> {
        if !self.flushed.load(Ordering::Relaxed) {
            return None;
        }
        self.detached.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Whether the engine may take over a stream that answers this request.
pub(super) fn is_eligible(request: &Request<Incoming>) -> bool {
    request.version() == Version::HTTP_11
        && request.method() == Method::GET
        && request.body().is_end_stream()
}

/// Returns the response if hyper must write it. Otherwise puts it into the slot and never
/// completes.
pub(super) async fn respond(response: Response<Body>, slot: &Slot) -> Response<Reply> {
    let (mut parts, mut body) = response.into_parts();
    let handle = parts.extensions.remove::<DetachHandle>();
    let Some(handle) = handle.filter(|_| head::is_supported(&parts)) else {
        return Response::from_parts(parts, Reply { first: None, body });
    };
    match handle.opening(&mut body).await {
        Ok(opening) => {
            slot.put(Detached { parts, body, handle, opening });
            std::future::pending().await
        }
        Err(first) => Response::from_parts(parts, Reply { first, body }),
    }
}

/// A body for hyper, preceded by the item that has already been taken out of it.
pub(super) struct Reply {
    first: Option<First>,
    body: Body,
}

impl From<Body> for Reply {
    fn from(body: Body) -> Self {
        Self { first: None, body }
    }
}

impl http_body::Body for Reply {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, axum::Error>>> {
        match self.first.take() {
            Some(First::Frame(frame)) => Poll::Ready(Some(Ok(frame))),
            Some(First::Error(error)) => Poll::Ready(Some(Err(error))),
            None => Pin::new(&mut self.body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.first.is_some() { SizeHint::default() } else { self.body.size_hint() }
    }
}

/// A stream that a task writes until a shard takes it over.
struct Stream {
    socket: TcpStream,
    handle: DetachHandle,
    /// Bytes that the socket has not accepted yet.
    unsent: Vec<u8>,
    /// Bytes the client has sent after its request; bounded by `STRAY_BYTES_MAX`.
    stray_bytes: u32,
    send_timeout: Option<Duration>,
}

/// Writes the replay with backpressure, and attaches the stream to a shard once it is live. If
/// there is no shard, writes the stream until it ends.
pub(super) async fn run(
    socket: TcpStream,
    read: Bytes,
    detached: Detached,
    engine: &Engine,
    slot: ConnectionSlot,
) {
    let Detached { parts, body, handle, opening } = detached;
    let mut unsent = head::head(&parts);
    push_chunk(&mut unsent, &opening);
    let stray_bytes = u32::try_from(read.len()).unwrap_or(u32::MAX);
    drop((parts, opening, read));
    let send_timeout = handle.send_timeout();
    let mut stream = Stream { socket, handle, unsent, stray_bytes, send_timeout };
    loop {
        if let Some(mailbox) = stream.handle.hub().and_then(|hub| engine.mailbox(&hub))
            && let Some(detached) = stream.handle.detach(&mut stream.unsent, REPLAY_BYTES_MAX)
        {
            return stream.attach(detached, body, &mailbox, slot);
        }
        match stream.write_next().await {
            Ok(Next::More) => {}
            Ok(Next::End) => break,
            Err(reason) => return stream.handle.end(reason),
        }
    }
    drop((body, slot));
}

/// Whether there is more to stream.
enum Next {
    More,
    End,
}

impl Stream {
    /// Writes the unsent bytes, then waits for the next ones.
    async fn write_next(&mut self) -> Result<Next, CloseReason> {
        self.write().await?;
        let Self { socket, handle, stray_bytes, .. } = self;
        let next = poll_fn(|context| {
            if poll_gone(socket, stray_bytes, context).is_ready() {
                return Poll::Ready(Err(CloseReason::ClientGone));
            }
            handle.poll_bytes(context).map(Ok)
        });
        if let Some(bytes) = next.await? {
            self.send_chunk(&bytes).await?;
            return Ok(Next::More);
        }
        self.unsent.extend_from_slice(LAST_CHUNK);
        self.write().await?;
        let _ = self.socket.shutdown().await;
        Ok(Next::End)
    }

    /// Adds bytes as a chunk to the unsent ones. Large ones are written from where they are: all
    /// streams that replay an event share its bytes.
    async fn send_chunk(&mut self, bytes: &Bytes) -> Result<(), CloseReason> {
        if bytes.len() <= BATCH_BYTES_MAX {
            push_chunk(&mut self.unsent, bytes);
            return Ok(());
        }
        push_chunk_start(&mut self.unsent, bytes.len());
        self.write().await?;
        self.write_all(bytes).await?;
        self.unsent.extend_from_slice(CHUNK_END);
        Ok(())
    }

    /// Writes all unsent bytes.
    async fn write(&mut self) -> Result<(), CloseReason> {
        let mut unsent = std::mem::take(&mut self.unsent);
        self.write_all(&unsent).await?;
        unsent.clear();
        // Do not retain the memory of a large event.
        unsent.shrink_to(REPLAY_BYTES_MAX);
        self.unsent = unsent;
        Ok(())
    }

    async fn write_all(&mut self, bytes: &[u8]) -> Result<(), CloseReason> {
        let Self { socket, stray_bytes, send_timeout, .. } = self;
        let mut sent = 0;
        while sent < bytes.len() {
            let progress = poll_fn(|context| {
                if poll_gone(socket, stray_bytes, context).is_ready() {
                    return Poll::Ready(Err(CloseReason::ClientGone));
                }
                let wrote = ready!(Pin::new(&mut *socket).poll_write(context, &bytes[sent..]));
                Poll::Ready(wrote.map_err(|_| CloseReason::ClientGone))
            });
            sent += match *send_timeout {
                Some(limit) => match tokio::time::timeout(limit, progress).await {
                    Ok(wrote) => wrote?,
                    Err(_) => return Err(CloseReason::Stalled),
                },
                None => progress.await?,
            };
        }
        Ok(())
    }

    /// Hands the stream to a shard.
    fn attach(
        self,
        stream: DetachedStream,
        body: Body,
        mailbox: &Arc<Mailbox>,
        slot: ConnectionSlot,
    ) {
        let Self { socket, unsent, stray_bytes, .. } = self;
        let DetachedStream { subscription, options, on_close } = stream;
        let callbacks = Callbacks::new(on_close, body);
        let socket = match socket.into_std() {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!(
                    "closing a stream whose socket the engine cannot take over: {error}"
                );
                subscription.close(CloseReason::Internal);
                return callbacks.close(CloseReason::Internal);
            }
        };
        // Writes to a client that disappeared succeed until the buffer is full; this timeout limits
        // how long they may stay unacknowledged.
        if let Some(limit) = options.send_timeout {
            #[cfg(any(target_os = "linux", target_os = "android"))]
            let _ = socket2::SockRef::from(&socket).set_tcp_user_timeout(Some(limit));
            #[cfg(not(any(target_os = "linux", target_os = "android")))]
            let _ = limit;
        }
        let parts = StreamParts { socket, unsent, options, callbacks, slot, stray_bytes };
        engine::attach(subscription, mailbox, parts);
    }
}

/// Ready when the client is gone: it has closed its sending direction, or exceeded
/// `STRAY_BYTES_MAX`. What it sends is discarded.
fn poll_gone(socket: &mut TcpStream, stray: &mut u32, context: &mut Context<'_>) -> Poll<()> {
    let mut space = [0; 1024];
    loop {
        let mut buffer = ReadBuf::new(&mut space);
        match ready!(Pin::new(&mut *socket).poll_read(context, &mut buffer)) {
            Ok(()) if !buffer.filled().is_empty() => {
                let bytes = u32::try_from(buffer.filled().len()).unwrap_or(u32::MAX);
                *stray = stray.saturating_add(bytes);
                if *stray > STRAY_BYTES_MAX {
                    return Poll::Ready(());
                }
            }
            _ => return Poll::Ready(()),
        }
    }
}
