//! The order of the checks: public channels, then a ticket or a token, then the application. Look
//! here for what each of them may allow.

use std::pin::Pin;
use std::time::SystemTime;

use headwater::access::{AccessRequest, Action, Authorize, Decision, Denied};
use headwater::channel::ChannelPattern;
use headwater::{Channel, Hub};
use tokio::time::Instant;

use super::authorize_url::AuthorizeUrl;
use super::credentials::{self, CREDENTIAL_HEADERS, Credential};
use super::identity::Identity;
use super::origin::{self, Effect};
use super::tickets::{self, Tickets};
use super::time::seconds_since_1970;
use super::tokens::Tokens;
use crate::client::{ClientAddress, ShownCredential};
use crate::settings::{AccessSettings, Secret};

/// Only what these allow is open.
pub(crate) struct Rules {
    hub: Hub,
    settings: AccessSettings,
    tokens: Option<Tokens>,
    authorize_url: Option<AuthorizeUrl>,
    tickets: Tickets,
}

/// Who sends a request.
pub(super) enum Sender {
    /// A ticket or a token says so.
    Identified(Identity),
    /// The application decides about it.
    Unknown,
}

impl Rules {
    /// Reads the keys.
    pub(super) async fn load(
        settings: &AccessSettings,
        hub: Hub,
        tickets: Tickets,
    ) -> anyhow::Result<Self> {
        let settings = settings.clone();
        let tokens = if settings.has_keys() { Some(Tokens::load(&settings).await?) } else { None };
        let authorize_url = match &settings.authorize_url {
            Some(url) => {
                let (url, timeout) = (url.clone(), settings.authorize_timeout);
                Some(AuthorizeUrl::new(url, timeout, hub.clone())?)
            }
            None => None,
        };
        Ok(Self { hub, settings, tokens, authorize_url, tickets })
    }

    /// Why the rules cannot be applied.
    pub(super) fn failure(&self) -> Option<String> {
        self.tokens.as_ref()?.failure()
    }

    /// The credential that decides a request, if there is one.
    pub(super) fn credential(&self, request: &AccessRequest<'_>) -> Option<ShownCredential> {
        if self.is_for_all(request) {
            return None;
        }
        match credentials::find(request, &self.settings) {
            Some(Credential::Ticket(text)) => {
                Some(ShownCredential { bytes: text.into_bytes(), is_verified_here: true })
            }
            Some(Credential::Token(text, _)) if self.tokens.is_some() => {
                Some(ShownCredential { bytes: text.into_bytes(), is_verified_here: true })
            }
            _ => {
                self.authorize_url.as_ref()?;
                let all = CREDENTIAL_HEADERS.map(|name| request.headers.get_all(name));
                let values: Vec<_> =
                    all.iter().flatten().map(http::HeaderValue::as_bytes).collect();
                let bytes = values.join(&b'\n');
                (!values.is_empty()).then_some(ShownCredential { bytes, is_verified_here: false })
            }
        }
    }

    /// Decides a request.
    pub(super) async fn decide(&self, request: &AccessRequest<'_>) -> Result<Decision, Denied> {
        if self.is_for_all(request) {
            // It would be allowed without credentials, so they do not matter.
            return Ok(Decision::allow());
        }
        let sender = self.identify(request).await?;
        self.decide_for(&sender, request).await
    }

    /// Who sends a request: verifies its credentials, once.
    pub(super) async fn identify(&self, request: &AccessRequest<'_>) -> Result<Sender, Denied> {
        let found = credentials::find(request, &self.settings);
        origin::check(request, Effect::of(request.action), found.as_ref(), &self.settings)?;
        self.sender_of(request, found).await
    }

    /// Who sends a request with this credential that passed the check of its origin.
    async fn sender_of(
        &self,
        request: &AccessRequest<'_>,
        found: Option<Credential>,
    ) -> Result<Sender, Denied> {
        let identity = match found {
            Some(Credential::Ticket(ticket)) => self.redeem(&ticket, request.channels).await?,
            Some(Credential::Token(token, _)) if self.tokens.is_some() => {
                self.verify(&token).await?
            }
            _ => return self.leave_to_application(),
        };
        self.check_not_revoked(&identity)?;
        Ok(Sender::Identified(identity))
    }

    /// Without a ticket or a token the application decides, if there is one.
    fn leave_to_application(&self) -> Result<Sender, Denied> {
        if self.authorize_url.is_none() {
            return Err(Denied::no_credentials());
        }
        Ok(Sender::Unknown)
    }

    /// Decides a request of this sender.
    pub(super) async fn decide_for(
        &self,
        sender: &Sender,
        request: &AccessRequest<'_>,
    ) -> Result<Decision, Denied> {
        self.decide_with_time(sender, request).await.map(|(decision, _)| decision)
    }

    /// The same, and when the decision was made, if not now: an answer of the application may be
    /// remembered.
    async fn decide_with_time(
        &self,
        sender: &Sender,
        request: &AccessRequest<'_>,
    ) -> Result<(Decision, Option<Instant>), Denied> {
        let Sender::Identified(identity) = sender else {
            return self.decide_by_application(request).await;
        };
        let AccessRequest { action, channels, .. } = *request;
        if !identity.allows(action, channels, |channel| self.is_public(channel)) {
            return Err(Denied::forbidden());
        }
        Ok((identity.decision(), None))
    }

    async fn redeem(&self, ticket: &str, channels: &[Channel]) -> Result<Identity, Denied> {
        // Before the ticket is spent: it may be valid once this node knows what was revoked.
        if !self.hub.knows_revocations() {
            return Err(Denied::unavailable());
        }
        let (identity, mark) = self.tickets.redeem(ticket).await?;
        let is_expired = identity.until.is_some_and(|until| until <= SystemTime::now());
        let user = identity.user.as_deref();
        if is_expired || self.hub.is_revoked_since(mark, user, None, channels) {
            return Err(Denied::bad_credentials());
        }
        Ok(identity)
    }

    /// Only a token with an ID can be revoked.
    fn check_not_revoked(&self, identity: &Identity) -> Result<(), Denied> {
        let Some(id) = &identity.token_id else { return Ok(()) };
        if self.hub.is_token_revoked(id) {
            return Err(Denied::bad_credentials());
        }
        if !self.hub.knows_revocations() {
            return Err(Denied::unavailable());
        }
        Ok(())
    }

    /// Whether everything requested is public.
    fn is_for_all(&self, request: &AccessRequest<'_>) -> bool {
        let AccessRequest { action, channels, .. } = *request;
        action == Action::Subscribe
            && !channels.is_empty()
            && channels.iter().all(|channel| self.is_public(channel))
    }

    async fn verify(&self, token: &str) -> Result<Identity, Denied> {
        let Some(tokens) = &self.tokens else { return Err(Denied::no_credentials()) };
        tokens.verify(token, seconds_since_1970(SystemTime::now())).await.map_err(|why| {
            // The reason, and nothing of the token.
            tracing::debug!("token rejected: {why}");
            Denied::bad_credentials()
        })
    }

    async fn decide_by_application(
        &self,
        request: &AccessRequest<'_>,
    ) -> Result<(Decision, Option<Instant>), Denied> {
        let Some(authorize_url) = &self.authorize_url else { return Err(Denied::no_credentials()) };
        if request.channels.is_empty() && request.action != Action::Admin {
            // The channels have to be known first.
            return Ok((Decision::allow(), None));
        }
        // The application cannot deny public channels.
        let (public, others): (Vec<Channel>, Vec<Channel>) = request
            .channels
            .iter()
            .cloned()
            .partition(|it| request.action == Action::Subscribe && self.is_public(it));
        let (allowed, asked_at) = authorize_url.decide(&request.about(&others)).await?;
        let mut decision = match allowed.until {
            Some(until) => Decision::allow_until(until),
            None => Decision::allow(),
        };
        if let Some(only) = allowed.only {
            decision = decision.only(only.into_iter().chain(public));
        }
        if let Some(user) = allowed.user {
            decision = decision.user(user);
        }
        Ok((decision, Some(asked_at)))
    }

    fn is_public(&self, channel: &Channel) -> bool {
        self.settings.is_public(channel)
    }

    /// Issues a ticket for these channels, or for all that the token allows.
    pub(crate) async fn issue_ticket(&self, request: &AccessRequest<'_>) -> Result<Secret, Denied> {
        let found = credentials::find(request, &self.settings);
        origin::check(request, Effect::Opens, found.as_ref(), &self.settings)?;
        let has_token = match &found {
            // A ticket must not create tickets.
            Some(Credential::Ticket(_)) => return Err(Denied::no_credentials()),
            Some(Credential::Token(..)) => self.tokens.is_some(),
            None => false,
        };
        if !has_token && request.channels.is_empty() {
            return Err(Denied::no_credentials().with_detail(
                "name the channels that the ticket is for: POST /sse/ticket?channel=NAME",
            ));
        }
        // Strangers may subscribe to them, so no ticket is needed, and none is stored. The ticket
        // of a token belongs to its user, even if the channels are public.
        if !has_token && self.is_for_all(request) {
            return tickets::random().ok_or_else(Denied::unavailable);
        }
        let (mark, begun) = (self.hub.revocation_mark(), Instant::now());
        let sender = self.sender_of(request, found).await?;
        let (decision, decided_at) = self.decide_with_time(&sender, request).await?;
        let grant = request.check(&Decided(decision)).await?;
        // Only now, so that a request without valid credentials costs Redis nothing.
        let mark = self.tickets.mark(mark).await?.at(decided_at.unwrap_or(begun));
        let subscribe = match &sender {
            Sender::Identified(identity) if request.channels.is_empty() => {
                identity.subscribe.clone()
            }
            _ => grant.channels.into_iter().map(ChannelPattern::exact).collect(),
        };
        let identity = Identity {
            subscribe,
            until: grant.until,
            user: grant.user,
            token_id: grant.token_id,
            ..Identity::default()
        };
        let address = request.address.map(|address| ClientAddress::new(address).key());
        self.tickets.issue(&identity, mark, address).await
    }
}

/// An earlier decision.
struct Decided(Decision);

impl Authorize for Decided {
    fn authorize<'a>(
        &'a self,
        _request: &'a AccessRequest<'a>,
    ) -> Pin<Box<dyn Future<Output = Decision> + Send + 'a>> {
        Box::pin(std::future::ready(self.0.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use headwater::budget::Account;
    use http::Request;
    use http::header::AUTHORIZATION;
    use jsonwebtoken::{Algorithm, EncodingKey, Header};

    use super::*;
    use crate::settings::{Flags, Settings};

    const SECRET: &str = "a-secret-of-32-bytes-or-longer-please";

    #[tokio::test]
    async fn a_ticket_verifies_its_token_once() {
        let variables = [("HEADWATER_JWT_SECRET", SECRET), ("HEADWATER_PUBLIC", "news")];
        let variables = variables.map(|(name, value)| (OsString::from(name), value.into()));
        let settings = Settings::load(&Flags::default(), variables).expect("good settings");
        let tickets = Tickets::new(None, Account::of(1 << 20));
        let rules = Rules::load(&settings.access, Hub::in_memory(), tickets).await;
        let rules = rules.expect("good keys");
        let claims = serde_json::json!({
            "sub": "42",
            "headwater": { "subscribe": ["a", "b:*"], "publish": ["*"] },
        });
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap();
        let verified = || rules.tokens.as_ref().unwrap().verified();
        for (names, until_now) in [(&["a"][..], 1), (&[], 2), (&["news"], 3), (&["a", "news"], 4)] {
            let channels: Vec<_> = names.iter().map(|name| Channel::new(*name).unwrap()).collect();
            let request = Request::post("/").header(AUTHORIZATION, format!("Bearer {token}"));
            let (parts, ()) = request.body(()).unwrap().into_parts();
            let request = AccessRequest::new(Action::Subscribe, &channels, &parts);
            let ticket = rules.issue_ticket(&request).await.expect("a ticket");
            assert_eq!(verified(), until_now, "{names:?}");
            let redeemed = rules.tickets.redeem(ticket.expose()).await;
            let (identity, _) = redeemed.expect("a good ticket");
            assert_eq!(identity.user.as_deref(), Some("42"), "{names:?}");
            assert!(identity.publish.is_empty() && !identity.admin, "{names:?}");
            let others = [Channel::new("b:1").unwrap()];
            let may_others = identity.allows(Action::Subscribe, &others, |_| false);
            assert_eq!(may_others, names.is_empty(), "{names:?}");
        }
        assert_eq!(verified(), 4);
        let request = Request::post("/").header(AUTHORIZATION, format!("Bearer {token}"));
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let request = AccessRequest::new(Action::Publish, &[], &parts);
        let sender = rules.identify(&request).await.expect("a good token");
        let channels = [Channel::new("a").unwrap()];
        for channels in [&[][..], &channels] {
            assert!(rules.decide_for(&sender, &request.about(channels)).await.is_ok());
        }
        assert_eq!(verified(), 5, "and so does a batch");
    }
}
