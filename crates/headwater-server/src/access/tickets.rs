//! One-time tickets, for clients that cannot send headers. Look here for their lifetime and where
//! they are stored.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use headwater::access::Denied;
use headwater::channel::ChannelPattern;
use headwater::redis::RedisConnection;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::identity::Identity;
use super::time::{seconds_since_1970, time_of};
use crate::limits::{TICKET_TIME, TICKETS_MAX};
use crate::settings::Secret;

/// Where tickets are stored until they are redeemed.
pub(crate) enum Tickets {
    /// In this process.
    Memory(Mutex<HashMap<String, (Instant, TicketRecord)>>),
    /// In Redis, for all nodes.
    Redis(RedisConnection),
}

/// The identity of a ticket. The ticket itself is not stored, so this record cannot be used as one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TicketRecord {
    /// Names, or prefixes followed by `*`; the second field distinguishes them.
    subscribe: Vec<(String, bool)>,
    /// Seconds since 1970.
    until: Option<f64>,
    user: Option<String>,
    token_id: Option<String>,
}

/// Keys in Redis: below the log's, so that one permission covers both.
const KEY_PREFIX: &str = "headwater:{0}:ticket:";

impl Tickets {
    pub(crate) fn new(redis: Option<RedisConnection>) -> Self {
        match redis {
            Some(commands) => Self::Redis(commands),
            None => Self::Memory(Mutex::default()),
        }
    }

    /// Issues a ticket.
    pub(crate) async fn issue(&self, identity: &Identity) -> Result<Secret, Denied> {
        let ticket = random().ok_or_else(Denied::unavailable)?;
        let (key, kept) = (key_of(ticket.expose()), TicketRecord::new(identity));
        match self {
            Self::Memory(table) => {
                let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
                let now = Instant::now();
                if table.len() >= TICKETS_MAX {
                    table.retain(|_, (until, _)| *until > now);
                }
                if table.len() >= TICKETS_MAX {
                    tracing::warn!("{TICKETS_MAX} unused tickets: no more are issued");
                    return Err(Denied::unavailable());
                }
                table.insert(key, (now + TICKET_TIME, kept));
            }
            Self::Redis(commands) => {
                let text = serde_json::to_string(&kept).map_err(|_| Denied::unavailable())?;
                let mut set = redis::cmd("SET");
                set.arg(KEY_PREFIX.to_owned() + &key).arg(text);
                set.arg("EX").arg(TICKET_TIME.as_secs());
                set.exec_async(&mut commands.clone()).await.map_err(|error| unavailable(&error))?;
            }
        }
        Ok(ticket)
    }

    /// The identity of a ticket, which is spent by this call.
    pub(crate) async fn redeem(&self, ticket: &str) -> Result<Identity, Denied> {
        let key = key_of(ticket);
        let kept = match self {
            Self::Memory(table) => {
                let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
                let found = table.remove(&key).filter(|(until, _)| *until > Instant::now());
                found.map(|(_, kept)| kept)
            }
            Self::Redis(commands) => {
                let mut redeem = redis::cmd("GETDEL");
                redeem.arg(KEY_PREFIX.to_owned() + &key);
                let taken: Result<Option<Vec<u8>>, _> =
                    redeem.query_async(&mut commands.clone()).await;
                let text = taken.map_err(|error| unavailable(&error))?;
                text.and_then(|text| serde_json::from_slice(&text).ok())
            }
        };
        let identity = kept.map(TicketRecord::identity).ok_or_else(Denied::bad_credentials)?;
        if identity.until.is_some_and(|until| until <= SystemTime::now()) {
            return Err(Denied::bad_credentials());
        }
        Ok(identity)
    }
}

fn unavailable(error: &redis::RedisError) -> Denied {
    tracing::warn!("tickets unavailable, request denied: {error}");
    Denied::unavailable()
}

impl TicketRecord {
    fn new(identity: &Identity) -> Self {
        let split = |pattern: &ChannelPattern| {
            let text = pattern.to_string();
            match text.strip_suffix('*') {
                Some(beginning) if !pattern.is_exact() => (beginning.to_owned(), true),
                _ => (text, false),
            }
        };
        Self {
            subscribe: identity.subscribe.iter().map(split).collect(),
            until: identity.until.map(seconds_since_1970),
            user: identity.user.clone(),
            token_id: identity.token_id.clone(),
        }
    }

    fn identity(self) -> Identity {
        let pattern = |(text, is_beginning): (String, bool)| {
            if is_beginning {
                return ChannelPattern::beginning(text).ok();
            }
            headwater::Channel::new(text).ok().map(ChannelPattern::exact)
        };
        Identity {
            subscribe: self.subscribe.into_iter().filter_map(pattern).collect(),
            // An invalid time counts as expired.
            until: self.until.map(|until| time_of(until).unwrap_or(UNIX_EPOCH)),
            user: self.user,
            token_id: self.token_id,
            ..Identity::default()
        }
    }
}

/// 256 random bits; `None` if the system has none.
pub(crate) fn random() -> Option<Secret> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).ok()?;
    Some(Secret::new(URL_SAFE_NO_PAD.encode(bytes)))
}

fn key_of(ticket: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, ticket.as_bytes()))
}

#[cfg(test)]
mod tests {
    use headwater::Channel;
    use headwater::access::Action;

    use super::*;
    use std::time::Duration;

    fn identity() -> Identity {
        Identity {
            subscribe: vec![
                ChannelPattern::new("news:*").unwrap(),
                ChannelPattern::exact(Channel::new("a*").unwrap()),
            ],
            until: Some(SystemTime::now() + Duration::from_secs(60)),
            user: Some("42".into()),
            token_id: Some("j".into()),
            ..Identity::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_ticket_is_valid_once_and_for_a_limited_time() {
        let tickets = Tickets::new(None);
        let made = tickets.issue(&identity()).await.unwrap();
        assert_eq!(format!("{made:?}"), "…");
        let ticket = made.expose();
        assert_eq!(ticket.len(), 43);
        let taken = tickets.redeem(ticket).await.unwrap();
        assert_eq!((taken.user.as_deref(), taken.token_id.as_deref()), (Some("42"), Some("j")));
        let channel = |name: &str| [Channel::new(name).unwrap()];
        let allows = |name: &str| taken.allows(Action::Subscribe, &channel(name), |_| false);
        assert!(allows("news:a") && allows("a*") && !allows("ab") && !allows("news"));
        assert_eq!(tickets.redeem(ticket).await, Err(Denied::bad_credentials()));
        let late = tickets.issue(&identity()).await.unwrap();
        tokio::time::advance(TICKET_TIME).await;
        assert_eq!(tickets.redeem(late.expose()).await, Err(Denied::bad_credentials()));
        assert_eq!(tickets.redeem("").await, Err(Denied::bad_credentials()));
    }

    #[tokio::test(start_paused = true)]
    async fn tickets_are_bounded() {
        let tickets = Tickets::new(None);
        for _ in 0..TICKETS_MAX {
            tickets.issue(&identity()).await.unwrap();
        }
        assert!(tickets.issue(&identity()).await.is_err());
        tokio::time::advance(TICKET_TIME).await;
        assert!(tickets.issue(&identity()).await.is_ok(), "those that are over make room");
    }
}
