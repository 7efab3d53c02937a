//! Publishes what was authorised, within the client's rate. Events of every dialect pass through
//! here.

use headwater::access::Action;
use headwater::{Channel, Problem, Publish, Receipt};
use http::request::Parts;

use super::gate;
use super::state::App;
use crate::client::ClientAddress;

/// Events that a client publishes, authorised.
pub(crate) struct PublishRequest {
    pub(crate) client: ClientAddress,
    pub(crate) user: Option<String>,
    pub(crate) batch: Vec<Publish>,
}

/// Whether a client may publish to these channels; its identity, if known.
pub(crate) async fn check_publisher(
    app: &App,
    client: ClientAddress,
    channels: &[Channel],
    parts: &Parts,
) -> Result<Option<String>, Problem> {
    // Before credentials: a refusal must cost less than an answer.
    app.limits.check_publisher(client, None)?;
    Ok(gate::check(app, client, Action::Publish, channels, parts).await?.user)
}

/// Publishes a batch: a receipt for each event.
pub(crate) async fn publish(app: &App, request: PublishRequest) -> Result<Vec<Receipt>, Problem> {
    let PublishRequest { client, user, batch } = request;
    app.limits.take_publishes(client, user.as_deref(), batch.len())?;
    Ok(app.hub.publish_all(batch).await?)
}
