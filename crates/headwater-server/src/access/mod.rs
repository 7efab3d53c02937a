//! Who may listen, publish and administer. Look here for the order in which a request is judged.

pub mod claims;
pub mod credentials;
pub mod keys;

mod application;
mod cors;
mod jwks;
mod origin;
mod tickets;
mod token;

use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use headwater::{AccessRequest, Action, Authorize, Channel, ChannelPattern, Decision, Denied, Hub};
use http::header::{AUTHORIZATION, COOKIE};

use crate::settings::{AccessSettings, Secret, Settings};
use application::Application;
pub(crate) use application::try_out as try_application;
use claims::Identity;
pub(crate) use cors::Cors;
use credentials::{Credential, Place};
pub(crate) use jwks::count as count_jwks;
pub(crate) use tickets::{Tickets, random as random_ticket};
use token::Tokens;

/// Decides for every door of the server.
pub(crate) enum Access {
    /// Anybody may do anything.
    Open,
    /// Nothing is open that the rules do not open.
    Rules(Box<Rules>),
}

pub(crate) struct Rules {
    hub: Hub,
    settings: AccessSettings,
    tokens: Option<Tokens>,
    application: Option<Application>,
    tickets: Tickets,
}

impl Access {
    /// Reads the keys.
    pub(crate) async fn load(
        settings: &Settings,
        hub: Hub,
        tickets: Tickets,
    ) -> anyhow::Result<Self> {
        let settings = settings.access.clone();
        if !settings.has_rules() {
            return Ok(Self::Open);
        }
        let tokens = if settings.has_keys() { Some(Tokens::load(&settings).await?) } else { None };
        let application = match &settings.authorize_url {
            Some(url) => Some(Application::new(url.clone(), settings.authorize_timeout)?),
            None => None,
        };
        Ok(Self::Rules(Box::new(Rules { hub, settings, tokens, application, tickets })))
    }

    /// Whether a request is judged by credentials that it shows.
    pub(crate) fn looks_at_credentials(&self, request: &AccessRequest<'_>) -> bool {
        match self {
            Self::Open => false,
            Self::Rules(rules) => !rules.is_for_all(request) && rules.knows_credentials(request),
        }
    }

    /// Whether anybody may do anything.
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
                Self::Rules(rules) => rules.decide(request).await.unwrap_or_else(Decision::deny),
            }
        })
    }
}

impl Rules {
    async fn decide(&self, request: &AccessRequest<'_>) -> Result<Decision, Denied> {
        let AccessRequest { action, channels, .. } = *request;
        if self.is_for_all(request) {
            // Whoever is nobody may do this, so it does not matter who asks.
            return Ok(Decision::allow());
        }
        let identity = match credentials::find(request, &self.settings) {
            Some(Credential::Ticket(ticket)) => self.tickets.take(&ticket).await?,
            Some(Credential::Token(token, place)) if self.tokens.is_some() => {
                if place == Place::Cookie {
                    origin::check(request, &self.settings.cors_origins)?;
                }
                self.verify(&token).await?
            }
            _ => return self.ask(request).await,
        };
        if identity.token_id.as_ref().is_some_and(|id| self.hub.is_token_revoked(id)) {
            return Err(Denied::bad_credentials());
        }
        if !identity.allows(action, channels, |channel| self.is_public(channel)) {
            return Err(Denied::forbidden());
        }
        Ok(identity.decision())
    }

    /// Whether everything asked for is public.
    fn is_for_all(&self, request: &AccessRequest<'_>) -> bool {
        let AccessRequest { action, channels, .. } = *request;
        action == Action::Subscribe
            && !channels.is_empty()
            && channels.iter().all(|channel| self.is_public(channel))
    }

    /// Whether it shows what we, or the application, would look at.
    fn knows_credentials(&self, request: &AccessRequest<'_>) -> bool {
        match credentials::find(request, &self.settings) {
            Some(Credential::Ticket(_)) => true,
            Some(Credential::Token(..)) if self.tokens.is_some() => true,
            _ => {
                self.application.is_some()
                    && [AUTHORIZATION, COOKIE].iter().any(|it| request.headers.contains_key(it))
            }
        }
    }

    async fn verify(&self, token: &str) -> Result<Identity, Denied> {
        let Some(tokens) = &self.tokens else { return Err(Denied::no_credentials()) };
        tokens.verify(token, seconds_since_1970(SystemTime::now())).await.map_err(|why| {
            // Why, and nothing of the token.
            tracing::debug!("a token was refused: {why}");
            Denied::bad_credentials()
        })
    }

    /// Nobody of whom we know: the application decides, if there is one.
    async fn ask(&self, request: &AccessRequest<'_>) -> Result<Decision, Denied> {
        let Some(application) = &self.application else { return Err(Denied::no_credentials()) };
        if request.headers.contains_key(COOKIE) && !request.headers.contains_key(AUTHORIZATION) {
            origin::check(request, &self.settings.cors_origins)?;
        }
        if request.channels.is_empty() && request.action != Action::Admin {
            // It is asked when the channels are known.
            return Ok(Decision::allow());
        }
        // What is public is not for the application to refuse.
        let (public, others): (Vec<Channel>, Vec<Channel>) = request
            .channels
            .iter()
            .cloned()
            .partition(|it| request.action == Action::Subscribe && self.is_public(it));
        let allowed = application.ask(&request.about(&others)).await?;
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
        Ok(decision)
    }

    fn is_public(&self, channel: &Channel) -> bool {
        let patterns: &[ChannelPattern] = self.settings.public.as_deref().unwrap_or_default();
        patterns.iter().any(|pattern| pattern.matches(channel))
    }

    /// Makes a ticket for whoever asks, for these channels or for all that the token allows.
    pub(crate) async fn make_ticket(
        &self,
        request: &AccessRequest<'_>,
        access: &Access,
    ) -> Result<Secret, Denied> {
        // A ticket must not make tickets.
        let identity = match credentials::find(request, &self.settings) {
            Some(Credential::Ticket(_)) => return Err(Denied::no_credentials()),
            Some(Credential::Token(token, _)) if self.tokens.is_some() => {
                let mut identity = self.verify(&token).await?;
                let checked = request.check(access).await?;
                identity.publish = Vec::new();
                identity.admin = false;
                if !request.channels.is_empty() {
                    identity.subscribe = exactly(checked.channels);
                }
                identity
            }
            _ if request.channels.is_empty() => {
                return Err(Denied::no_credentials().with_detail(
                    "name the channels that the ticket is for: POST /sse/ticket?channel=NAME",
                ));
            }
            _ => {
                let grant = request.check(access).await?;
                Identity {
                    subscribe: exactly(grant.channels),
                    until: grant.until,
                    user: grant.user,
                    token_id: grant.token_id,
                    ..Identity::default()
                }
            }
        };
        self.tickets.make(&identity).await
    }
}

/// Patterns for these channels and no others.
fn exactly(channels: Vec<Channel>) -> Vec<ChannelPattern> {
    channels.into_iter().map(ChannelPattern::exact).collect()
}

pub(crate) fn seconds_since_1970(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The time so many seconds after 1970; what no clock can hold is never.
fn time_of(seconds: f64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
}
