//! Who may subscribe, publish and administer. `rules` has the order of the checks.

pub mod claims;
pub mod credentials;
pub mod keys;

mod answer;
mod authorize_url;
mod cors;
mod host;
mod identity;
mod jwks;
mod origin;
mod questions;
mod rules;
mod tickets;
mod time;
mod tokens;

use std::pin::Pin;

use headwater::Hub;
use headwater::access::{AccessRequest, Action, Authorize, Decision, Denied};

pub(crate) use authorize_url::try_out as try_authorize_url;
pub(crate) use cors::Cors;
pub(crate) use host::{for_hosts_of_this_machine, is_of_this_machine};
pub use identity::Identity;
pub(crate) use jwks::count as count_jwks;
pub(crate) use tickets::Tickets;
pub(crate) use time::seconds_since_1970;

use crate::client::ShownCredential;
use crate::settings::{AccessSettings, Origin, Secret};
use origin::Effect;
use rules::Rules;

/// Decides for every endpoint of the server.
pub(crate) enum Access {
    /// There are no rules.
    Open(OpenAccess),
    /// Only what the rules allow is open.
    Rules(Box<Rules>),
}

/// What every client may do where there are no rules.
pub(crate) struct OpenAccess {
    /// Whether programs of this machine only are to reach it; then pages of foreign origins may
    /// not.
    pub(crate) is_local: bool,
    /// Whether other machines can reach what is for operators; then nobody may close streams.
    pub(crate) is_admin_reachable: bool,
    /// Origins whose pages may use it.
    pub(crate) cors_origins: Vec<Origin>,
}

const NO_ADMIN: &str = "there are no access rules, and other machines can reach this address, so \
                        nobody may close streams here: set access rules, or use a loopback address \
                        for admin";

impl OpenAccess {
    fn decide(&self, request: &AccessRequest<'_>) -> Decision {
        let checked = self.check(request, Effect::of(request.action));
        checked.map_or_else(Decision::deny, |()| Decision::allow())
    }

    fn check(&self, request: &AccessRequest<'_>, effect: Effect) -> Result<(), Denied> {
        if request.action == Action::Admin && self.is_admin_reachable {
            return Err(Denied::forbidden().with_detail(NO_ADMIN));
        }
        if self.is_local {
            origin::check_open(request, effect, &self.cors_origins)?;
        }
        Ok(())
    }
}

/// Who sends a request, verified once. Several decisions may follow.
pub(crate) struct Sender(Option<rules::Sender>);

impl Sender {
    /// Whether nothing verified it: the application decides about each of its requests.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self.0, Some(rules::Sender::Unknown))
    }
}

/// Decides for a sender that was verified before.
pub(crate) struct AccessOf<'a> {
    access: &'a Access,
    sender: &'a Sender,
}

impl Access {
    /// Reads the keys. Without rules, what is open applies.
    pub(crate) async fn load(
        settings: &AccessSettings,
        open: OpenAccess,
        hub: Hub,
        tickets: Tickets,
    ) -> anyhow::Result<Self> {
        if !settings.has_rules() {
            return Ok(Self::Open(open));
        }
        Ok(Self::Rules(Box::new(Rules::load(settings, hub, tickets).await?)))
    }

    /// The credential that decides a request, if there is one.
    pub(crate) fn credential(&self, request: &AccessRequest<'_>) -> Option<ShownCredential> {
        match self {
            Self::Open(_) => None,
            Self::Rules(rules) => rules.credential(request),
        }
    }

    /// Who sends a request.
    pub(crate) async fn identify(&self, request: &AccessRequest<'_>) -> Result<Sender, Denied> {
        Ok(Sender(match self {
            Self::Open(_) => None,
            Self::Rules(rules) => Some(rules.identify(request).await?),
        }))
    }

    /// The rules as they are for this sender.
    pub(crate) fn of<'a>(&'a self, sender: &'a Sender) -> AccessOf<'a> {
        AccessOf { access: self, sender }
    }

    /// Issues a ticket for these channels, or for all that the token allows.
    pub(crate) async fn issue_ticket(&self, request: &AccessRequest<'_>) -> Result<Secret, Denied> {
        match self {
            // No stream needs it, and a page need not know it.
            Self::Open(open) => {
                open.check(request, Effect::Opens)?;
                tickets::random().ok_or_else(Denied::unavailable)
            }
            Self::Rules(rules) => rules.issue_ticket(request).await,
        }
    }

    /// Why the rules cannot be applied; `None` if they can.
    pub(crate) fn failure(&self) -> Option<String> {
        match self {
            Self::Open(_) => None,
            Self::Rules(rules) => rules.failure(),
        }
    }

    /// Whether there are no rules.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }
}

impl Authorize for Access {
    fn authorize<'a>(
        &'a self,
        request: &'a AccessRequest<'a>,
    ) -> Pin<Box<dyn Future<Output = Decision> + Send + 'a>> {
        Box::pin(async move {
            match self {
                Self::Open(open) => open.decide(request),
                Self::Rules(rules) => rules.decide(request).await.unwrap_or_else(Decision::deny),
            }
        })
    }
}

impl Authorize for AccessOf<'_> {
    fn authorize<'a>(
        &'a self,
        request: &'a AccessRequest<'a>,
    ) -> Pin<Box<dyn Future<Output = Decision> + Send + 'a>> {
        Box::pin(async move {
            match (self.access, &self.sender.0) {
                (Access::Open(open), _) => open.decide(request),
                (Access::Rules(rules), Some(sender)) => {
                    rules.decide_for(sender, request).await.unwrap_or_else(Decision::deny)
                }
                // Only open access verifies nobody.
                (Access::Rules(_), None) => Decision::deny(Denied::no_credentials()),
            }
        })
    }
}
