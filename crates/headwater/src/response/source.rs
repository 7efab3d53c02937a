//! The source of a response's events: a subscription of the hub, or any stream. Look here for what
//! a stream may yield.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use headwater_core::close::CloseReason;
use headwater_core::frame::Frame;
use headwater_core::{Event, Subscription};

use super::options::BoxError;
use crate::limits::BATCH_BYTES_MAX;

pub(super) enum Source {
    Subscription(Subscription),
    Stream(Pin<Box<dyn Stream<Item = Result<Frame, BoxError>> + Send>>),
}

/// An item of a stream for
/// [`EventSourceResponse::from_stream`](crate::EventSourceResponse::from_stream): an [`Event`], a
/// [`Frame`], or a `Result` of one of them.
pub trait StreamItem: sealed::IntoFrame {}

impl<T: sealed::IntoFrame> StreamItem for T {}

mod sealed {
    use super::{BoxError, Event, Frame};

    pub trait IntoFrame {
        fn into_frame(self) -> Result<Frame, BoxError>;
    }

    impl IntoFrame for Event {
        fn into_frame(self) -> Result<Frame, BoxError> {
            Ok(Frame::new(&self))
        }
    }

    impl IntoFrame for Frame {
        fn into_frame(self) -> Result<Frame, BoxError> {
            Ok(self)
        }
    }

    impl<T: IntoFrame, E: Into<BoxError>> IntoFrame for Result<T, E> {
        fn into_frame(self) -> Result<Frame, BoxError> {
            self.map_err(Into::into)?.into_frame()
        }
    }
}

impl Source {
    pub(super) fn from_stream<S>(stream: S) -> Self
    where
        S: Stream + Send + 'static,
        S::Item: StreamItem,
    {
        struct Frames<S>(Pin<Box<S>>);

        impl<S: Stream<Item: StreamItem>> Stream for Frames<S> {
            type Item = Result<Frame, BoxError>;

            fn poll_next(
                mut self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<Option<Self::Item>> {
                let item = ready!(self.0.as_mut().poll_next(context));
                Poll::Ready(item.map(sealed::IntoFrame::into_frame))
            }
        }

        Self::Stream(Box::pin(Frames(Box::pin(stream))))
    }

    /// The bytes of the next events, as many as are ready and fit one chunk; or why there are no
    /// more.
    pub(super) fn poll_bytes(
        &mut self,
        context: &mut Context<'_>,
        name_by_channel: bool,
    ) -> Poll<Result<Bytes, CloseReason>> {
        let view = |frame: &Frame| {
            if name_by_channel { frame.bytes_named_by_channel() } else { frame.bytes() }
        };
        match self {
            Self::Subscription(subscription) => {
                let Some(first) = ready!(subscription.poll_frame(context)) else {
                    return Poll::Ready(Err(subscription
                        .closed()
                        .unwrap_or(CloseReason::Finished)));
                };
                Poll::Ready(Ok(gather(subscription, &first, view)))
            }
            Self::Stream(stream) => match ready!(stream.as_mut().poll_next(context)) {
                Some(Ok(frame)) => Poll::Ready(Ok(view(&frame))),
                Some(Err(error)) => {
                    tracing::warn!("the source of a stream failed, closing the stream: {error}");
                    Poll::Ready(Err(CloseReason::SourceError))
                }
                None => Poll::Ready(Err(CloseReason::Finished)),
            },
        }
    }

    /// Whether there is nothing to stream and never will be.
    /// Always false for a stream that is not a subscription.
    pub(super) fn is_finished(&self) -> bool {
        match self {
            Self::Subscription(subscription) => subscription.is_finished(),
            Self::Stream(_) => false,
        }
    }

    /// Closes the subscription. Returns the reason that applies: the first one.
    pub(super) fn close(&self, reason: CloseReason) -> CloseReason {
        match self {
            Self::Subscription(subscription) => {
                subscription.close(reason);
                subscription.closed().unwrap_or(reason)
            }
            Self::Stream(_) => reason,
        }
    }
}

/// Gathers the frames that are ready into one chunk. A single frame is not copied.
fn gather(subscription: &mut Subscription, first: &Frame, view: impl Fn(&Frame) -> Bytes) -> Bytes {
    let mut frames = u64::from(!first.is_marker());
    let mut piece = view(first);
    let mut joined = BytesMut::new();
    while let Some(room) = BATCH_BYTES_MAX.checked_sub(joined.len().max(piece.len()))
        && let Some(frame) = subscription.take_waiting(room)
    {
        if joined.is_empty() {
            joined.extend_from_slice(&piece);
        }
        joined.extend_from_slice(&view(&frame));
        frames += 1;
    }
    if !joined.is_empty() {
        piece = joined.freeze();
    }
    subscription.count_sent(frames, piece.len());
    piece
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subscription(subscription) => subscription.fmt(f),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}
