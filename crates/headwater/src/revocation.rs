//! Ending streams from outside, on every node. Look here for what can be revoked, and for its form on
//! the way between nodes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::channel::Channel;

/// Whose streams end: for [`Hub::revoke`](crate::Hub::revoke).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Revocation {
    /// The streams of a user, as [`Subscription::owned_by`](crate::Subscription::owned_by) named it.
    User(String),
    /// The streams that listen to a channel, whatever else they listen to.
    Channel(Channel),
    /// One stream, by its [id](crate::Subscription::id).
    Stream(String),
    /// The streams that a token allowed. It stays out until it would have expired.
    Token {
        /// The token's id.
        id: String,
        /// When the token expires.
        until: SystemTime,
    },
}

/// A revocation as it travels, and as it is kept for nodes that were away.
#[cfg_attr(not(feature = "redis"), allow(dead_code))]
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RevocationRecord {
    /// When it was made, in milliseconds since 1970.
    pub(crate) at_ms: u64,
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

#[cfg_attr(not(feature = "redis"), allow(dead_code))]
impl RevocationRecord {
    pub(crate) fn new(revocation: &Revocation, at_ms: u64) -> Self {
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

    /// When a token that is revoked expires.
    pub(crate) fn token_until_ms(&self) -> Option<u64> {
        match self.what {
            What::Token { until_ms, .. } => Some(until_ms),
            _ => None,
        }
    }

    pub(crate) fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// `None` for what is no notice: other programs may write to Redis too.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    pub(crate) fn revocation(self) -> Option<Revocation> {
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
    fn notices_come_back_as_they_were() {
        let until = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        for revocation in [
            Revocation::User("a \"b\"".into()),
            Revocation::Channel(Channel::new("news").unwrap()),
            Revocation::Stream("n-1".into()),
            Revocation::Token { id: "j".into(), until },
        ] {
            let notice = RevocationRecord::new(&revocation, 7);
            let decoded = RevocationRecord::decode(notice.encode().as_bytes()).unwrap();
            assert_eq!(decoded, notice);
            assert_eq!(decoded.revocation(), Some(revocation));
        }
    }

    #[test]
    fn what_is_no_notice_is_nothing() {
        for text in ["", "{}", "{\"at_ms\":1}", "{\"at_ms\":1,\"all\":\"x\"}", "\u{0}"] {
            assert_eq!(RevocationRecord::decode(text.as_bytes()), None, "{text}");
        }
        let reserved = br#"{"at_ms":1,"channel":"headwater:x"}"#;
        assert_eq!(RevocationRecord::decode(reserved).unwrap().revocation(), None);
    }
}
