//! Who may subscribe, publish and administer. `rules` has the order of the checks.

pub mod claims;
pub mod credentials;
pub mod keys;

mod authorize_url;
mod cors;
mod identity;
mod jwks;
mod origin;
mod rules;
mod tickets;
mod time;
mod tokens;

use std::pin::Pin;

use headwater::Hub;
use headwater::access::{AccessRequest, Authorize, Decision, Denied};

pub(crate) use authorize_url::try_out as try_authorize_url;
pub(crate) use cors::Cors;
pub use identity::Identity;
pub(crate) use jwks::count as count_jwks;
pub(crate) use tickets::Tickets;
pub(crate) use time::seconds_since_1970;

use crate::settings::{AccessSettings, Secret};
use rules::Rules;

/// Decides for every endpoint of the server.
pub(crate) enum Access {
    /// Every client may do everything.
    Open,
    /// Only what the rules allow is open.
    Rules(Box<Rules>),
}

impl Access {
    /// Reads the keys.
    pub(crate) async fn load(
        settings: &AccessSettings,
        hub: Hub,
        tickets: Tickets,
    ) -> anyhow::Result<Self> {
        if !settings.has_rules() {
            return Ok(Self::Open);
        }
        Ok(Self::Rules(Box::new(Rules::load(settings, hub, tickets).await?)))
    }

    /// Whether a request is decided by its credentials.
    pub(crate) fn has_credentials(&self, request: &AccessRequest<'_>) -> bool {
        match self {
            Self::Open => false,
            Self::Rules(rules) => rules.has_credentials(request),
        }
    }

    /// Issues a ticket for these channels, or for all that the token allows.
    pub(crate) async fn issue_ticket(&self, request: &AccessRequest<'_>) -> Result<Secret, Denied> {
        match self {
            // No stream needs it, and a page need not know it.
            Self::Open => tickets::random().ok_or_else(Denied::unavailable),
            Self::Rules(rules) => rules.issue_ticket(request).await,
        }
    }

    /// Why the rules cannot be applied; `None` if they can.
    pub(crate) fn failure(&self) -> Option<String> {
        match self {
            Self::Open => None,
            Self::Rules(rules) => rules.failure(),
        }
    }

    /// Whether every client may do everything.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }
}

impl Authorize for Access {
    fn authorize<'a>(
        &'a self,
        request: &'a AccessRequest<'a>,
    ) -> Pin<Box<dyn Future<Output = Decision> + Send + 'a>> {
        Box::pin(async move {
            match self {
                Self::Open => Decision::allow(),
                Self::Rules(rules) => match rules.decide(request).await {
                    Ok(judgement) => judgement.decision,
                    Err(denied) => Decision::deny(denied),
                },
            }
        })
    }
}
