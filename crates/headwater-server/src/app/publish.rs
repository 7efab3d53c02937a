//! Publishes what was authorised, within the client's rate. Events of every dialect pass through
//! here.

use std::sync::Arc;

use headwater::access::Action;
use headwater::{Channel, Problem, Publish, Receipt};
use http::request::Parts;

use super::gate;
use super::state::App;
use crate::client::ClientAddress;

/// Events that a client publishes, authorised.
pub(crate) struct PublishRequest {
    pub(crate) client: ClientAddress,
    pub(crate) publisher: Publisher,
    pub(crate) batch: Vec<Publish>,
}

/// Who publishes, as the access rules know it.
#[derive(Default)]
pub(crate) struct Publisher {
    pub(crate) user: Option<String>,
    token_id: Option<String>,
}

impl Publisher {
    /// The name that its idempotency keys belong to; `None` if nothing is known of it. The prefix
    /// distinguishes a user from a token that names none.
    fn name(&self) -> Option<Arc<str>> {
        let name = match (&self.user, &self.token_id) {
            (Some(user), _) => format!("user:{user}"),
            (None, Some(id)) => format!("token:{id}"),
            (None, None) => return None,
        };
        Some(name.into())
    }
}

/// Whether a client may publish to these channels; its identity, if known.
pub(crate) async fn check_publisher(
    app: &App,
    client: ClientAddress,
    channels: &[Channel],
    parts: &Parts,
) -> Result<Publisher, Problem> {
    // Before credentials: a refusal must cost less than an answer.
    app.limits.check_publisher(client, None)?;
    let grant = gate::check(app, client, Action::Publish, channels, parts).await?;
    Ok(Publisher { user: grant.user, token_id: grant.token_id })
}

/// Publishes a batch: a receipt for each event.
pub(crate) async fn publish(app: &App, request: PublishRequest) -> Result<Vec<Receipt>, Problem> {
    let PublishRequest { client, publisher, mut batch } = request;
    app.limits.take_publishes(client, publisher.user.as_deref(), batch.len())?;
    if let Some(name) = publisher.name() {
        let owned = |publish: Publish| publish.with_publisher(Arc::clone(&name));
        batch = batch.into_iter().map(owned).collect();
    }
    Ok(app.hub.publish_all(batch).await?)
}
