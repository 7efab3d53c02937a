//! A set of keys that changes without a restart. Look here for when it is read again.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use super::claims::Claims;
use super::keys::{BadToken, Key, Parts};
use crate::limits::{JWKS_AGE_MAX, JWKS_BYTES_MAX, JWKS_INTERVAL_MIN, JWKS_TIMEOUT};
use crate::outbound::{self, Client};
use crate::settings::JwksPlace;

/// The keys, and where they come from.
pub(super) struct Jwks {
    place: JwksPlace,
    client: Client,
    loaded: Mutex<Loaded>,
    /// Held by the one who reads the set again; all others wait for what it gets.
    reading: AsyncMutex<()>,
}

#[derive(Clone)]
struct Loaded {
    keys: Arc<[Key]>,
    /// When it was last tried to read it, whether or not that worked.
    tried_at: Instant,
}

impl Jwks {
    /// Reads the set. A file must be there; a server that cannot be reached is asked again when a
    /// token comes, and until then no token counts.
    pub(super) async fn load(place: JwksPlace) -> anyhow::Result<Self> {
        let client = Client::new();
        let keys = match (read(&client, &place).await, &place) {
            (Ok(keys), _) => keys,
            (Err(error), JwksPlace::File(_)) => return Err(error),
            (Err(error), JwksPlace::Url(url)) => {
                tracing::warn!(%url, "jwks: no keys yet, retrying when a token arrives: {error:#}");
                Vec::new()
            }
        };
        let loaded = Mutex::new(Loaded { keys: keys.into(), tried_at: Instant::now() });
        Ok(Self { place, client, loaded, reading: AsyncMutex::default() })
    }

    /// The claims of a token, if a key of the set signed it. A token that names a key that is not
    /// in the set, or whose signature none proves, makes the set be read again, at most so often.
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

    /// Reads the set, unless somebody has done so since `seen`.
    async fn read_again(&self, seen: Instant) -> Loaded {
        let _reading = self.reading.lock().await;
        let known = self.loaded();
        if known.tried_at > seen {
            return known;
        }
        let keys = match read(&self.client, &self.place).await {
            Ok(keys) => keys.into(),
            Err(error) => {
                tracing::warn!("jwks: cannot be read, known keys stay valid: {error:#}");
                known.keys
            }
        };
        let loaded = Loaded { keys, tried_at: Instant::now() };
        *self.loaded.lock().unwrap_or_else(PoisonError::into_inner) = loaded.clone();
        loaded
    }
}

/// The keys at a place, read now.
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

/// Reads the set once, for `headwater check`; gives how many keys can be used.
pub(crate) async fn count(place: &JwksPlace) -> anyhow::Result<usize> {
    Ok(read(&Client::new(), place).await?.len())
}
