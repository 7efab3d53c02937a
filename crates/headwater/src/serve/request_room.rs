//! The memory of requests that are answered: their heads, and what HTTP/2 keeps for each. Look here
//! for when a request is refused before any handler has seen it.

use axum::response::{IntoResponse, Response};
use headwater_core::budget::{Account, Taken};
use http::Request;

use crate::limits::{HEADER_FIELD_BYTES, HTTP2_REQUEST_BYTES};
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
    pub(super) fn take_http2<B>(&self, request: &Request<B>) -> Result<Option<Taken>, Full> {
        self.take(HTTP2_REQUEST_BYTES + head_bytes(request))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_share_refuses_with_retry_after() {
        let account = Account::of(HTTP2_REQUEST_BYTES + 3_000);
        let room = RequestRoom::new(account.clone());
        let request = || {
            let request = Request::get("/path?query").header("cookie", "c".repeat(900));
            request.body(()).expect("a request")
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
}
