//! From a response of hyper's to a stream of the engine. Look here for which streams the engine takes, and for what
//! becomes of those that have something to replay first.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use headwater_core::close::CloseReason;
use headwater_core::frame::{LAST_CHUNK, push_chunk};
use headwater_core::transport::Mailbox;
use http::response::Parts;
use http::{Method, Request, Response, Version};
use http_body::{Body as _, Frame as BodyFrame, SizeHint};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::head;
use crate::engine::{self, ConnectionSlot, Engine, StreamParts};
use crate::limits::{REPLAY_BYTES_MAX, STRAY_BYTES_MAX};
use crate::response::{Callbacks, DetachHandle, DetachedStream, First};

/// A response that was taken away from hyper.
pub(super) struct Detached {
    parts: Parts,
    body: Body,
    handle: DetachHandle,
    /// The first bytes of the body.
    opening: Bytes,
}

/// Where a response waits for the connection to be taken from hyper. One per connection.
#[derive(Default)]
pub(super) struct Slot {
    taken: Mutex<Option<Detached>>,
    /// Whether hyper has flushed the socket since. It does so in each of its turns, and passes it on only
    /// when nothing of an earlier response is left in its own buffer.
    flushed: AtomicBool,
}

impl Slot {
    fn put(&self, taken: Detached) {
        self.flushed.store(false, Ordering::Relaxed);
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(taken);
    }

    /// The socket was flushed.
    pub(super) fn flushed(&self) {
        self.flushed.store(true, Ordering::Relaxed);
    }

    /// The response, if there is one and hyper has nothing left to write.
    pub(super) fn take(&self) -> Option<Detached> {
        if !self.flushed.load(Ordering::Relaxed) {
            return None;
        }
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Whether a stream may be answered to this request by the engine.
pub(super) fn is_eligible(request: &Request<Incoming>) -> bool {
    request.version() == Version::HTTP_11
        && request.method() == Method::GET
        && request.body().is_end_stream()
}

/// Leaves a response to hyper, or puts it into the slot and never comes back.
pub(super) async fn answer(response: Response<Body>, slot: &Slot) -> Response<Reply> {
    let (mut parts, mut body) = response.into_parts();
    let handle = parts.extensions.remove::<DetachHandle>();
    let Some(handle) = handle.filter(|_| head::is_ours(&parts)) else {
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

/// A body for hyper, with what was taken out of it beforehand.
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

/// A stream whose connection is the task's own, until a shard takes it.
struct Stream {
    socket: TcpStream,
    handle: DetachHandle,
    /// What the socket has not taken yet.
    unsent: Vec<u8>,
    stray_bytes: u32,
    send_timeout: Option<Duration>,
}

/// Streams what is to be replayed, with back-pressure, and gives the stream to a shard when it is live.
/// If there is no shard, it streams to the end.
pub(super) async fn run(
    socket: TcpStream,
    read: Bytes,
    taken: Detached,
    engine: &Engine,
    slot: ConnectionSlot,
) {
    let Detached { parts, body, handle, opening } = taken;
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
        match stream.go_on().await {
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
    /// Writes what is there, and waits for what comes next.
    async fn go_on(&mut self) -> Result<Next, CloseReason> {
        self.write().await?;
        let Self { socket, handle, stray_bytes, .. } = self;
        let next = poll_fn(|context| {
            if poll_gone(socket, stray_bytes, context).is_ready() {
                return Poll::Ready(Err(CloseReason::ClientGone));
            }
            handle.poll_bytes(context).map(Ok)
        });
        if let Some(bytes) = next.await? {
            push_chunk(&mut self.unsent, &bytes);
            return Ok(Next::More);
        }
        self.unsent.extend_from_slice(LAST_CHUNK);
        self.write().await?;
        let _ = self.socket.shutdown().await;
        Ok(Next::End)
    }

    /// Writes all that is unsent.
    async fn write(&mut self) -> Result<(), CloseReason> {
        let Self { socket, unsent, stray_bytes, send_timeout, .. } = self;
        let mut sent = 0;
        while sent < unsent.len() {
            let progress = poll_fn(|context| {
                if poll_gone(socket, stray_bytes, context).is_ready() {
                    return Poll::Ready(Err(CloseReason::ClientGone));
                }
                let wrote = ready!(Pin::new(&mut *socket).poll_write(context, &unsent[sent..]));
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
        unsent.clear();
        // One large event must not leave its memory to the next small ones.
        unsent.shrink_to(REPLAY_BYTES_MAX);
        Ok(())
    }

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
                tracing::error!("a stream ends because its socket cannot be taken over: {error}");
                subscription.close(CloseReason::Internal);
                return callbacks.close(CloseReason::Internal);
            }
        };
        // A client that vanished without a word holds its socket until its kernel would have answered.
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

/// Ready when the client is gone: it closed its half, or sends more than it may. What it sends is thrown away.
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
