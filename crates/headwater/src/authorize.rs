//! Who may listen, publish and administer: one hook, asked with the facts of a request. Look here for
//! what a decision can say, and which answer a client gets that is refused.

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::SystemTime;

use axum::extract::ConnectInfo;
use axum::response::{IntoResponse, Response};
use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use crate::channel::Channel;
use crate::problem::Problem;

/// Decides who may do what. The server `headwater` decides with it, and handlers of your own can.
///
/// ```
/// use axum::extract::{Request, State};
/// use headwater::{
///     AccessRequest, Action, Authorize, Channel, Decision, Denied, EventSourceResponse, Hub,
/// };
/// # use std::{future::Future, pin::Pin, time::{Duration, SystemTime}};
///
/// /// Everybody with a session may listen, for an hour at a time.
/// struct Sessions;
///
/// impl Authorize for Sessions {
///     fn authorize<'a>(
///         &'a self,
///         request: &'a AccessRequest<'a>,
///     ) -> Pin<Box<dyn Future<Output = Decision> + Send + 'a>> {
///         Box::pin(async move {
///             match (request.action, request.headers.get("x-session")) {
///                 (_, None) => Decision::deny(Denied::no_credentials()),
///                 (Action::Subscribe, Some(_)) => {
///                     Decision::allow_until(SystemTime::now() + Duration::from_secs(3600)).user("42")
///                 }
///                 _ => Decision::deny(Denied::forbidden()),
///             }
///         })
///     }
/// }
///
/// async fn events(State(hub): State<Hub>, request: Request) -> Result<EventSourceResponse, Denied> {
///     let (parts, _) = request.into_parts();
///     let channels = [Channel::new("news").expect("a good name")];
///     let grant = AccessRequest::new(Action::Subscribe, &channels, &parts).check(&Sessions).await?;
///     let expires_at = grant.expires_at();
///     let subscription = hub.subscribe(grant.channels).map_err(|_| Denied::unavailable())?;
///     // So that `Hub::revoke` can end it.
///     let subscription = subscription.owned_by(grant.user.as_deref(), grant.token_id.as_deref());
///     Ok(EventSourceResponse::new(subscription).expires_at(expires_at))
/// }
/// # fn check(hub: Hub) -> axum::Router { axum::Router::new().route("/", axum::routing::get(events)).with_state(hub) }
/// ```
pub trait Authorize: Send + Sync {
    /// Decides about one request. What goes wrong on the way must deny: [`Denied::unavailable`].
    fn authorize<'a>(
        &'a self,
        request: &'a AccessRequest<'a>,
    ) -> Pin<Box<dyn Future<Output = Decision> + Send + 'a>>;
}

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// Listen to channels.
    Subscribe,
    /// Publish to channels.
    Publish,
    /// End streams of others, and the like. It is about no channel.
    Admin,
}

impl Action {
    /// The action as one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe",
            Self::Publish => "publish",
            Self::Admin => "admin",
        }
    }
}

/// The facts of a request, for an [`Authorize`].
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct AccessRequest<'a> {
    /// What is asked for.
    pub action: Action,
    /// The channels that it is about. Empty for [`Action::Admin`], and when only the credentials are to
    /// be checked, before the channels are known.
    pub channels: &'a [Channel],
    /// The headers of the request.
    pub headers: &'a HeaderMap,
    /// The query of its URL, as it came.
    pub query: Option<&'a str>,
    /// The host that was asked, as the client named it.
    pub host: Option<&'a str>,
    /// Who asks, if it is known: where the connection comes from, unless
    /// [`from_address`](Self::from_address) says otherwise.
    pub address: Option<IpAddr>,
}

impl<'a> AccessRequest<'a> {
    /// The facts of a request; the address comes from axum's [`ConnectInfo`], which
    /// [`serve`](crate::serve()) gives.
    pub fn new(action: Action, channels: &'a [Channel], parts: &'a Parts) -> Self {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let address = peer.map(|ConnectInfo(peer)| peer.ip());
        let (headers, query) = (&parts.headers, parts.uri.query());
        // Over HTTP/2 it stands in the URL.
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let host = host.or_else(|| parts.uri.authority().map(Authority::as_str));
        Self { action, channels, headers, query, host, address }
    }

    /// The same request of a client at this address, which a trusted proxy told.
    #[must_use]
    pub fn from_address(self, address: IpAddr) -> Self {
        Self { address: Some(address), ..self }
    }

    /// The same request about other channels.
    #[must_use]
    pub fn about(&self, channels: &'a [Channel]) -> Self {
        Self { channels, ..*self }
    }

    /// Asks, and holds the answer to what was asked for: a stream gets what is left of its channels
    /// after the decision narrowed them, and nothing is published unless all of it may be.
    ///
    /// # Errors
    /// Why not, as a response.
    pub async fn check(self, authorize: &dyn Authorize) -> Result<Grant, Denied> {
        let Allowed { only, until, user, token_id } = authorize.authorize(&self).await.0?;
        let allowed = |channel: &&Channel| only.as_ref().is_none_or(|only| only.contains(channel));
        let channels: Vec<Channel> = self.channels.iter().filter(allowed).cloned().collect();
        let refused = match self.action {
            Action::Subscribe => channels.is_empty() && !self.channels.is_empty(),
            Action::Publish | Action::Admin => channels.len() < self.channels.len(),
        };
        if refused || until.is_some_and(|until| until <= SystemTime::now()) {
            return Err(Denied::forbidden());
        }
        Ok(Grant { channels, until, user, token_id })
    }
}

/// Without headers and query, which hold secrets.
impl fmt::Debug for AccessRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessRequest")
            .field("action", &self.action)
            .field("channels", &self.channels)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// What an [`Authorize`] says: yes, within bounds, or no.
#[derive(Debug, Clone)]
#[must_use]
pub struct Decision(Result<Allowed, Denied>);

#[derive(Debug, Clone, Default)]
struct Allowed {
    only: Option<Vec<Channel>>,
    until: Option<SystemTime>,
    user: Option<String>,
    token_id: Option<String>,
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

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        Problem::from(self).into_response()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Says(Decision);

    impl Authorize for Says {
        fn authorize<'a>(
            &'a self,
            _request: &'a AccessRequest<'a>,
        ) -> Pin<Box<dyn Future<Output = Decision> + Send + 'a>> {
            Box::pin(std::future::ready(self.0.clone()))
        }
    }

    async fn check(action: Action, asked: &[&str], says: Decision) -> Result<Vec<String>, u16> {
        let asked: Vec<Channel> = asked.iter().map(|name| Channel::new(name).unwrap()).collect();
        let (parts, ()) = http::Request::new(()).into_parts();
        let checked = AccessRequest::new(action, &asked, &parts).check(&Says(says)).await;
        checked
            .map(|grant| grant.channels.iter().map(ToString::to_string).collect())
            .map_err(|denied| denied.status().as_u16())
    }

    #[tokio::test]
    async fn a_decision_narrows_and_never_widens() {
        use Action::{Admin, Publish, Subscribe};
        let names = |names: &[&str]| Ok(names.iter().map(ToString::to_string).collect());
        let only = |names: &[&str]| {
            Decision::allow().only(names.iter().map(|name| Channel::new(name).unwrap()))
        };
        assert_eq!(check(Subscribe, &["a", "b"], Decision::allow()).await, names(&["a", "b"]));
        assert_eq!(check(Subscribe, &["a", "b"], only(&["b", "c"])).await, names(&["b"]));
        assert_eq!(check(Subscribe, &["a"], only(&["c"])).await, Err(403));
        assert_eq!(check(Publish, &["a", "b"], only(&["b", "a"])).await, names(&["a", "b"]));
        assert_eq!(check(Publish, &["a", "b"], only(&["b"])).await, Err(403));
        assert_eq!(check(Publish, &[], only(&[])).await, names(&[]));
        assert_eq!(check(Admin, &[], Decision::allow()).await, names(&[]));
        let over = Decision::allow_until(SystemTime::now() - Duration::from_secs(1));
        assert_eq!(check(Subscribe, &["a"], over).await, Err(403));
        let denied = Decision::deny(Denied::no_credentials()).user("x");
        assert_eq!(check(Subscribe, &["a"], denied).await, Err(401));
    }

    #[test]
    fn nothing_of_a_request_is_shown() {
        let request = http::Request::builder().uri("/?token=s3cret").header("cookie", "s3cret");
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let shown = format!("{:?}", AccessRequest::new(Action::Publish, &[], &parts));
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
