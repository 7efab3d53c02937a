//! Certificates from an ACME server (RFC 8555), such as Let's Encrypt. Look here for when one is
//! requested.
//!
//! Control of the names is proved on the server's own port, by TLS-ALPN-01 (RFC 8737): no other
//! port is needed. Account and certificate are stored in a directory, so that a restart requests
//! nothing.

mod challenges;
mod order;
mod state;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::timeout;

pub(super) use challenges::{ALPN_PROTOCOL, Challenges, is_challenge};

use self::state::{Due, State};
use super::certificates::{Certificates, Content};
use crate::exit::error_chain;
use crate::limits::{
    ACME_ANSWER_BYTES_MAX, ACME_ANSWER_TIMEOUT, ACME_LOOK_INTERVAL, ACME_ORDER_TIMEOUT,
    ACME_RETRY_MAX, ACME_RETRY_MIN,
};
use crate::outbound::{self, Client};
use crate::settings::AcmeSettings;
use crate::signals::Reloads;

/// Requests a certificate when one is due.
pub(super) struct Acme {
    settings: AcmeSettings,
    state: State,
    challenges: Arc<Challenges>,
    /// The certificate that is in use, with its key; `None` until there is one.
    present: Option<String>,
    /// Whether the directory has it.
    is_kept: bool,
}

impl Acme {
    /// The certificate of an earlier run if it is valid, else none for now.
    pub(super) fn load(settings: AcmeSettings) -> anyhow::Result<(Arc<Certificates>, Self)> {
        let state = State::open(&settings.directory)?;
        let certificates = Certificates::to_come(state.files());
        let mut present = state.certificate()?;
        if let Some(pem) = &present
            && let Err(error) = certificates.begin_with(&Content::of_both(pem.as_bytes()))
        {
            let why = error_chain(&error);
            tracing::warn!("certificate of the last run not used: {why}");
            present = None;
        }
        match state.try_writing() {
            Ok(()) => {}
            // It may be valid for weeks.
            Err(error) if present.is_some() => {
                certificates.count_failure();
                tracing::error!("no certificate can be renewed: {}", error_chain(&error));
            }
            Err(error) => return Err(error),
        }
        let challenges = Arc::default();
        Ok((certificates, Self { settings, state, challenges, present, is_kept: true }))
    }

    pub(super) fn challenges(&self) -> Arc<Challenges> {
        Arc::clone(&self.challenges)
    }

    /// Requests a certificate whenever one is due; retries with backoff, or at SIGHUP.
    pub(super) async fn keep_current(mut self, certificates: &Certificates, mut reloads: Reloads) {
        let mut failures = 0;
        loop {
            let wait = match self.look(certificates).await {
                Ok(time) => {
                    failures = 0;
                    tracing::debug!("the next certificate is due in {} s", time.as_secs());
                    time.clamp(Duration::from_secs(1), ACME_LOOK_INTERVAL)
                }
                Err(error) => {
                    failures += 1;
                    certificates.count_failure();
                    let wait = retry_after(failures);
                    let why = error_chain(&error);
                    let seconds = wait.as_secs();
                    tracing::error!("the next try is in {seconds} s, or at SIGHUP: {why}");
                    wait
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = reloads.next() => {}
            }
        }
    }

    /// Does what is due; returns the time until the next action.
    async fn look(&mut self, certificates: &Certificates) -> anyhow::Result<Duration> {
        self.keep()?;
        let why = match self.present.as_ref().map(|pem| Due::of(pem, &self.settings)) {
            Some(Due::In(time)) => return Ok(time),
            Some(Due::Now(why)) => format!("of the present one: {why}"),
            None => "there is none yet".to_owned(),
        };
        tracing::info!("requesting a certificate from {}; {why}", self.settings.server);
        let (pem, time) = self.obtain().await.context("no certificate could be obtained")?;
        certificates
            .replace(&Content::of_both(pem.as_bytes()))
            .context("the new certificate is invalid")?;
        (self.present, self.is_kept) = (Some(pem), false);
        self.keep()?;
        Ok(time)
    }

    /// Obtains a certificate; returns the time until the next one is due.
    async fn obtain(&self) -> anyhow::Result<(String, Duration)> {
        self.state.try_writing()?;
        let order = order::obtain(&self.settings, &self.state, &self.challenges);
        let pem = timeout(ACME_ORDER_TIMEOUT, order)
            .await
            .with_context(|| format!("it took longer than {} s", ACME_ORDER_TIMEOUT.as_secs()))??;
        let pem = state::origin(&self.settings) + &pem;
        // Without this check it would be requested again and again.
        match Due::of(&pem, &self.settings) {
            Due::In(time) => Ok((pem, time)),
            Due::Now(why) => bail!("the new one is invalid: {why}"),
        }
    }

    /// Writes what is in use to the directory, if it is not there.
    fn keep(&mut self) -> anyhow::Result<()> {
        if let (Some(pem), false) = (&self.present, self.is_kept) {
            let kept = self.state.keep_certificate(pem);
            kept.context("the certificate is in use, but not stored for the next start")?;
            self.is_kept = true;
        }
        Ok(())
    }
}

/// Longer after each consecutive failure, with jitter: an ACME server accepts few failed orders per
/// hour.
fn retry_after(failures: u32) -> Duration {
    let longest = ACME_RETRY_MIN.saturating_mul(1 << (failures - 1).min(16)).min(ACME_RETRY_MAX);
    longest.mul_f64(0.8 + 0.2 * fastrand::f64())
}

/// For `headwater check`: whether the server can be reached. Nothing is created or changed.
pub(crate) async fn check_server(settings: &AcmeSettings) -> anyhow::Result<String> {
    let url = &settings.server;
    let request = outbound::get(url, "", [])?;
    let answer = Client::new()
        .exchange(request, &url.to_string(), ACME_ANSWER_TIMEOUT, ACME_ANSWER_BYTES_MAX)
        .await?;
    let directory = serde_json::from_slice::<serde_json::Value>(&answer.body).ok();
    if !directory.is_some_and(|directory| directory["newOrder"].is_string()) {
        bail!("{url} answers {}, and is no ACME server's directory", answer.status);
    }
    Ok(format!("{url} answers"))
}

/// For `headwater check`: what happens to the existing certificate.
pub(crate) fn check_certificate(settings: &AcmeSettings) -> anyhow::Result<String> {
    let state = State::at(&settings.directory);
    let Some(pem) = state.certificate()? else {
        return Ok("a certificate is asked for at start: there is none yet".to_owned());
    };
    let certificates = Certificates::to_come(state.files());
    certificates.begin_with(&Content::of_both(pem.as_bytes()))?;
    Ok(match Due::of(&pem, settings) {
        Due::In(time) => {
            let days = time.as_secs() / (24 * 60 * 60);
            format!("the certificate that there is will be renewed in {days} days")
        }
        Due::Now(why) => {
            format!("a certificate is asked for at start; of the present one: {why}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_back_off() {
        for (failures, seconds) in [(1, 120.0), (2, 240.0), (6, 3840.0), (40, 14_400.0)] {
            let wait = retry_after(failures).as_secs_f64();
            assert!((seconds * 0.8..=seconds).contains(&wait), "{failures}: {wait}");
        }
    }
}
