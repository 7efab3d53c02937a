//! What becomes of a body that is not read to its end. Look here for why a client receives the
//! response to a request that is refused before it has sent everything.
//!
//! A connection that is closed with unread bytes is reset, and then a client that is still sending
//! fails without having read the response. So the rest is read and discarded, for a moment.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use http::Version;
use http::header::EXPECT;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::limits::{LINGER_BYTES_MAX, LINGER_TIME};

/// Discards what a handler does not read of the request's body. Over HTTP/2 no connection closes
/// with a request, and a client that expects `100 Continue` has not sent the body.
pub(crate) async fn discard_rest(request: Request) -> Request {
    let sends_body = request.version() <= Version::HTTP_11
        && !request.body().is_end_stream()
        && !request.headers().contains_key(EXPECT);
    if sends_body {
        request.map(|body| Body::new(Lingering { body, is_over: false }))
    } else {
        request
    }
}

/// A body whose rest is discarded when it is dropped.
struct Lingering {
    body: Body,
    is_over: bool,
}

impl http_body::Body for Lingering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.is_over = !matches!(frame, Some(Ok(_)));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        if self.is_over || self.body.is_end_stream() {
            return;
        }
        let body = std::mem::take(&mut self.body);
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(timeout(LINGER_TIME, discard(body)));
        }
    }
}

async fn discard(mut body: Body) {
    let mut left = LINGER_BYTES_MAX;
    while let Some(Ok(frame)) = body.frame().await {
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
