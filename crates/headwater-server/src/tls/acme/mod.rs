//! Certificates from an ACME server (RFC 8555), such as Let's Encrypt. Look here for when one is asked for.
//!
//! That the names are ours is shown on the server's own port, by TLS-ALPN-01 (RFC 8737): there is nothing else
//! to listen on. Account and certificate are kept in a directory, so that a restart asks for nothing.

mod challenges;
mod client;
mod domain;
mod order;
mod state;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::signal::unix::Signal;
use tokio::time::timeout;

pub(super) use challenges::{ALPN_PROTOCOL, Challenges, is_challenge};
pub use domain::DomainName;

use self::state::{Due, State};
use super::certificates::Certificates;
use crate::fetch;
use crate::limits::{
    ACME_ANSWER_BYTES_MAX, ACME_ANSWER_TIMEOUT, ACME_LOOK_INTERVAL, ACME_ORDER_TIMEOUT,
    ACME_RETRY_MAX, ACME_RETRY_MIN,
};
use crate::settings::HttpUrl;

/// Which certificate is asked for, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeSettings {
    /// The names that are in the certificate; at least one.
    pub domains: Vec<DomainName>,
    /// Where account, certificate and key are kept.
    pub directory: PathBuf,
    /// The address for mail of the ACME server's operator.
    pub contact: Option<String>,
    /// The URL of the ACME server's directory.
    pub server: HttpUrl,
}

/// Asks for a certificate when one is due.
pub(super) struct Acme {
    settings: AcmeSettings,
    state: State,
    challenges: Arc<Challenges>,
}

impl Acme {
    /// The certificate of an earlier run if it is any good, else none for now.
    pub(super) fn load(settings: AcmeSettings) -> anyhow::Result<(Arc<Certificates>, Self)> {
        let state = State::open(&settings.directory)?;
        let files = state.files();
        let certificates = if state.has_certificate() {
            Certificates::load(files.clone()).unwrap_or_else(|error| {
                tracing::warn!("the certificate of the last run is not used: {error:#}");
                Certificates::to_come(files)
            })
        } else {
            Certificates::to_come(files)
        };
        Ok((certificates, Self { settings, state, challenges: Arc::default() }))
    }

    pub(super) fn challenges(&self) -> Arc<Challenges> {
        Arc::clone(&self.challenges)
    }

    /// Asks for a certificate whenever one is due, for ever; again after a while if there is none to be
    /// had, or at SIGHUP.
    pub(super) async fn keep_current(self, certificates: &Certificates, mut hangups: Signal) {
        let mut failures = 0;
        loop {
            let wait = match self.state.due(&self.settings.domains) {
                Due::In(time) => time.clamp(Duration::from_secs(1), ACME_LOOK_INTERVAL),
                Due::Now(why) => {
                    tracing::info!(
                        "asking {} for a certificate (the present one: {why})",
                        self.settings.server
                    );
                    match self.obtain(certificates).await {
                        Ok(()) => {
                            failures = 0;
                            continue;
                        }
                        Err(error) => {
                            failures += 1;
                            certificates.count_failure();
                            let wait = retry_after(failures);
                            tracing::error!(
                                "no certificate was to be had, the next try is in {wait:.0?}, or at SIGHUP: {error:#}"
                            );
                            wait
                        }
                    }
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = hangups.recv() => {}
            }
        }
    }

    async fn obtain(&self, certificates: &Certificates) -> anyhow::Result<()> {
        let order = order::obtain(&self.settings, &self.state, &self.challenges);
        let pem = timeout(ACME_ORDER_TIMEOUT, order)
            .await
            .with_context(|| format!("it took longer than {ACME_ORDER_TIMEOUT:?}"))??;
        // Without this look it would be asked for again at once, and again.
        if let Due::Now(why) = Due::of(pem.as_bytes(), &self.settings.domains) {
            bail!("the certificate that came is no good: {why}. Is this machine's clock right?");
        }
        self.state.keep_certificate(&pem)?;
        certificates.take(certificates.files().read());
        Ok(())
    }
}

/// Longer after each failure in a row, and never the same time for all servers: an ACME server takes few wrong
/// orders in an hour.
fn retry_after(failures: u32) -> Duration {
    let longest = ACME_RETRY_MIN.saturating_mul(1 << (failures - 1).min(16)).min(ACME_RETRY_MAX);
    longest.mul_f64(0.8 + 0.2 * fastrand::f64())
}

/// For `headwater check`: whether the server can be asked, and what there is.
pub(crate) async fn check(settings: &AcmeSettings) -> anyhow::Result<String> {
    let state = State::open(&settings.directory)?;
    let url = &settings.server;
    let request = fetch::get(url, "", [])?;
    let answer = fetch::send(url, request, ACME_ANSWER_TIMEOUT, ACME_ANSWER_BYTES_MAX).await?;
    if !answer.status.is_success() || !answer.is_json() {
        bail!("{url} answers {}, and is no ACME server's directory", answer.status);
    }
    Ok(match state.due(&settings.domains) {
        Due::In(time) => {
            let days = time.as_secs() / (24 * 60 * 60);
            format!("{url} answers, the certificate is renewed in {days} days")
        }
        Due::Now(why) => format!("{url} answers, a certificate is asked for at start: {why}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_wait_longer_and_longer() {
        for (failures, seconds) in [(1, 120.0), (2, 240.0), (6, 3840.0), (40, 14_400.0)] {
            let wait = retry_after(failures).as_secs_f64();
            assert!((seconds * 0.8..=seconds).contains(&wait), "{failures}: {wait}");
        }
    }
}
