//! The take-over of a stream from hyper by the engine. Look here for which streams the engine takes
//! over, and when.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use headwater_core::close::CloseReason;
use headwater_core::frame::push_chunk;
use headwater_core::transport::Mailbox;
use http::response::Parts;
use http::{Method, Request, Response, Version};
use http_body::{Body as _, Frame as BodyFrame, SizeHint};
use hyper::body::Incoming;
use tokio::net::TcpStream;

use super::head;
use crate::engine::{self, ConnectionSlot, Engine, StreamParts};
use crate::response::{Callbacks, DetachedStream, First, StreamHandle};

/// A response that has been detached from hyper.
pub(super) struct Detached {
    parts: Parts,
    body: Body,
    handle: StreamHandle,
    /// The mailbox of the shard that takes the stream.
    mailbox: Arc<Mailbox>,
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
pub(super) async fn respond(
    response: Response<Body>,
    engine: &Engine,
    slot: &Slot,
) -> Response<Reply> {
    let (mut parts, mut body) = response.into_parts();
    let handle = parts.extensions.remove::<StreamHandle>();
    let handle = handle.filter(|_| head::is_supported(&parts));
    // Without a shard, hyper writes.
    let taken = handle.and_then(|handle| Some((engine.mailbox(&handle.hub()?)?, handle)));
    let Some((mailbox, handle)) = taken else {
        return Response::from_parts(parts, Reply { first: None, body });
    };
    match handle.opening(&mut body).await {
        Ok(opening) => {
            slot.put(Detached { parts, body, handle, mailbox, opening });
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

/// Hands the stream to its shard, which writes everything: what the client missed, too.
pub(super) fn hand_over(socket: TcpStream, read: &Bytes, detached: Detached, slot: ConnectionSlot) {
    let Detached { parts, body, handle, mailbox, opening } = detached;
    // Its body is not polled meanwhile, so the stream has not ended.
    let Some(stream) = handle.detach() else { return };
    let DetachedStream { subscription, options, on_close } = stream;
    let callbacks = Callbacks::new(on_close, body);
    let mut head = head::head(&parts);
    push_chunk(&mut head, &opening);
    let socket = match socket.into_std() {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!("closing a stream whose socket the engine cannot take over: {error}");
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
    let stray_bytes = u32::try_from(read.len()).unwrap_or(u32::MAX);
    let parts = StreamParts { socket, head, options, callbacks, slot, stray_bytes };
    engine::attach(subscription, &mailbox, parts);
}
