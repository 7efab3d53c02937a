//! The problem of an unsupported method.

use headwater::Problem;
use http::header::ALLOW;
use http::{HeaderValue, StatusCode};

/// `405`, with the supported methods.
pub(crate) fn method_not_allowed(allow: &'static str, detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
        .with_header(ALLOW, HeaderValue::from_static(allow))
}
