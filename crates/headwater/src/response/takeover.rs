//! How the engine takes a stream from the body of its response. Look here for when it may.
//!
//! The body works under any server. The response carries a handle to the same state in its extensions;
//! `headwater::serve` finds it there, asks whether the body that came out of all middleware is still this
//! one, and takes the state out. The empty body is kept until the stream ends: what a middleware wrapped
//! around it (a guard that counts, say) lives as long as the stream.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as _, Frame as BodyFrame};

use super::body::{IDENTITY_PROBE, Shared};
use super::source::Source;
use super::{OnClose, Settings};
use crate::close::CloseReason;
use crate::hub::{HubInner, Subscription};

/// The handle to a stream, in the extensions of its response.
#[derive(Clone)]
pub(crate) struct Takeover(Arc<Shared>);

/// A stream without its body.
pub(crate) struct Detached {
    pub(crate) subscription: Subscription,
    pub(crate) settings: Settings,
    pub(crate) on_close: Option<OnClose>,
}

/// What a stream holds for the program that serves.
pub(crate) struct Callbacks {
    on_close: Option<OnClose>,
    /// The response's body, for what is wrapped around it.
    _body: Body,
}

impl Callbacks {
    pub(crate) fn new(on_close: Option<OnClose>, body: Body) -> Self {
        Self { on_close, _body: body }
    }

    /// Tells why the stream ended.
    pub(crate) fn close(mut self, reason: CloseReason) {
        if let Some(on_close) = self.on_close.take() {
            on_close(reason);
        }
    }
}

impl Takeover {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// The first bytes of a body, if the body passes on what the stream gives as it is; else what came
    /// out of it instead, which must go to the client first.
    ///
    /// Two questions. The size: a layer that changes the bytes must not pass on an exact size. And
    /// the first bytes: they must be the very ones, not a copy. A layer that passes both and changes
    /// only later bytes would be passed over.
    pub(crate) async fn opening(&self, body: &mut Body) -> Result<Bytes, Option<First>> {
        self.0.asked.store(true, Ordering::Relaxed);
        let size = body.size_hint().exact();
        self.0.asked.store(false, Ordering::Relaxed);
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

    /// The next bytes of the body; `None` at its end.
    pub(crate) fn poll_bytes(&self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match &mut *self.0.state() {
            Some(state) => state.poll(context),
            None => Poll::Ready(None),
        }
    }

    /// The hub of the stream.
    pub(crate) fn hub(&self) -> Option<Arc<HubInner>> {
        match &self.0.state().as_ref()?.source {
            Some(Source::Subscription(subscription)) => Some(Arc::clone(subscription.hub())),
            _ => None,
        }
    }

    /// Takes the stream, if it has nothing to replay any more. What it has ready is written to `out`, in
    /// chunks.
    pub(crate) fn detach(&self, out: &mut Vec<u8>, bytes_max: usize) -> Option<Detached> {
        let mut shared = self.0.state();
        let state = shared.as_mut()?;
        let named = state.settings.name_by_channel;
        let Some(Source::Subscription(subscription)) = &mut state.source else { return None };
        while let Some(frame) = subscription.take_replayed(bytes_max.saturating_sub(out.len())) {
            out.extend_from_slice(frame.chunks(named));
            subscription.count_sent(u64::from(!frame.is_marker()), frame.body_len(named));
        }
        if !subscription.is_live() {
            return None;
        }
        let mut state = shared.take()?;
        let Some(Source::Subscription(subscription)) = state.source.take() else { return None };
        Some(Detached { subscription, settings: state.settings, on_close: state.on_close })
    }

    /// Ends the stream.
    pub(crate) fn end(&self, reason: CloseReason) {
        if let Some(state) = &mut *self.0.state() {
            state.end(reason);
        }
    }

    /// The send timeout of the stream.
    pub(crate) fn send_timeout(&self) -> Option<std::time::Duration> {
        self.0.state().as_ref()?.settings.send_timeout
    }
}

/// What came first out of a body that is not the stream's own.
pub(crate) enum First {
    Frame(BodyFrame<Bytes>),
    Error(axum::Error),
}
