//! What an authorization hook decides, and what a request may do then. Look here for which response a
//! denied client gets.

use std::time::SystemTime;

use axum_core::response::{IntoResponse, Response};
use headwater_core::Channel;
use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, StatusCode};
use tokio::time::Instant;

use crate::problem::Problem;

/// What an [`Authorize`] says: yes, within bounds, or no.
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
    /// Everything that was asked for, until the client goes.
    pub fn allow() -> Self {
        Self(Ok(Allowed::default()))
    }

    /// Everything that was asked for, until this time: a stream ends then.
    pub fn allow_until(time: SystemTime) -> Self {
        Self::allow().change(|allowed| allowed.until = Some(time))
    }

    /// No.
    pub fn deny(denied: Denied) -> Self {
        Self(Err(denied))
    }

    /// Only these of the channels that were asked for.
    pub fn only(self, channels: impl IntoIterator<Item = Channel>) -> Self {
        let channels = channels.into_iter().collect();
        self.change(|allowed| allowed.only = Some(channels))
    }

    /// Who it is, so that [`Revocation::User`](crate::Revocation::User) finds the stream.
    pub fn user(self, user: impl Into<String>) -> Self {
        self.change(|allowed| allowed.user = Some(user.into()))
    }

    /// The id of the token that allowed it, for [`Revocation::Token`](crate::Revocation::Token).
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

/// What a request may do, after [`AccessRequest::check`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grant {
    /// The channels, in the order in which they were asked for.
    pub channels: Vec<Channel>,
    /// When it ends.
    pub until: Option<SystemTime>,
    /// Who it is.
    pub user: Option<String>,
    /// The id of the token.
    pub token_id: Option<String>,
}

impl Grant {
    /// When it ends, for [`EventSourceResponse::expires_at`](crate::EventSourceResponse::expires_at).
    pub fn expires_at(&self) -> Option<Instant> {
        let left = self.until?.duration_since(SystemTime::now()).unwrap_or_default();
        // A time that no clock can hold is never.
        Instant::now().checked_add(left)
    }
}

/// Why not, as a response: a problem document (RFC 9457) that tells nothing about channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied {
    status: StatusCode,
    detail: &'static str,
    challenge: Option<&'static str>,
}

impl Denied {
    /// `401`: there are no credentials.
    pub fn no_credentials() -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            detail: "credentials are needed: send a token that allows this",
            challenge: Some("Bearer realm=\"headwater\""),
        }
    }

    /// `401`: the credentials are not good, or not any more.
    pub fn bad_credentials() -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            detail: "the credentials are not valid, or have expired: get new ones",
            challenge: Some("Bearer realm=\"headwater\", error=\"invalid_token\""),
        }
    }

    /// `403`: the credentials are good, and do not allow this.
    pub fn forbidden() -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            detail: "this is not allowed with these credentials",
            challenge: None,
        }
    }

    /// `503`: nobody can decide now, so the answer is no.
    pub fn unavailable() -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            detail: "it cannot be decided now whether this is allowed: try again in a moment",
            challenge: None,
        }
    }

    /// Other words for the client. They must tell nothing about channels.
    #[must_use]
    pub fn with_detail(mut self, detail: &'static str) -> Self {
        self.detail = detail;
        self
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What the client is told.
    pub fn detail(&self) -> &'static str {
        self.detail
    }

    /// The value of `WWW-Authenticate`, on a `401`.
    pub fn challenge(&self) -> Option<&'static str> {
        self.challenge
    }
}

/// Keeps its status and its challenge.
impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        let problem = Self::new(denied.status(), denied.detail());
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
    }
}
