//! One-time tickets, for clients that cannot send headers. Look here for their lifetime, where they
//! are stored, and how many a client may have.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use headwater::access::{Denied, RevocationMark};
use headwater::budget::{Account, Taken};
use headwater::channel::ChannelPattern;
use headwater::redis::RedisConnection;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::identity::Identity;
use super::time::{seconds_since_1970, time_of};
use crate::client::{AddressKey, OneRate, RateLimit};
use crate::limits::{
    TICKET_BYTES, TICKET_CHANNEL_BYTES, TICKET_SHARES, TICKET_SWEEP, TICKET_TIME,
    TICKETS_IN_REDIS_MAX, TICKETS_PER_CLIENT_MAX,
};
use crate::settings::{Rate, Secret};
use crate::throttled_log::ThrottledLog;

/// The tickets that wait to be redeemed.
pub(crate) struct Tickets {
    store: Store,
    /// By user, or by address if the ticket has no user.
    per_client: RateLimit,
    warnings: ThrottledLog,
}

/// Where tickets are stored.
enum Store {
    /// In this process, within a share of its memory.
    Memory(Mutex<Table>, Account),
    /// In Redis, for all nodes. The rate bounds what this node stores there.
    Redis(RedisConnection, OneRate),
}

struct Table {
    tickets: HashMap<String, InMemory>,
    /// When those that are over were removed last.
    swept: Instant,
}

struct InMemory {
    until: Instant,
    mark: RevocationMark,
    record: TicketRecord,
    _memory: Taken,
}

/// The moment of the decision that a ticket stands for.
pub(super) struct TicketMark {
    mark: RevocationMark,
    /// By the clock of Redis, which all nodes share, in milliseconds since 1970; and when it had
    /// said so.
    redis_ms: Option<(u64, Instant)>,
}

/// Whom a ticket is counted for.
#[derive(Hash)]
enum Owner<'a> {
    User(&'a str),
    Address(Option<AddressKey>),
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
    /// When it was decided, in milliseconds since 1970. Nodes of earlier versions do not write it:
    /// any revocation that concerns their tickets then counts as later.
    #[serde(default)]
    decided_ms: u64,
}

/// Keys in Redis: below the log's, so that one permission covers both.
const KEY_PREFIX: &str = "headwater:{0}:ticket:";

impl Tickets {
    pub(crate) fn new(redis: Option<RedisConnection>, account: Account) -> Self {
        let rate = |count| Rate { count, per: TICKET_TIME };
        let store = if let Some(commands) = redis {
            Store::Redis(commands, OneRate::new(rate(TICKETS_IN_REDIS_MAX)))
        } else {
            let table = Table { tickets: HashMap::new(), swept: Instant::now() };
            Store::Memory(Mutex::new(table), account)
        };
        let per_client = RateLimit::new(rate(TICKETS_PER_CLIENT_MAX));
        Self { store, per_client, warnings: ThrottledLog::default() }
    }

    /// A mark for a ticket that was decided, `mark` being that of this node from before. The time
    /// of the decision has to be set with [`TicketMark::at`].
    pub(super) async fn mark(&self, mark: RevocationMark) -> Result<TicketMark, Denied> {
        let redis_ms = match &self.store {
            Store::Memory(..) => None,
            Store::Redis(commands, _) => {
                let time = redis::cmd("TIME").query_async(&mut commands.clone()).await;
                let (seconds, microseconds): (u64, u64) =
                    time.map_err(|error| self.unavailable(&error))?;
                Some((seconds * 1_000 + microseconds / 1_000, Instant::now()))
            }
        };
        Ok(TicketMark { mark, redis_ms })
    }

    /// Issues a ticket to a client at this address.
    pub(super) async fn issue(
        &self,
        identity: &Identity,
        TicketMark { mark, redis_ms }: TicketMark,
        address: Option<AddressKey>,
    ) -> Result<Secret, Denied> {
        let owner = identity.user.as_deref().map_or(Owner::Address(address), Owner::User);
        // Before anything is made: a refusal must cost less than a ticket.
        self.take(&owner, 0)?;
        let ticket = random().ok_or_else(Denied::unavailable)?;
        let record = TicketRecord::new(identity, redis_ms.map_or(0, |(time_ms, _)| time_ms));
        let key = key_of(ticket.expose());
        let bytes = key.len() + record.bytes();
        self.take(&owner, self.weight(bytes))?;
        match &self.store {
            Store::Memory(table, account) => {
                let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
                let now = Instant::now();
                if account.used() + bytes > account.limit() && now >= table.swept + TICKET_SWEEP {
                    table.swept = now;
                    table.tickets.retain(|_, kept| kept.until > now);
                }
                let memory = account.try_take(bytes).ok_or_else(|| self.full())?;
                let until = now + TICKET_TIME;
                table.tickets.insert(key, InMemory { until, mark, record, _memory: memory });
            }
            Store::Redis(commands, rate) => {
                rate.take(1).map_err(|_| self.full())?;
                let text = serde_json::to_string(&record).map_err(|_| Denied::unavailable())?;
                let mut set = redis::cmd("SET");
                set.arg(KEY_PREFIX.to_owned() + &key).arg(text);
                set.arg("EX").arg(TICKET_TIME.as_secs());
                let set = set.exec_async(&mut commands.clone()).await;
                set.map_err(|error| self.unavailable(&error))?;
            }
        }
        Ok(ticket)
    }

    /// The identity of a ticket, which is spent by this call, and when it was decided.
    pub(super) async fn redeem(&self, ticket: &str) -> Result<(Identity, RevocationMark), Denied> {
        let key = key_of(ticket);
        let found = match &self.store {
            Store::Memory(table, _) => {
                let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
                let found = table.tickets.remove(&key).filter(|kept| kept.until > Instant::now());
                found.map(|kept| (kept.record, kept.mark))
            }
            Store::Redis(commands, _) => {
                let mut redeem = redis::cmd("GETDEL");
                redeem.arg(KEY_PREFIX.to_owned() + &key);
                let taken: Result<Option<Vec<u8>>, _> =
                    redeem.query_async(&mut commands.clone()).await;
                let text = taken.map_err(|error| self.unavailable(&error))?;
                let record = text.and_then(|text| serde_json::from_slice(&text).ok());
                record.map(|record: TicketRecord| {
                    let mark = RevocationMark::at_ms(record.decided_ms);
                    (record, mark)
                })
            }
        };
        let (record, mark) = found.ok_or_else(Denied::bad_credentials)?;
        Ok((record.identity(), mark))
    }

    fn take(&self, owner: &Owner<'_>, count: usize) -> Result<(), Denied> {
        self.per_client.take(owner, count).map_err(|_| Denied::too_many_requests())
    }

    /// As how many tickets of a client one of this size counts: those of one client take a part of
    /// the share of the memory at most.
    fn weight(&self, bytes: usize) -> usize {
        match &self.store {
            Store::Memory(_, account) => {
                let of_client = account.limit() / TICKET_SHARES;
                bytes.div_ceil((of_client / TICKETS_PER_CLIENT_MAX as usize).max(1))
            }
            Store::Redis(..) => 1,
        }
    }

    fn full(&self) -> Denied {
        self.warnings.warn(|more| {
            tracing::warn!(more, "too many unused tickets: no more are issued");
        });
        Denied::unavailable()
    }

    fn unavailable(&self, error: &redis::RedisError) -> Denied {
        self.warnings.warn(|more| {
            tracing::warn!(more, "tickets unavailable, request denied: {error}");
        });
        Denied::unavailable()
    }
}

impl TicketMark {
    /// The mark of a decision that was made at this time, which may be earlier: this node may not
    /// have heard yet what was revoked since.
    pub(super) fn at(mut self, decided: Instant) -> Self {
        if let Some((time_ms, known)) = &mut self.redis_ms {
            let earlier = known.saturating_duration_since(decided).as_millis();
            *time_ms = time_ms.saturating_sub(u64::try_from(earlier).unwrap_or(u64::MAX));
        }
        self
    }
}

impl TicketRecord {
    fn new(identity: &Identity, decided_ms: u64) -> Self {
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
            decided_ms,
        }
    }

    /// What it takes of memory while it waits, with its place in the table.
    fn bytes(&self) -> usize {
        let channels = self.subscribe.iter().map(|(name, _)| name.len() + TICKET_CHANNEL_BYTES);
        let owner = [&self.user, &self.token_id].into_iter().flatten().map(String::len);
        TICKET_BYTES + channels.chain(owner).sum::<usize>()
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

    use std::time::{Duration, SystemTime};

    use super::*;

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

    async fn issue(tickets: &Tickets, user: Option<&str>) -> Result<Secret, Denied> {
        let mark = tickets.mark(RevocationMark::at_ms(0)).await?;
        let identity = Identity { user: user.map(Into::into), ..identity() };
        tickets.issue(&identity, mark, None).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_ticket_is_redeemed_once_in_time() {
        let tickets = Tickets::new(None, Account::of(1 << 20));
        let redeem =
            async |ticket: &str| tickets.redeem(ticket).await.map(|(identity, _)| identity);
        let ticket = issue(&tickets, Some("42")).await.unwrap();
        let ticket = ticket.expose();
        assert_eq!(ticket.len(), 43);
        let taken = redeem(ticket).await.unwrap();
        assert_eq!((taken.user.as_deref(), taken.token_id.as_deref()), (Some("42"), Some("j")));
        let channel = |name: &str| [Channel::new(name).unwrap()];
        let allows = |name: &str| taken.allows(Action::Subscribe, &channel(name), |_| false);
        assert!(allows("news:a") && allows("a*") && !allows("ab") && !allows("news"));
        assert_eq!(redeem(ticket).await, Err(Denied::bad_credentials()));
        let late = issue(&tickets, None).await.unwrap();
        tokio::time::advance(TICKET_TIME).await;
        assert_eq!(redeem(late.expose()).await, Err(Denied::bad_credentials()));
        assert_eq!(redeem("").await, Err(Denied::bad_credentials()));
    }

    #[test]
    fn a_ticket_is_as_old_as_the_answer_that_it_stands_for() {
        let known = Instant::now() + Duration::from_secs(10);
        for (earlier_ms, expected) in [(0, 5_000), (1_900, 3_100), (9_000, 0)] {
            let decided = known.checked_sub(Duration::from_millis(earlier_ms)).unwrap();
            let mark = RevocationMark::at_ms(0);
            let mark = TicketMark { mark, redis_ms: Some((5_000, known)) }.at(decided);
            assert_eq!(mark.redis_ms.map(|(time_ms, _)| time_ms), Some(expected), "{earlier_ms}");
        }
        let later = TicketMark { mark: RevocationMark::at_ms(0), redis_ms: Some((5_000, known)) };
        let later = later.at(known + Duration::from_secs(1));
        assert_eq!(later.redis_ms.map(|(time_ms, _)| time_ms), Some(5_000));
    }

    #[tokio::test(start_paused = true)]
    async fn tickets_are_bounded() {
        let account = Account::of(64 << 10);
        let tickets = Tickets::new(None, account.clone());
        let mut issued = Vec::new();
        while let Ok(ticket) = issue(&tickets, Some(&issued.len().to_string())).await {
            issued.push(ticket);
        }
        assert!((50..200).contains(&issued.len()), "{}", issued.len());
        assert_eq!(issue(&tickets, Some("x")).await, Err(Denied::unavailable()));
        assert_eq!(account.refusals(), 2);
        assert!(tickets.redeem(issued[0].expose()).await.is_ok());
        assert!(issue(&tickets, Some("x")).await.is_ok(), "one that was used makes room");
        tokio::time::advance(TICKET_TIME).await;
        assert!(issue(&tickets, Some("x")).await.is_ok(), "those that are over make room");
        assert!(account.used() < 2_000, "{}", account.used());
    }

    #[tokio::test(start_paused = true)]
    async fn one_client_does_not_use_up_the_tickets() {
        for user in [Some("42"), None] {
            let tickets = Tickets::new(None, Account::of(16 << 20));
            let mut issued = 0;
            while issue(&tickets, user).await.is_ok() {
                issued += 1;
            }
            // The bucket refills while they are counted.
            assert!((TICKETS_PER_CLIENT_MAX..=2 * TICKETS_PER_CLIENT_MAX).contains(&issued));
            assert_eq!(issue(&tickets, user).await, Err(Denied::too_many_requests()));
            assert!(issue(&tickets, Some("other")).await.is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn large_tickets_of_one_client_leave_room_for_those_of_others() {
        let account = Account::of(1 << 20);
        let tickets = Tickets::new(None, account.clone());
        let name = |at| format!("{at:02}{}", "n".repeat(200));
        let channel = |at| ChannelPattern::exact(Channel::new(name(at)).unwrap());
        let issue = async |user: &str| {
            let subscribe = (0..100).map(channel).collect();
            let identity = Identity { subscribe, user: Some(user.into()), ..identity() };
            let mark = tickets.mark(RevocationMark::at_ms(0)).await?;
            tickets.issue(&identity, mark, None).await
        };
        let mut issued = 0;
        let refused = loop {
            match issue("greedy").await {
                Ok(_) => issued += 1,
                Err(denied) => break denied,
            }
        };
        assert!(issued > 5, "{issued}");
        assert_eq!(refused, Denied::too_many_requests());
        // The last may exceed it.
        let most = account.limit() / TICKET_SHARES + account.used() / issued;
        assert!(account.used() <= most, "{} of {}", account.used(), account.limit());
        assert!(issue("other").await.is_ok());
        assert_eq!(account.refusals(), 0);
    }
}
