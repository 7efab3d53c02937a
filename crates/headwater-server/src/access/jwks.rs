//! A key set that changes without a restart. Look here for when it is reloaded.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::Context as _;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, sleep};

use super::claims::Claims;
use super::keys::{BadToken, Key, Parts};
use crate::limits::{JWKS_AGE_MAX, JWKS_BYTES_MAX, JWKS_INTERVAL_MIN, JWKS_TIMEOUT};
use crate::outbound::{self, Client};
use crate::settings::JwksPlace;

/// The keys and their source.
pub(super) struct Jwks {
    place: JwksPlace,
    client: Client,
    loaded: Mutex<Loaded>,
    /// Held while the set is reloaded; other requests wait for the result.
    reading: AsyncMutex<()>,
}

#[derive(Clone)]
struct Loaded {
    keys: Arc<[Key]>,
    /// Why there are no keys.
    missing: Option<Arc<str>>,
    /// The time of the last attempt to load it, successful or not.
    tried_at: Instant,
}

impl Jwks {
    /// Loads the set. A file must exist; a server that cannot be reached is retried until there are
    /// keys, and until then no token is valid.
    pub(super) async fn load(place: JwksPlace) -> anyhow::Result<Arc<Self>> {
        let client = Client::new();
        let (keys, missing) = match (read(&client, &place).await, &place) {
            (Ok(keys), _) => (keys, None),
            (Err(error), JwksPlace::File(_)) => return Err(error),
            (Err(error), JwksPlace::Url(url)) => {
                tracing::warn!(%url, "jwks: no keys yet, retrying: {error:#}");
                (Vec::new(), Some(format!("{error:#}").into()))
            }
        };
        let is_missing = missing.is_some();
        let loaded = Loaded { keys: keys.into(), missing, tried_at: Instant::now() };
        let (loaded, reading) = (Mutex::new(loaded), AsyncMutex::default());
        let jwks = Arc::new(Self { place, client, loaded, reading });
        if is_missing {
            tokio::spawn(Self::retry(Arc::downgrade(&jwks)));
        }
        Ok(jwks)
    }

    /// Loads the set again and again until there are keys: a server without them is not ready, and
    /// so may receive no token that would cause it.
    async fn retry(jwks: Weak<Self>) {
        loop {
            sleep(JWKS_INTERVAL_MIN).await;
            let Some(jwks) = jwks.upgrade() else { return };
            let loaded = jwks.loaded();
            if loaded.missing.is_none() || jwks.read_again(loaded.tried_at).await.missing.is_none()
            {
                return;
            }
        }
    }

    /// Why no token is valid; `None` if there are keys.
    pub(super) fn failure(&self) -> Option<String> {
        let reason = self.loaded().missing?;
        Some(format!("no keys to verify tokens with, retrying: {reason}"))
    }

    /// The claims of a token, if a key of the set signed it. A token that names an unknown key, or
    /// that no key verifies, causes a reload, with a minimum interval.
    pub(super) async fn prove(&self, parts: &Parts<'_>) -> Result<Claims, BadToken> {
        let mut loaded = self.loaded();
        if loaded.tried_at.elapsed() >= JWKS_AGE_MAX {
            loaded = self.read_again(loaded.tried_at).await;
        }
        match parts.prove(&*loaded.keys) {
            Err(BadToken::Signature) if loaded.tried_at.elapsed() >= JWKS_INTERVAL_MIN => {
                let again = self.read_again(loaded.tried_at).await;
                parts.prove(&*again.keys)
            }
            proved => proved,
        }
    }

    fn loaded(&self) -> Loaded {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Loads the set, unless it was loaded since `seen`.
    async fn read_again(&self, seen: Instant) -> Loaded {
        let _reading = self.reading.lock().await;
        let known = self.loaded();
        if known.tried_at > seen {
            return known;
        }
        let (keys, missing) = match read(&self.client, &self.place).await {
            Ok(keys) => (keys.into(), None),
            Err(error) => {
                let is_known = !known.keys.is_empty();
                if is_known {
                    tracing::warn!("jwks: cannot be read, known keys stay valid: {error:#}");
                } else {
                    tracing::debug!("jwks: no keys yet, retrying: {error:#}");
                }
                (known.keys, (!is_known).then(|| format!("{error:#}").into()))
            }
        };
        let loaded = Loaded { keys, missing, tried_at: Instant::now() };
        *self.loaded.lock().unwrap_or_else(PoisonError::into_inner) = loaded.clone();
        loaded
    }
}

/// Loads the keys from a place.
async fn read(client: &Client, place: &JwksPlace) -> anyhow::Result<Vec<Key>> {
    match place {
        JwksPlace::File(path) => {
            let shown = path.display();
            let text = fs::read(path).with_context(|| format!("cannot read {shown}"))?;
            Key::from_jwks(&text).with_context(|| format!("{shown}"))
        }
        JwksPlace::Url(url) => {
            let request = outbound::get(url, "", [])?;
            let shown = url.to_string();
            let answer = client.exchange(request, &shown, JWKS_TIMEOUT, JWKS_BYTES_MAX).await?;
            anyhow::ensure!(answer.status.is_success(), "{url} answered {}", answer.status);
            Key::from_jwks(&answer.body).with_context(|| format!("{url}"))
        }
    }
}

/// Loads the set once, for `headwater check`; returns the number of usable keys.
pub(crate) async fn count(place: &JwksPlace) -> anyhow::Result<usize> {
    Ok(read(&Client::new(), place).await?.len())
}
