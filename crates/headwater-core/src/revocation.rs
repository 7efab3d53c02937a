//! Revocations, which close streams on every node. Look here for what can be revoked, and for the
//! record that nodes exchange.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::channel::Channel;
use crate::error::Error;
use crate::limits::OWNER_ID_BYTES_MAX;

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

impl Revocation {
    /// Checks that its id is not empty and not longer than [`OWNER_ID_BYTES_MAX`]: nodes keep ids,
    /// and exchange them.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let (what, id) = match self {
            Self::User(id) => ("user", id),
            Self::Stream(id) => ("stream", id),
            Self::Token { id, .. } => ("token", id),
            Self::Channel(_) => return Ok(()),
        };
        if (1..=OWNER_ID_BYTES_MAX).contains(&id.len()) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "the id of the {what} to revoke has {} bytes: 1 to {OWNER_ID_BYTES_MAX} are allowed",
            id.len()
        )))
    }
}

/// The moment of a decision about access, to be compared with revocations: from
/// [`Hub::revocation_mark`](crate::Hub::revocation_mark), before the decision is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RevocationMark(pub(crate) Moment);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// After this many revocations that the node has heard of.
    Number(u64),
    /// By the broker's clock, in milliseconds since 1970.
    TimeMs(u64),
}

impl RevocationMark {
    /// For a decision of another node: its time by the broker's clock, in milliseconds since 1970.
    pub fn at_ms(time_ms: u64) -> Self {
        Self(Moment::TimeMs(time_ms))
    }
}

/// A revocation as nodes exchange it, and as it is retained for nodes that are disconnected.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct RevocationRecord {
    /// When the revocation was made, by the broker's clock, in milliseconds since 1970.
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

    /// The revocation; `None` if it names a channel that cannot exist, or an id that is too long.
    pub fn revocation(self) -> Option<Revocation> {
        let revocation = match self.what {
            What::User(user) => Revocation::User(user),
            What::Channel(name) => Revocation::Channel(Channel::new(name).ok()?),
            What::Stream(id) => Revocation::Stream(id),
            What::Token { id, until_ms } => {
                let until = UNIX_EPOCH.checked_add(Duration::from_millis(until_ms))?;
                Revocation::Token { id, until }
            }
        };
        revocation.check().is_ok().then_some(revocation)
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
    fn ids_are_bounded_in_records_too() {
        let of = |id: String| {
            let until = UNIX_EPOCH + Duration::from_secs(1);
            let (user, stream) = (id.clone(), id.clone());
            [Revocation::User(user), Revocation::Stream(stream), Revocation::Token { id, until }]
        };
        for (id, is_good) in [("", false), ("1", true), (&"j".repeat(255), true)]
            .map(|(id, is_good)| (id.to_owned(), is_good))
            .into_iter()
            .chain([("j".repeat(256), false), ("\u{fc}".repeat(128), false)])
        {
            for revocation in of(id) {
                assert_eq!(revocation.check().is_ok(), is_good, "{revocation:?}");
                let record = RevocationRecord::new(&revocation, 7).encode();
                let decoded = RevocationRecord::decode(record.as_bytes());
                let found = decoded.and_then(RevocationRecord::revocation);
                assert_eq!(found, is_good.then_some(revocation));
            }
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
