//! One order (RFC 8555, 7.4): an account, the challenges, the certificate. Look here for the
//! requests to the ACME server, in order.

use anyhow::{Context as _, bail};
use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, NewAccount, NewOrder, Order,
    OrderStatus, RetryPolicy,
};

use super::challenges::Challenges;
use super::state::State;
use crate::limits::{ACME_POLL_INTERVAL, ACME_POLL_TIMEOUT};
use crate::outbound::Client;
use crate::settings::AcmeSettings;

/// The factor is small, since the time runs out at the end of a wait, without another poll.
const POLL: RetryPolicy =
    RetryPolicy::new().initial_delay(ACME_POLL_INTERVAL).backoff(1.2).timeout(ACME_POLL_TIMEOUT);

/// The server's error for an account that it does not know, or no longer knows.
const NO_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// Gets a certificate, the chain and its key in PEM.
pub(super) async fn obtain(
    settings: &AcmeSettings,
    state: &State,
    challenges: &Challenges,
) -> anyhow::Result<String> {
    let names: Vec<Identifier> =
        settings.domains.iter().map(|name| Identifier::Dns(name.as_str().to_owned())).collect();
    let mut order = new_order(settings, state, &NewOrder::new(&names)).await?;
    let _answering = Answering(challenges);
    answer(&mut order, challenges).await?;
    match order.poll_ready(&POLL).await {
        Ok(OrderStatus::Ready) => {}
        Ok(status) => {
            let end = anyhow::anyhow!("the order is {}", order_status(status));
            return Err(why_refused(&mut order, end).await);
        }
        Err(error) => return Err(why_refused(&mut order, error.into()).await),
    }
    let key = order.finalize().await.context("the order was not accepted")?;
    let chain = order.poll_certificate(&POLL).await.context("the certificate did not come")?;
    Ok(chain + &key)
}

/// The status as RFC 8555 writes it.
fn order_status(status: OrderStatus) -> &'static str {
    match status {
        OrderStatus::Pending => "pending",
        OrderStatus::Ready => "ready",
        OrderStatus::Processing => "processing",
        OrderStatus::Valid => "valid",
        OrderStatus::Invalid => "invalid",
    }
}

/// The status as RFC 8555 writes it.
fn authorization_status(status: AuthorizationStatus) -> &'static str {
    match status {
        AuthorizationStatus::Pending => "pending",
        AuthorizationStatus::Valid => "valid",
        AuthorizationStatus::Invalid => "invalid",
        AuthorizationStatus::Revoked => "revoked",
        AuthorizationStatus::Expired => "expired",
        AuthorizationStatus::Deactivated => "deactivated",
    }
}

/// Orders with the existing account, or with a new one.
async fn new_order(
    settings: &AcmeSettings,
    state: &State,
    names: &NewOrder<'_>,
) -> anyhow::Result<Order> {
    let server = settings.server.to_string();
    if let Some(credentials) = state.account(&server)? {
        let account =
            Account::builder_with_http(Box::new(Client::new())).from_credentials(credentials);
        let account = account.await.with_context(|| format!("{server} cannot be reached"))?;
        match account.new_order(names).await {
            Err(Error::Api(problem)) if problem.r#type.as_deref() == Some(NO_ACCOUNT) => {
                tracing::warn!("{server} does not know the account any more: a new one is made");
            }
            order => return order.context("the order was rejected"),
        }
    }
    let contact = settings.contact.as_ref().map(|address| format!("mailto:{address}"));
    let contact: Vec<&str> = contact.as_deref().into_iter().collect();
    let new = NewAccount {
        contact: &contact,
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let account = Account::builder_with_http(Box::new(Client::new()))
        .create(&new, server.clone(), None)
        .await;
    let (account, credentials) = account.context("no account could be made")?;
    state.keep_account(&server, credentials)?;
    account.new_order(names).await.context("the order was rejected")
}

/// Responds to the challenge of every name that was not validated recently.
async fn answer(order: &mut Order, challenges: &Challenges) -> anyhow::Result<()> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.context("the names cannot be verified")?;
        let name = authorization.identifier().to_string();
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            status => {
                bail!("{name} cannot be verified: it is {} already", authorization_status(status))
            }
        }
        let mut challenge = authorization
            .challenge(ChallengeType::TlsAlpn01)
            .with_context(|| format!("the server does not verify {name} by TLS-ALPN-01"))?;
        challenges.put(&name, challenge.key_authorization().digest().as_ref())?;
        challenge.set_ready().await.with_context(|| format!("{name} is not verified"))?;
    }
    Ok(())
}

/// Why an order failed: what the server found about the names, or else the error itself.
async fn why_refused(order: &mut Order, error: anyhow::Error) -> anyhow::Error {
    let mut found = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let Ok(mut authorization) = authorization else { continue };
        let name = authorization.identifier().to_string();
        let Ok(state) = authorization.refresh().await else { continue };
        let errors = state.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
        found.extend(errors.map(|error| {
            let why = error.detail.as_deref().or(error.r#type.as_deref()).unwrap_or("no reason");
            format!("{name}: {why}")
        }));
    }
    if found.is_empty() {
        return error.context("the order failed");
    }
    anyhow::anyhow!(
        "the ACME server could not verify the names. It connects to port 443 of each, which must \
         lead here: {}",
        found.join("; ")
    )
}

/// Challenges are answered as long as it lives.
struct Answering<'a>(&'a Challenges);

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.0.clear();
    }
}
