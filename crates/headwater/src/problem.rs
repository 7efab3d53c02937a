//! Errors as HTTP responses: problem documents (RFC 9457). The only writer of the format; look here
//! for which error gets which status.

use std::error::Error as StdError;

use axum_core::response::{IntoResponse, Response};
use headwater_core::{Error, ErrorKind};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};

/// A problem document (RFC 9457): a status, and a detail that states what failed and what to do.
/// Handlers return it, and use `?` on an [`Error`] and on [`Denied`](crate::access::Denied).
///
/// ```
/// use headwater::Problem;
/// use http::StatusCode;
///
/// fn find(name: &str) -> Result<&'static str, Problem> {
///     match name {
///         "news" => Ok("found"),
///         _ => Err(Problem::new(StatusCode::NOT_FOUND, format!("there is no feed {name}"))),
///     }
/// }
/// # assert!(find("news").is_ok());
/// # assert_eq!(find("a").unwrap_err().status(), StatusCode::NOT_FOUND);
/// ```
///
/// An [`Error`] becomes `400` if the client sent an invalid value, `409` if the channel has ended,
/// `413` if something is too large, and `503` otherwise. Its cause is logged, not sent.
/// [`Denied`](crate::access::Denied) keeps its status and its challenge.
#[derive(Debug)]
#[must_use = "a problem does nothing until it is returned from a handler"]
pub struct Problem {
    status: StatusCode,
    detail: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    extensions: serde_json::Map<String, serde_json::Value>,
}

impl Problem {
    /// A problem with this status. Its title is the status's reason phrase; a `503` has
    /// `Retry-After: 1`.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let (headers, extensions) = (Vec::new(), serde_json::Map::new());
        let problem = Self { status, detail: detail.into(), headers, extensions };
        if status == StatusCode::SERVICE_UNAVAILABLE {
            return problem.with_header(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        problem
    }

    /// `400`: the client must change its request.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// `404`: the resource does not exist.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// `503` with `Retry-After: 1`: the same request may succeed later.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    /// Sets a header of the response, replacing an earlier one of the same name.
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.retain(|(other, _)| *other != name);
        self.headers.push((name, value));
        self
    }

    /// Adds an extension member (RFC 9457, section 3.2), replacing an earlier one of the same name.
    /// The members `type`, `title`, `status` and `detail` are the problem's own and stay.
    pub fn with_extension(
        mut self,
        name: impl Into<String>,
        value: impl Into<serde_json::Value>,
    ) -> Self {
        self.extensions.insert(name.into(), value.into());
        self
    }

    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The document's `detail`.
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let status = match error.kind() {
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorKind::Ended => StatusCode::CONFLICT,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        let cause = StdError::source(&error).map(ToString::to_string);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            // The broker logs an outage once; here, a busy publisher would log it on every attempt.
            if error.kind() == ErrorKind::Unavailable {
                tracing::debug!(cause, "{error}");
            } else {
                tracing::warn!(cause, "{error}");
            }
        }
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut problem = self.extensions;
        let title = self.status.canonical_reason().unwrap_or_default();
        problem.insert("type".into(), "about:blank".into());
        problem.insert("title".into(), title.into());
        problem.insert("status".into(), self.status.as_u16().into());
        problem.insert("detail".into(), self.detail.into());
        let problem = serde_json::Value::Object(problem);
        let content_type = [(CONTENT_TYPE, "application/problem+json")];
        // The trailing newline is for terminals.
        let mut response = (self.status, content_type, format!("{problem}\n")).into_response();
        response.headers_mut().extend(self.headers);
        response
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn documents_are_exact() {
        let check = async |problem: Problem, status: u16, headers: &[(&str, &str)], body: &str| {
            let response = problem.into_response();
            assert_eq!(response.status(), status);
            let mut found: Vec<_> = response
                .headers()
                .iter()
                .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
                .collect();
            found.retain(|(name, _)| *name != "content-length");
            let mut expected = vec![("content-type", "application/problem+json")];
            expected.extend(headers);
            assert_eq!(found, expected);
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(std::str::from_utf8(&bytes).unwrap(), body);
        };
        let invalid = Error::new(ErrorKind::Invalid, "not \"valid\"");
        check(
            invalid.into(),
            400,
            &[],
            "{\"detail\":\"not \\\"valid\\\"\",\"status\":400,\"title\":\"Bad Request\",\
             \"type\":\"about:blank\"}\n",
        )
        .await;
        check(
            Error::new(ErrorKind::Draining, "going").into(),
            503,
            &[("retry-after", "1")],
            "{\"detail\":\"going\",\"status\":503,\"title\":\"Service Unavailable\",\
             \"type\":\"about:blank\"}\n",
        )
        .await;
        let conflict = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "d")
            .with_header(RETRY_AFTER, HeaderValue::from_static("9"));
        check(
            conflict,
            503,
            &[("retry-after", "9")],
            "{\"detail\":\"d\",\"status\":503,\"title\":\"Service Unavailable\",\
             \"type\":\"about:blank\"}\n",
        )
        .await;
        check(
            Problem::bad_request("d").with_extension("parts", 1).with_extension("status", "mine"),
            400,
            &[],
            "{\"detail\":\"d\",\"parts\":1,\"status\":400,\"title\":\"Bad Request\",\
             \"type\":\"about:blank\"}\n",
        )
        .await;
        for (kind, status) in [(ErrorKind::TooLarge, 413), (ErrorKind::Ended, 409)] {
            assert_eq!(Problem::from(Error::new(kind, "x")).status(), status);
        }
    }
}
