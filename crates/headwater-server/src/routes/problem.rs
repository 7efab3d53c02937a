//! Errors as HTTP answers: problem documents (RFC 9457). Look here for which error gets which status.

use axum::response::{IntoResponse, Response};
use headwater::{Denied, Error, ErrorKind};
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};

use crate::client::Refusal;

/// A problem document: a status, and a sentence that says what to do.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    detail: String,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Problem {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), header: None }
    }

    pub(crate) fn is_unavailable(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    pub(crate) fn timeout(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, detail)
    }

    pub(crate) fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    }

    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        let retry_after = Some((RETRY_AFTER, HeaderValue::from_static("1")));
        Self { header: retry_after, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail) }
    }

    pub(crate) fn too_many(refusal: Refusal) -> Self {
        // Whole seconds, and not a moment too early.
        let seconds = refusal.retry_after.as_secs_f64().ceil().max(1.0);
        let retry_after = HeaderValue::from_str(&format!("{seconds:.0}")).ok();
        let header = retry_after.map(|seconds| (RETRY_AFTER, seconds));
        Self { header, ..Self::new(StatusCode::TOO_MANY_REQUESTS, refusal.limit.advice()) }
    }

    pub(crate) fn method_not_allowed(allow: &'static str, detail: impl Into<String>) -> Self {
        let allow = Some((ALLOW, HeaderValue::from_static(allow)));
        Self { header: allow, ..Self::new(StatusCode::METHOD_NOT_ALLOWED, detail) }
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        if denied.status() == StatusCode::SERVICE_UNAVAILABLE {
            return Self::unavailable(denied.detail());
        }
        let challenge = denied.challenge().map(HeaderValue::from_static);
        let header = challenge.map(|challenge| (WWW_AUTHENTICATE, challenge));
        Self { header, ..Self::new(denied.status(), denied.detail()) }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::too_many(refusal)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error.kind() {
            ErrorKind::Invalid => Self::bad_request(detail),
            ErrorKind::TooLarge => Self::too_large(detail),
            ErrorKind::Ended => Self::new(StatusCode::CONFLICT, detail),
            kind => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                // The broker tells its loss once; a busy publisher would tell it at every attempt.
                if kind == ErrorKind::Unavailable {
                    tracing::debug!(?kind, cause, "{detail}");
                } else {
                    tracing::warn!(?kind, cause, "{detail}");
                }
                Self::unavailable(detail)
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let problem = serde_json::json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or_default(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let content_type = [(CONTENT_TYPE, "application/problem+json")];
        let mut response = (self.status, content_type, format!("{problem}\n")).into_response();
        response.headers_mut().extend(self.header);
        response
    }
}
