//! The memory of requests that are answered: their heads, and what HTTP/2 keeps for each. Look here
//! for when a request is refused before any handler has seen it.

use axum::response::{IntoResponse, Response};
use headwater_core::budget::{Account, Taken};
use http::Request;
use http_body::Body;

use crate::limits::{HEADER_FIELD_BYTES, HTTP2_REQUEST_BYTES, HTTP2_STREAM_WINDOW_BYTES};
use crate::problem::Problem;

/// The share that requests take room in, if the server has a budget. Clones share it.
#[derive(Clone, Default)]
pub(super) struct RequestRoom(Option<Account>);

/// The share is full.
#[derive(Debug)]
pub(super) struct Full;

impl RequestRoom {
    pub(super) fn new(account: Account) -> Self {
        Self(Some(account))
    }

    /// Room for a request over HTTP/1, whose buffers its connection has in any case.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn take_http1<B>(&self, request: &Request<B>) -> Result<Option<Taken>, Full> {
        self.take(head_bytes(request))
    }

    /// Room for a request over HTTP/2, until its answer has ended.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn take_http2<B: Body>(&self, request: &Request<B>) -> Result<Option<Taken>, Full> {
        self.take(HTTP2_REQUEST_BYTES + head_bytes(request) + unread_bytes_max(request.body()))
    }

    fn take(&self, bytes: usize) -> Result<Option<Taken>, Full> {
        let Some(account) = &self.0 else { return Ok(None) };
        account.try_take(bytes).map(Some).ok_or(Full)
    }
}

impl IntoResponse for Full {
    fn into_response(self) -> Response {
        let detail = "too many requests are in flight: send this one again";
        Problem::unavailable(detail).into_response()
    }
}

/// What a head takes of memory, however small its fields are.
fn head_bytes<B>(request: &Request<B>) -> usize {
    let fields = request.headers().iter();
    let bytes = fields.map(|(name, value)| name.as_str().len() + value.len() + HEADER_FIELD_BYTES);
    bytes.sum::<usize>() + request.uri().path().len() + request.uri().query().map_or(0, str::len)
}

/// What hyper may buffer of a body while its handler does not read it.
fn unread_bytes_max(body: &impl Body) -> usize {
    let window = HTTP2_STREAM_WINDOW_BYTES as usize;
    if body.is_end_stream() {
        return 0;
    }
    let declared = body.size_hint().upper().and_then(|it| usize::try_from(it).ok());
    declared.map_or(window, |it| it.min(window))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http_body_util::Empty;
    use hyper::body::Bytes;

    use super::*;

    #[test]
    fn a_full_share_refuses_with_retry_after() {
        let account = Account::of(HTTP2_REQUEST_BYTES + 3_000);
        let room = RequestRoom::new(account.clone());
        let request = || {
            let request = Request::get("/path?query").header("cookie", "c".repeat(900));
            request.body(Empty::<Bytes>::new()).expect("a request")
        };
        let first = room.take_http2(&request()).expect("room");
        assert!(account.used() > HTTP2_REQUEST_BYTES + 900);
        let refused = room.take_http2(&request()).err().expect("no room").into_response();
        assert_eq!(refused.status().as_u16(), 503);
        assert_eq!(refused.headers()["retry-after"], "1");
        assert!(room.take_http1(&request()).is_ok(), "a head has room");
        assert_eq!(account.refusals(), 1);
        drop(first);
        assert_eq!(account.used(), 0);
        assert!(RequestRoom::default().take_http2(&request()).is_ok(), "without a budget");
    }

    #[test]
    fn a_body_that_nobody_reads_yet_counts_as_what_is_buffered_of_it() {
        let window = HTTP2_STREAM_WINDOW_BYTES as usize;
        let unknown =
            Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        for (body, expected) in [
            (Body::empty(), 0),
            (Body::from("data"), 4),
            (Body::from(vec![0; 2 * window]), window),
            (unknown, window),
        ] {
            let account = Account::of(1 << 20);
            let room = RequestRoom::new(account.clone());
            let taken = room.take_http2(&Request::new(body)).expect("room");
            assert_eq!(account.used(), HTTP2_REQUEST_BYTES + "/".len() + expected);
            drop(taken);
            assert_eq!(account.used(), 0);
        }
    }
}
