//! Publishes what was authorised, within the client's rate. Events of every dialect pass through
//! here.

use std::sync::Arc;

use headwater::access::Grant;
use headwater::{Problem, Publish, Receipt};

use super::gate::Admission;
use super::state::App;
use crate::client::ClientAddress;

/// Events that a client publishes, authorised.
pub(crate) struct PublishRequest {
    pub(crate) client: ClientAddress,
    pub(crate) admission: Admission,
    pub(crate) batch: Vec<Publish>,
}

/// The name that a publisher's idempotency keys belong to; `None` if nothing is known of it. The
/// prefix distinguishes a user from a token that names none.
fn name_of(publisher: &Grant) -> Option<Arc<str>> {
    let name = match (&publisher.user, &publisher.token_id) {
        (Some(user), _) => format!("user:{user}"),
        (None, Some(id)) => format!("token:{id}"),
        (None, None) => return None,
    };
    Some(name.into())
}

/// Publishes a batch: a receipt for each event.
pub(crate) async fn publish(app: &App, request: PublishRequest) -> Result<Vec<Receipt>, Problem> {
    let PublishRequest { client, admission, mut batch } = request;
    // The body may have taken long since the decision.
    admission.check_still_holds(&app.hub)?;
    app.limits.take_publishes(client, admission.grant.user.as_deref(), batch.len())?;
    if let Some(name) = name_of(&admission.grant) {
        let owned = |publish: Publish| publish.with_publisher(Arc::clone(&name));
        batch = batch.into_iter().map(owned).collect();
    }
    Ok(app.hub.publish_all(batch).await?)
}
