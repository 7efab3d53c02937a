//! The handle by which `headwater::serve` finds the stream of a response: to report a client that
//! accepts no data, and to detach the stream from its body, for the engine. Look here for when that
//! is possible.
//!
//! The body works under any server. The response's extensions carry a handle to the same state;
//! `headwater::serve` finds it there, probes whether the body that left all middleware is still
//! this one, and takes the state out. The empty body is retained until the stream ends: what
//! middleware wrapped around it, such as a guard that counts, lives as long as the stream.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum_core::body::Body;
use bytes::Bytes;
use headwater_core::Subscription;
use headwater_core::close::CloseReason;
use headwater_core::transport::HubRef;
use http_body::{Body as _, Frame as BodyFrame};

use super::body::{IDENTITY_PROBE, Shared};
use super::options::{OnClose, StreamOptions};
use super::source::Source;

/// A handle to a stream, carried by the extensions of its response.
#[derive(Clone)]
pub(crate) struct StreamHandle(Arc<Shared>);

/// A stream without its body.
pub(crate) struct DetachedStream {
    pub(crate) subscription: Subscription,
    pub(crate) options: StreamOptions,
    pub(crate) on_close: Option<OnClose>,
}

/// The application's parts of a stream.
pub(crate) struct Callbacks {
    on_close: Option<OnClose>,
    /// The response's body, retained for what middleware wrapped around it.
    _body: Body,
}

impl Callbacks {
    pub(crate) fn new(on_close: Option<OnClose>, body: Body) -> Self {
        Self { on_close, _body: body }
    }

    /// Reports the end of the stream to the application.
    pub(crate) fn close(mut self, reason: CloseReason) {
        if let Some(on_close) = self.on_close.take() {
            on_close(reason);
        }
    }
}

impl StreamHandle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// The opening bytes, if `body` passes on the stream's bytes unchanged; otherwise what `body`
    /// returned instead, if anything, which must be sent to the client first.
    ///
    /// Two probes decide. The size: a layer that changes the bytes must not pass on an exact size.
    /// And the opening bytes: they must be identical, not a copy. A layer that passes both probes
    /// and changes only later bytes would be bypassed.
    pub(crate) async fn opening(&self, body: &mut Body) -> Result<Bytes, Option<First>> {
        self.0.probing.store(true, Ordering::Relaxed);
        let size = body.size_hint().exact();
        self.0.probing.store(false, Ordering::Relaxed);
        if size != Some(IDENTITY_PROBE) {
            return Err(None);
        }
        let first = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await;
        let opening = self.0.opening.load(Ordering::Relaxed);
        match first {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) if bytes.as_ptr().addr() == opening => Ok(bytes),
                Ok(bytes) => Err(Some(First::Frame(BodyFrame::data(bytes)))),
                Err(frame) => Err(Some(First::Frame(frame))),
            },
            Some(Err(error)) => Err(Some(First::Error(error))),
            None => Err(None),
        }
    }

    /// The send timeout of the stream.
    pub(crate) fn send_timeout(&self) -> Option<Duration> {
        self.0.state().as_ref()?.options.send_timeout
    }

    /// Records that the caller watches the socket, and will call [`stalled`](Self::stalled).
    /// Without that a task watches whether the body is polled, which a body itself cannot.
    pub(crate) fn watch_socket(&self) {
        self.0.socket_is_watched.store(true, Ordering::Relaxed);
    }

    /// Ends the stream: its client accepted no data within the send timeout.
    pub(crate) fn stalled(&self) {
        self.0.end(CloseReason::Stalled);
    }

    /// The hub of the stream, if it can be detached: a subscription without a future, which needs
    /// a task, and the engine has none.
    pub(crate) fn hub(&self) -> Option<HubRef> {
        let state = self.0.state();
        let state = state.as_ref().filter(|state| state.until.is_none())?;
        match &state.source {
            Some(Source::Subscription(subscription)) => Some(subscription.hub()),
            _ => None,
        }
    }

    /// Detaches the stream, if it is a subscription and has not ended.
    pub(crate) fn detach(&self) -> Option<DetachedStream> {
        let mut shared = self.0.state();
        let Some(Source::Subscription(_)) = &shared.as_ref()?.source else { return None };
        let mut state = shared.take()?;
        let Some(Source::Subscription(subscription)) = state.source.take() else { return None };
        Some(DetachedStream { subscription, options: state.options, on_close: state.on_close })
    }
}

/// What a body that changes the stream's bytes returned first.
pub(crate) enum First {
    Frame(BodyFrame<Bytes>),
    Error(axum_core::Error),
}
