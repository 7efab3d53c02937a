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
use http::response::Parts;
use http::{Method, Request, Response, Version};
use http_body::{Body as _, Frame as BodyFrame, SizeHint};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::chunked;
use super::engine::{self, Engine, Luggage};
use super::slots::ConnectionSlot;
use crate::close::CloseReason;
use crate::hub::mailbox::Mailbox;
use crate::limits::{REPLAY_BYTES_MAX, STRAY_BYTES_MAX};
use crate::response::{Callbacks, Detached, First, Takeover};

/// A response that was taken away from hyper.
pub(super) struct Taken {
    parts: Parts,
    body: Body,
    takeover: Takeover,
    /// The first bytes of the body.
    opening: Bytes,
}

/// Where a response waits for the connection to be taken from hyper. One per connection.
#[derive(Default)]
pub(super) struct Slot {
    taken: Mutex<Option<Taken>>,
    /// Whether hyper has flushed the socket since. It does so in each of its turns, and passes it on only
    /// when nothing of an earlier response is left in its own buffer.
    flushed: AtomicBool,
}

impl Slot {
    fn put(&self, taken: Taken) {
        self.flushed.store(false, Ordering::Relaxed);
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(taken);
    }

    /// The socket was flushed.
    pub(super) fn flushed(&self) {
        self.flushed.store(true, Ordering::Relaxed);
    }

    /// The response, if there is one and hyper has nothing left to write.
    pub(super) fn take(&self) -> Option<Taken> {
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
    let takeover = parts.extensions.remove::<Takeover>();
    let Some(takeover) = takeover.filter(|_| chunked::is_ours(&parts)) else {
        return Response::from_parts(parts, Reply { first: None, body });
    };
    match takeover.opening(&mut body).await {
        Ok(opening) => {
            slot.put(Taken { parts, body, takeover, opening });
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
    takeover: Takeover,
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
    taken: Taken,
    engine: &Engine,
    place: ConnectionSlot,
) {
    let Taken { parts, body, takeover, opening } = taken;
    let mut unsent = chunked::head(&parts);
    chunked::push_chunk(&mut unsent, &opening);
    let stray_bytes = u32::try_from(read.len()).unwrap_or(u32::MAX);
    drop((parts, opening, read));
    let send_timeout = takeover.send_timeout();
    let mut stream = Stream { socket, takeover, unsent, stray_bytes, send_timeout };
    loop {
        if let Some(mailbox) = stream.takeover.hub().and_then(|hub| engine.mailbox(&hub))
            && let Some(detached) = stream.takeover.detach(&mut stream.unsent, REPLAY_BYTES_MAX)
        {
            return stream.attach(detached, body, &mailbox, place);
        }
        match stream.go_on().await {
            Ok(Next::More) => {}
            Ok(Next::End) => break,
            Err(reason) => return stream.takeover.end(reason),
        }
    }
    drop((body, place));
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
        let Self { socket, takeover, stray_bytes, .. } = self;
        let next = poll_fn(|context| {
            if poll_gone(socket, stray_bytes, context).is_ready() {
                return Poll::Ready(Err(CloseReason::ClientGone));
            }
            takeover.poll_bytes(context).map(Ok)
        });
        if let Some(bytes) = next.await? {
            chunked::push_chunk(&mut self.unsent, &bytes);
            return Ok(Next::More);
        }
        self.unsent.extend_from_slice(chunked::END);
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

    fn attach(self, detached: Detached, body: Body, mailbox: &Arc<Mailbox>, place: ConnectionSlot) {
        let Self { socket, unsent, stray_bytes, .. } = self;
        let Detached { subscription, settings, on_close } = detached;
        let user = Callbacks::new(on_close, body);
        let socket = match socket.into_std() {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!("a stream ends because its socket cannot be taken over: {error}");
                subscription.close(CloseReason::Internal);
                return user.close(CloseReason::Internal);
            }
        };
        // A client that vanished without a word holds its socket until its kernel would have answered.
        if let Some(limit) = settings.send_timeout {
            let _ = socket2::SockRef::from(&socket).set_tcp_user_timeout(Some(limit));
        }
        let luggage = Luggage { socket, unsent, settings, user, place, stray_bytes };
        engine::attach(subscription, mailbox, luggage);
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
