//! The gate of every endpoint: access rules, with the client's address. Look here for what counts
//! as a failed login, and for whether a decision still holds when it takes effect.

use std::time::SystemTime;

use headwater::access::{AccessRequest, Action, Denied, Grant, RevocationMark};
use headwater::{Channel, Hub, Problem};
use http::StatusCode;
use http::request::Parts;

use super::state::App;
use crate::access::Sender;
use crate::client::{ClientAddress, ShownCredential};

/// A decision, and what was revoked before it.
pub(crate) struct Admission {
    pub(crate) grant: Grant,
    mark: RevocationMark,
}

impl Admission {
    /// Whether nothing that it is about was revoked since. If only the user or a channel was, the
    /// credentials may still be valid: the client has to ask again.
    pub(crate) fn check_not_revoked(&self, hub: &Hub) -> Result<(), Denied> {
        let Grant { channels, user, token_id, .. } = &self.grant;
        if token_id.as_ref().is_some_and(|id| hub.is_token_revoked(id)) {
            return Err(Denied::bad_credentials());
        }
        if hub.is_revoked_since(self.mark, user.as_deref(), token_id.as_deref(), channels) {
            return Err(Denied::unavailable());
        }
        Ok(())
    }

    /// Whether it has neither expired nor been revoked since.
    pub(crate) fn check_still_holds(&self, hub: &Hub) -> Result<(), Denied> {
        if self.grant.until.is_some_and(|until| until <= SystemTime::now()) {
            return Err(Denied::bad_credentials());
        }
        self.check_not_revoked(hub)
    }
}

/// Asks the rules whether a client may do this.
pub(crate) async fn check(
    app: &App,
    client: ClientAddress,
    action: Action,
    channels: &[Channel],
    parts: &Parts,
) -> Result<Admission, Problem> {
    let mark = app.hub.revocation_mark();
    let request = AccessRequest::new(action, channels, parts).from_address(client.ip());
    let grant = counted(app, client, &request, request.check(&*app.access)).await?;
    Ok(Admission { grant, mark })
}

/// Verifies who publishes, before it is known to which channels.
pub(crate) async fn identify(
    app: &App,
    client: ClientAddress,
    parts: &Parts,
) -> Result<(Sender, Admission), Problem> {
    let mark = app.hub.revocation_mark();
    let request = AccessRequest::new(Action::Publish, &[], parts).from_address(client.ip());
    let identified = async {
        let sender = app.access.identify(&request).await?;
        let grant = request.check(&app.access.of(&sender)).await?;
        Ok((sender, Admission { grant, mark }))
    };
    // The application was not asked yet, so nothing shows that it accepts the credential.
    let (identified, _) = attempt(app, client, &request, identified).await?;
    Ok(identified)
}

/// Asks the rules whether a client that was identified may publish to these channels.
pub(crate) async fn check_identified(
    app: &App,
    client: ClientAddress,
    (sender, identified): (Sender, Admission),
    channels: &[Channel],
    parts: &Parts,
) -> Result<Admission, Problem> {
    let request = AccessRequest::new(Action::Publish, channels, parts).from_address(client.ip());
    let access = app.access.of(&sender);
    let grant = counted(app, client, &request, request.check(&access)).await?;
    Ok(Admission { grant, mark: identified.mark })
}

/// Asks the rules, unless too many credentials were invalid, and records the outcome.
pub(super) async fn counted<T>(
    app: &App,
    client: ClientAddress,
    request: &AccessRequest<'_>,
    ask: impl Future<Output = Result<T, Denied>>,
) -> Result<T, Problem> {
    let (allowed, shown) = attempt(app, client, request, ask).await?;
    if let Some(shown) = shown {
        app.limits.login_succeeded(&shown);
    }
    Ok(allowed)
}

/// Asks the rules, unless too many credentials were invalid, and records a failure. A request
/// without credentials cannot fail a login.
async fn attempt<T>(
    app: &App,
    client: ClientAddress,
    request: &AccessRequest<'_>,
    ask: impl Future<Output = Result<T, Denied>>,
) -> Result<(T, Option<ShownCredential>), Problem> {
    let shown = app.access.credential(request);
    if let Some(shown) = &shown {
        app.limits.check_login(client, shown)?;
    }
    let asked = ask.await;
    if let (Err(denied), Some(shown)) = (&asked, &shown)
        && denied.status() == StatusCode::UNAUTHORIZED
    {
        app.limits.login_failed(client, shown)?;
    }
    Ok((asked?, shown))
}
