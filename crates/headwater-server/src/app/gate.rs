//! The gate of every endpoint: access rules, with the client's address. Look here for what counts
//! as a failed login.

use headwater::access::{AccessRequest, Action, Denied, Grant};
use headwater::{Channel, Problem};
use http::StatusCode;
use http::request::Parts;

use super::state::App;
use crate::client::ClientAddress;

/// Asks the rules whether a client may do this.
pub(crate) async fn check(
    app: &App,
    client: ClientAddress,
    action: Action,
    channels: &[Channel],
    parts: &Parts,
) -> Result<Grant, Problem> {
    let request = AccessRequest::new(action, channels, parts).from_address(client.ip());
    counted(app, client, &request, request.check(&*app.access)).await
}

/// Asks the rules, unless too many credentials were invalid. A request without credentials cannot
/// fail a login.
pub(crate) async fn counted<T>(
    app: &App,
    client: ClientAddress,
    request: &AccessRequest<'_>,
    ask: impl Future<Output = Result<T, Denied>>,
) -> Result<T, Problem> {
    let Some(shown) = app.access.credential(request) else { return Ok(ask.await?) };
    app.limits.check_login(client, &shown)?;
    let asked = ask.await;
    match &asked {
        Ok(_) => app.limits.login_succeeded(&shown),
        Err(denied) if denied.status() == StatusCode::UNAUTHORIZED => {
            app.limits.login_failed(client, &shown)?;
        }
        Err(_) => {}
    }
    Ok(asked?)
}
