//! Tokens: from the text to an identity. Look here for which keys are tried.

use std::fmt;
use std::sync::Arc;

use anyhow::Context as _;

use super::claims::{Expected, Refusal};
use super::identity::Identity;
use super::jwks::Jwks;
use super::keys::{self, BadToken, Key, Parts};
use crate::settings::AccessSettings;

/// Everything that is needed to verify a token.
pub(super) struct Tokens {
    /// Keys that were configured individually.
    keys: Vec<Key>,
    jwks: Option<Arc<Jwks>>,
    expected: Expected,
    #[cfg(test)]
    verified: std::sync::atomic::AtomicUsize,
}

/// Why a token is rejected. It contains nothing of the token.
#[derive(Debug)]
pub(super) enum Why {
    Token(BadToken),
    Claims(Refusal),
}

impl Tokens {
    /// Reads the keys.
    pub(super) async fn load(settings: &AccessSettings) -> anyhow::Result<Self> {
        let mut keys = Vec::new();
        if let Some(secret) = &settings.jwt_secret {
            keys.push(Key::from_secret(secret).context("jwt-secret")?);
        }
        if let Some(path) = &settings.jwt_secret_file {
            keys.push(Key::from_secret(&keys::read_secret(path)?).context("jwt-secret-file")?);
        }
        if let Some(path) = &settings.jwt_public_key {
            keys.push(keys::read_public_key(path).context("jwt-public-key")?);
        }
        let jwks = match &settings.jwks {
            Some(place) => Some(Jwks::load(place.clone()).await.context("jwks")?),
            None => None,
        };
        let expected = Expected {
            audience: settings.jwt_audience.clone(),
            issuer: settings.jwt_issuer.clone(),
            subscribe: settings.allow_subscribe.clone(),
            publish: settings.allow_publish.clone(),
        };
        Ok(Self {
            keys,
            jwks,
            expected,
            #[cfg(test)]
            verified: std::sync::atomic::AtomicUsize::default(),
        })
    }

    /// Why no token is valid, although some should be.
    pub(super) fn failure(&self) -> Option<String> {
        self.jwks.as_ref().filter(|_| self.keys.is_empty())?.failure()
    }

    /// How many tokens were verified.
    #[cfg(test)]
    pub(super) fn verified(&self) -> usize {
        self.verified.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// The identity of a token, at a time in seconds since 1970.
    pub(super) async fn verify(&self, token: &str, now: f64) -> Result<Identity, Why> {
        #[cfg(test)]
        self.verified.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let parts = Parts::read(token).map_err(Why::Token)?;
        let claims = match (parts.prove(&self.keys), &self.jwks) {
            (Err(BadToken::Signature), Some(jwks)) => jwks.prove(&parts).await,
            (proved, _) => proved,
        };
        Identity::read(&claims.map_err(Why::Token)?, &self.expected, now).map_err(Why::Claims)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(why) => write!(f, "{why}"),
            Self::Claims(why) => write!(f, "{why}"),
        }
    }
}
