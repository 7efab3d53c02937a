//! Issues a ticket: authorises it as the stream that it is for. Tickets of every dialect pass
//! through here.

use headwater::access::{AccessRequest, Action};
use headwater::{Channel, Problem};
use http::request::Parts;

use super::gate;
use super::state::App;
use crate::client::ClientAddress;
use crate::settings::Secret;

/// A ticket for these channels, or for all that the token allows.
pub(crate) async fn issue_ticket(
    app: &App,
    client: ClientAddress,
    channels: &[Channel],
    parts: &Parts,
) -> Result<Secret, Problem> {
    let request = AccessRequest::new(Action::Subscribe, channels, parts);
    let request = request.from_address(client.ip());
    gate::counted(app, client, &request, app.access.issue_ticket(&request)).await
}
