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
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::limits::{
    REFUSED_BODIES_MAX, REFUSED_BODY_BYTES_MAX, REFUSED_BODY_PAUSE, REFUSED_BODY_PIECE_BYTES,
    REFUSED_BODY_TIME,
};

/// The bodies whose rest is being discarded. The others wait, unread.
static PLACES: Semaphore = Semaphore::const_new(REFUSED_BODIES_MAX);

/// Discards what a handler does not read of the request's body. Over HTTP/2 no connection closes
/// with a request, and a client that expects `100 Continue` has not sent the body.
pub(crate) async fn discard_rest(request: Request) -> Request {
    let sends_body = request.version() <= Version::HTTP_11
        && !request.body().is_end_stream()
        && !request.headers().contains_key(EXPECT);
    if sends_body {
        request.map(|body| Body::new(RefusedBody { body, is_over: false }))
    } else {
        request
    }
}

/// A body whose rest is discarded when it is dropped.
struct RefusedBody {
    body: Body,
    is_over: bool,
}

impl http_body::Body for RefusedBody {
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

impl Drop for RefusedBody {
    fn drop(&mut self) {
        if self.is_over || self.body.is_end_stream() {
            return;
        }
        let body = std::mem::take(&mut self.body);
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(timeout(REFUSED_BODY_TIME, discard(body)));
        }
    }
}

/// Reads slowly: to send a body in vain must not be a way to keep this machine busy.
async fn discard(mut body: Body) {
    let Ok(_place) = PLACES.acquire().await else { return };
    let (mut read, mut next_pause) = (0, REFUSED_BODY_PIECE_BYTES);
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > REFUSED_BODY_BYTES_MAX {
            return;
        }
        if read >= next_pause {
            next_pause = read + REFUSED_BODY_PIECE_BYTES;
            sleep(REFUSED_BODY_PAUSE).await;
        }
    }
}
