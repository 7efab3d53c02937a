//! Authorization of subscribers, publishers and administrators: one hook, which decides on the
//! facts of a request. Look here to authorize the users of your application, and for how a decision
//! narrows a request.

mod decision;
mod request;

use std::future::Future;
use std::pin::Pin;
use std::time::SystemTime;

use headwater_core::Channel;
use headwater_core::limits::OWNER_ID_BYTES_MAX;

use decision::Allowed;
pub use decision::{Decision, Denied, Grant};
pub use headwater_core::revocation::{Revocation, RevocationMark};
pub use request::{AccessRequest, Action};

/// Decides what a request may do. The server `headwater` uses it, and your handlers can too.
///
/// ```
/// use axum::extract::{Request, State};
/// use headwater::access::{AccessRequest, Action, Authorize, Decision, Denied};
/// use headwater::{Channel, EventSourceResponse, Hub};
/// # use std::{future::Future, pin::Pin, time::{Duration, SystemTime}};
///
/// const HOUR: Duration = Duration::from_secs(3600);
///
/// /// Clients with a session may subscribe, for an hour at a time.
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
///                     Decision::allow_until(SystemTime::now() + HOUR).user("42")
///                 }
///                 _ => Decision::deny(Denied::forbidden()),
///             }
///         })
///     }
/// }
///
/// async fn events(
///     State(hub): State<Hub>,
///     request: Request,
/// ) -> Result<EventSourceResponse, Denied> {
///     let (parts, _) = request.into_parts();
///     let channels = [Channel::new("news").expect("a valid name")];
///     let request = AccessRequest::new(Action::Subscribe, &channels, &parts);
///     let grant = request.check(&Sessions).await?;
///     let expires_at = grant.expires_at();
///     let subscription = hub.subscribe(grant.channels).map_err(|_| Denied::unavailable())?;
///     // `Hub::revoke` finds the stream by its owner.
///     let subscription = subscription.owned_by(grant.user.as_deref(), grant.token_id.as_deref());
///     Ok(EventSourceResponse::new(subscription).expires_at(expires_at))
/// }
/// # fn check(hub: Hub) -> axum::Router {
/// #     axum::Router::new().route("/", axum::routing::get(events)).with_state(hub)
/// # }
/// ```
pub trait Authorize: Send + Sync {
    /// Decides about one request. An implementation that fails must deny, with
    /// [`Denied::unavailable`].
    fn authorize<'a>(
        &'a self,
        request: &'a AccessRequest<'a>,
    ) -> Pin<Box<dyn Future<Output = Decision> + Send + 'a>>;
}

const LONG_ID: &str = "the id of the user or of the token is longer than 255 bytes, and could not \
                       be revoked: issue credentials with a shorter one";

impl AccessRequest<'_> {
    /// Applies the decision of `authorize` to the request. A subscriber gets those of its channels
    /// that the decision allows; a publish or an administrative request is denied unless all of its
    /// channels are allowed.
    ///
    /// # Errors
    /// The denial of `authorize`; or [`Denied::forbidden`] if none of a subscriber's channels, or
    /// not all channels of another request, are allowed, if the decision has expired already, or if
    /// the ID of the user or token is longer than
    /// [`OWNER_ID_BYTES_MAX`], and so could not be revoked.
    pub async fn check(self, authorize: &dyn Authorize) -> Result<Grant, Denied> {
        let Allowed { only, until, user, token_id } = authorize.authorize(&self).await.0?;
        let allowed = |channel: &&Channel| only.as_ref().is_none_or(|only| only.contains(channel));
        let channels: Vec<Channel> = self.channels.iter().filter(allowed).cloned().collect();
        let is_denied = match self.action {
            Action::Subscribe => channels.is_empty() && !self.channels.is_empty(),
            Action::Publish | Action::Admin => channels.len() < self.channels.len(),
        };
        if is_denied || until.is_some_and(|until| until <= SystemTime::now()) {
            return Err(Denied::forbidden());
        }
        // What cannot be revoked must not be admitted.
        let is_too_long =
            |id: &Option<String>| id.as_ref().is_some_and(|id| id.len() > OWNER_ID_BYTES_MAX);
        if is_too_long(&user) || is_too_long(&token_id) {
            return Err(Denied::forbidden().with_detail(LONG_ID));
        }
        Ok(Grant { channels, until, user, token_id })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Fixed(Decision);

    impl Authorize for Fixed {
        fn authorize<'a>(
            &'a self,
            _request: &'a AccessRequest<'a>,
        ) -> Pin<Box<dyn Future<Output = Decision> + Send + 'a>> {
            Box::pin(std::future::ready(self.0.clone()))
        }
    }

    async fn check(action: Action, names: &[&str], fixed: Decision) -> Result<Vec<String>, u16> {
        let channels: Vec<Channel> = names.iter().map(|name| Channel::new(name).unwrap()).collect();
        let (parts, ()) = http::Request::new(()).into_parts();
        let checked = AccessRequest::new(action, &channels, &parts).check(&Fixed(fixed)).await;
        checked
            .map(|grant| grant.channels.iter().map(ToString::to_string).collect())
            .map_err(|denied| denied.status().as_u16())
    }

    #[tokio::test]
    async fn an_identity_that_cannot_be_revoked_is_denied() {
        for (bytes, expected) in [(255, Ok(vec!["a".to_owned()])), (256, Err(403))] {
            for allowed in [
                Decision::allow().user("u".repeat(bytes)),
                Decision::allow().token_id("j".repeat(bytes)),
            ] {
                for action in [Action::Subscribe, Action::Publish, Action::Admin] {
                    assert_eq!(check(action, &["a"], allowed.clone()).await, expected, "{bytes}");
                }
            }
        }
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
        let expired = Decision::allow_until(SystemTime::now() - Duration::from_secs(1));
        assert_eq!(check(Subscribe, &["a"], expired).await, Err(403));
        let denied = Decision::deny(Denied::no_credentials()).user("x");
        assert_eq!(check(Subscribe, &["a"], denied).await, Err(401));
    }

    #[test]
    fn debug_output_discloses_no_secrets() {
        let request = http::Request::builder().uri("/?token=s3cret").header("cookie", "s3cret");
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let shown = format!("{:?}", AccessRequest::new(Action::Publish, &[], &parts));
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
