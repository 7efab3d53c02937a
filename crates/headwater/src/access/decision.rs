//! The decision of an authorization hook, and what it permits. Look here for the response that a
//! denied client gets.

use std::time::SystemTime;

use axum_core::response::{IntoResponse, Response};
use headwater_core::Channel;
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use tokio::time::Instant;

use crate::problem::Problem;

/// The decision of an [`Authorize`](super::Authorize): allow, within bounds, or deny.
///
/// [`only`](Self::only), [`user`](Self::user) and [`token_id`](Self::token_id) have no effect on a
/// denial.
#[derive(Debug, Clone)]
#[must_use]
pub struct Decision(pub(super) Result<Allowed, Denied>);

#[derive(Debug, Clone, Default)]
pub(super) struct Allowed {
    pub(super) only: Option<Vec<Channel>>,
    pub(super) until: Option<SystemTime>,
    pub(super) user: Option<String>,
    pub(super) token_id: Option<String>,
}

impl Decision {
    /// Allows everything that was requested, until the client disconnects.
    pub fn allow() -> Self {
        Self(Ok(Allowed::default()))
    }

    /// Allows everything that was requested, until this time: a stream is closed then.
    pub fn allow_until(time: SystemTime) -> Self {
        Self::allow().change(|allowed| allowed.until = Some(time))
    }

    /// Denies the request.
    pub fn deny(denied: Denied) -> Self {
        Self(Err(denied))
    }

    /// Restricts the decision to these of the requested channels.
    pub fn only(self, channels: impl IntoIterator<Item = Channel>) -> Self {
        let channels = channels.into_iter().collect();
        self.change(|allowed| allowed.only = Some(channels))
    }

    /// Identifies the user, so that [`Revocation::User`](super::Revocation::User) finds the stream.
    pub fn user(self, user: impl Into<String>) -> Self {
        self.change(|allowed| allowed.user = Some(user.into()))
    }

    /// Identifies the token that allowed the request, for
    /// [`Revocation::Token`](super::Revocation::Token).
    pub fn token_id(self, id: impl Into<String>) -> Self {
        self.change(|allowed| allowed.token_id = Some(id.into()))
    }

    fn change(mut self, change: impl FnOnce(&mut Allowed)) -> Self {
        if let Ok(allowed) = &mut self.0 {
            change(allowed);
        }
        self
    }
}

/// What a request may do: the result of [`AccessRequest::check`](super::AccessRequest::check).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grant {
    /// The allowed channels, in the order in which they were requested.
    pub channels: Vec<Channel>,
    /// When the grant expires; `None` for never.
    pub until: Option<SystemTime>,
    /// The user, if the decision identifies one.
    pub user: Option<String>,
    /// The ID of the token, if the decision identifies one.
    pub token_id: Option<String>,
}

impl Grant {
    /// When the grant expires, for
    /// [`EventSourceResponse::expires_at`](crate::EventSourceResponse::expires_at); `None` for
    /// never.
    pub fn expires_at(&self) -> Option<Instant> {
        let left = self.until?.duration_since(SystemTime::now()).unwrap_or_default();
        // A time beyond the clock's range never arrives.
        Instant::now().checked_add(left)
    }
}

/// A denial, as a response: a problem document (RFC 9457) that discloses nothing about channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied {
    status: StatusCode,
    detail: &'static str,
    challenge: Option<&'static str>,
}

impl Denied {
    /// `401`: the request has no credentials.
    pub fn no_credentials() -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            detail: "missing credentials: send a token that allows this",
            challenge: Some("Bearer realm=\"headwater\""),
        }
    }

    /// `401`: the credentials are invalid, expired or revoked.
    pub fn bad_credentials() -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            detail: "invalid, expired or revoked credentials: get new ones",
            challenge: Some("Bearer realm=\"headwater\", error=\"invalid_token\""),
        }
    }

    /// `403`: the credentials are valid, but do not allow the request.
    pub fn forbidden() -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            detail: "the credentials do not allow this",
            challenge: None,
        }
    }

    /// `503`: the decision cannot be made now, so the request is denied.
    pub fn unavailable() -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            detail: "authorization is temporarily unavailable: try again in a moment",
            challenge: None,
        }
    }

    /// `429`: the client asks for too many of the same in a short time.
    pub fn too_many_requests() -> Self {
        Self {
            status: StatusCode::TOO_MANY_REQUESTS,
            detail: "too many requests of this kind: wait, then try again",
            challenge: None,
        }
    }

    /// `400`: it cannot be decided about so many channels at once.
    pub fn too_many_channels() -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            detail: "too many channels to authorize at once: name fewer in one request",
            challenge: None,
        }
    }

    /// Replaces the detail that the client reads. It must disclose nothing about channels.
    #[must_use]
    pub fn with_detail(mut self, detail: &'static str) -> Self {
        self.detail = detail;
        self
    }

    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The detail that the client reads.
    pub fn detail(&self) -> &'static str {
        self.detail
    }

    /// The value of `WWW-Authenticate`; present on a `401`.
    pub fn challenge(&self) -> Option<&'static str> {
        self.challenge
    }
}

/// Keeps the status, the detail and the challenge.
impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        let mut problem = Self::new(denied.status(), denied.detail());
        if denied.status() == StatusCode::TOO_MANY_REQUESTS {
            problem = problem.with_header(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        match denied.challenge() {
            Some(challenge) => {
                problem.with_header(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
            }
            None => problem,
        }
    }
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        Problem::from(self).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_keeps_its_status_and_challenge() {
        let check = |denied: Denied, status: u16, challenge: Option<&str>| {
            let response = denied.into_response();
            let found = response.headers().get(WWW_AUTHENTICATE).map(|it| it.to_str().unwrap());
            assert_eq!((response.status().as_u16(), found), (status, challenge));
            assert_eq!(response.headers()["content-type"], "application/problem+json");
        };
        check(Denied::no_credentials(), 401, Some("Bearer realm=\"headwater\""));
        check(
            Denied::bad_credentials(),
            401,
            Some("Bearer realm=\"headwater\", error=\"invalid_token\""),
        );
        check(Denied::forbidden(), 403, None);
        check(Denied::unavailable(), 503, None);
        check(Denied::too_many_requests(), 429, None);
        check(Denied::too_many_channels(), 400, None);
        let response = Denied::too_many_requests().into_response();
        assert_eq!(response.headers()["retry-after"], "1");
    }
}
