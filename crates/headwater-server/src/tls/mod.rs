//! TLS of the server: which configuration, which certificate. Look here for versions, ciphers and
//! ALPN; the handshake itself is the library's.

mod acme;
mod certificates;
mod reload;
mod validity;

use std::sync::Arc;

use anyhow::Context as _;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

pub(crate) use acme::{
    check_certificate as check_acme_certificate, check_server as check_acme_server,
};
pub(crate) use certificates::Certificates;

use crate::settings::TlsSettings;
use crate::signals::Reloads;
use acme::{Acme, Challenges};

/// What TLS needs while the server runs.
pub(crate) struct Tls {
    certificates: Arc<Certificates>,
    acme: Option<Acme>,
}

impl Tls {
    /// Reads the certificate, if it has to be there.
    pub(crate) fn load(source: TlsSettings) -> anyhow::Result<Self> {
        Ok(match source {
            TlsSettings::Files(files) => {
                Self { certificates: Certificates::load(files)?, acme: None }
            }
            TlsSettings::Acme(settings) => {
                let (certificates, acme) = Acme::load(settings)?;
                Self { certificates, acme: Some(acme) }
            }
        })
    }

    pub(crate) fn certificates(&self) -> Arc<Certificates> {
        Arc::clone(&self.certificates)
    }

    /// Versions 1.2 and 1.3, with rustls' default ciphers, and HTTP/2 or HTTP/1.1 as the client
    /// prefers.
    pub(crate) fn config(&self) -> anyhow::Result<Arc<ServerConfig>> {
        let challenges = self.acme.as_ref().map(Acme::challenges);
        let mut protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        protocols.extend(challenges.is_some().then(|| acme::ALPN_PROTOCOL.to_vec()));
        let resolver = Resolver { certificates: self.certificates(), challenges };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("TLS cannot be set up")?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = protocols;
        // Clients that reconnect all at once resume their sessions, which costs no signature; and
        // the state is with the client, not in a table here.
        config.ticketer = aws_lc_rs::Ticketer::new().context("TLS cannot be set up")?;
        Ok(Arc::new(config))
    }

    /// Keeps the certificate current, from its files or its ACME server. Never returns.
    pub(crate) async fn keep_current(self, reloads: Reloads) {
        match self.acme {
            Some(acme) => acme.keep_current(&self.certificates, reloads).await,
            None => reload::keep_current(self.certificates, reloads).await,
        }
    }
}

/// Chooses the certificate for a handshake.
#[derive(Debug)]
struct Resolver {
    certificates: Arc<Certificates>,
    challenges: Option<Arc<Challenges>>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match &self.challenges {
            Some(challenges) if acme::is_challenge(&hello) => challenges.answer(&hello),
            _ => self.certificates.current(),
        }
    }
}
