//! Revocations, which close streams on every node. Look here for what can be revoked, and for the
//! record that nodes exchange.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::channel::Channel;

/// Which streams to close, for [`Hub::revoke`](crate::Hub::revoke).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Revocation {
    /// The streams of a user, as [`Subscription::owned_by`](crate::Subscription::owned_by) named
    /// it.
    User(String),
    /// The streams that are subscribed to a channel, whatever their other channels.
    Channel(Channel),
    /// One stream, by its [id](crate::Subscription::id).
    Stream(String),
    /// The streams that a token authorised. The token stays revoked until it expires.
    Token {
        /// The token's id.
        id: String,
        /// When the token expires.
        until: SystemTime,
    },
}

/// A revocation as nodes exchange it, and as it is retained for nodes that are disconnected.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct RevocationRecord {
    /// When the revocation was made, in milliseconds since 1970.
    pub at_ms: u64,
    #[serde(flatten)]
    what: What,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum What {
    User(String),
    Channel(String),
    Stream(String),
    Token { id: String, until_ms: u64 },
}

impl RevocationRecord {
    /// The record of a revocation made at `at_ms`, in milliseconds since 1970.
    pub fn new(revocation: &Revocation, at_ms: u64) -> Self {
        let what = match revocation {
            Revocation::User(user) => What::User(user.clone()),
            Revocation::Channel(channel) => What::Channel(channel.to_string()),
            Revocation::Stream(id) => What::Stream(id.clone()),
            Revocation::Token { id, until } => {
                What::Token { id: id.clone(), until_ms: since_1970_ms(*until) }
            }
        };
        Self { at_ms, what }
    }

    /// When the revoked token expires, in milliseconds since 1970; `None` if no token is revoked.
    pub fn token_until_ms(&self) -> Option<u64> {
        match self.what {
            What::Token { until_ms, .. } => Some(until_ms),
            _ => None,
        }
    }

    /// Encodes the record as JSON.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Decodes a record; `None` if the bytes are not one, since other programs may write to the
    /// broker too.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// The revocation; `None` if it names a channel that cannot exist.
    pub fn revocation(self) -> Option<Revocation> {
        Some(match self.what {
            What::User(user) => Revocation::User(user),
            What::Channel(name) => Revocation::Channel(Channel::new(name).ok()?),
            What::Stream(id) => Revocation::Stream(id),
            What::Token { id, until_ms } => {
                let until = UNIX_EPOCH.checked_add(Duration::from_millis(until_ms))?;
                Revocation::Token { id, until }
            }
        })
    }
}

fn since_1970_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip() {
        let until = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        for revocation in [
            Revocation::User("a \"b\"".into()),
            Revocation::Channel(Channel::new("news").unwrap()),
            Revocation::Stream("n-1".into()),
            Revocation::Token { id: "j".into(), until },
        ] {
            let record = RevocationRecord::new(&revocation, 7);
            let decoded = RevocationRecord::decode(record.encode().as_bytes()).unwrap();
            assert_eq!(decoded, record);
            assert_eq!(decoded.revocation(), Some(revocation));
        }
    }

    #[test]
    fn malformed_records_are_ignored() {
        for text in ["", "{}", "{\"at_ms\":1}", "{\"at_ms\":1,\"all\":\"x\"}", "\u{0}"] {
            assert_eq!(RevocationRecord::decode(text.as_bytes()), None, "{text}");
        }
        let reserved = br#"{"at_ms":1,"channel":"headwater:x"}"#;
        assert_eq!(RevocationRecord::decode(reserved).unwrap().revocation(), None);
    }
}
