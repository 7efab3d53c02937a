//! Streams that have an owner, and revoked tokens. Look here for which streams a revocation closes.
//! A stream without an owner is not registered and costs nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use super::revoked::RevokedLately;
use crate::budget::Account;
use crate::channel::Channel;
use crate::limits::{OWNER_ID_BYTES_MAX, REVOKED_TOKENS_MAX};
use crate::revocation::{Revocation, RevocationMark};
use crate::stream::mailbox::{Mailbox, Message, Revoked};
use crate::stream::queue::Queue;

pub(super) struct Registry {
    state: Mutex<State>,
}

struct State {
    /// The last number that was assigned to a stream.
    last: u64,
    streams: HashMap<u64, Owned>,
    /// Revoked tokens: their IDs, each with the end of its revocation.
    tokens: HashMap<String, SystemTime>,
    token_bytes: usize,
    lately: RevokedLately,
    account: Account,
}

/// What a revoked token costs besides its ID, and what one may cost at most.
const TOKEN_BYTES: usize = 96;
const TOKEN_BYTES_MAX: usize = TOKEN_BYTES + OWNER_ID_BYTES_MAX;

/// How a stream is reached.
enum Target {
    /// Through the queue of its subscription.
    Queue(Weak<Queue>),
    /// Through the shard that it is attached to.
    Shard(Arc<Mailbox>),
}

/// A stream and its owner.
struct Owned {
    target: Target,
    user: Option<Box<str>>,
    token: Option<Box<str>>,
}

impl Registry {
    /// Three quarters of the share are for tokens, the rest is for what was revoked lately.
    pub(super) fn new(account: Account) -> Self {
        let lately = RevokedLately::new(account.clone(), account.limit() / 4);
        Self {
            state: Mutex::new(State {
                last: 0,
                streams: HashMap::new(),
                tokens: HashMap::new(),
                token_bytes: 0,
                lately,
                account,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a stream; returns its number. A stream whose token is already revoked is closed at
    /// once.
    pub(super) fn insert(
        &self,
        queue: &Arc<Queue>,
        user: Option<&str>,
        token: Option<&str>,
    ) -> u64 {
        let mut state = self.state();
        if token.is_some_and(|token| state.is_revoked(token)) {
            queue.revoke();
        }
        state.last += 1;
        let number = state.last;
        let (user, token) = (user.map(Into::into), token.map(Into::into));
        state
            .streams
            .insert(number, Owned { target: Target::Queue(Arc::downgrade(queue)), user, token });
        number
    }

    /// Records that a stream was attached to a shard. `is_late` returns whether a revocation closed
    /// its queue during that, too late for the shard to notice; then the shard revokes the stream.
    pub(super) fn attach(
        &self,
        number: u64,
        mailbox: &Arc<Mailbox>,
        is_late: impl FnOnce() -> bool,
    ) {
        let mut state = self.state();
        // A shard that failed meanwhile has removed its streams already, but not this one.
        if mailbox.is_closed() {
            state.streams.remove(&number);
        }
        let Some(owned) = state.streams.get_mut(&number) else { return };
        owned.target = Target::Shard(Arc::clone(mailbox));
        if is_late() {
            owned.target.revoke(number);
        }
    }

    /// Removes all streams of a shard that is gone.
    pub(super) fn remove_shard(&self, gone: &Arc<Mailbox>) {
        let is_gone =
            |target: &Target| matches!(target, Target::Shard(it) if Arc::ptr_eq(it, gone));
        self.state().streams.retain(|_, owned| !is_gone(&owned.target));
    }

    pub(super) fn remove(&self, number: u64) {
        let mut state = self.state();
        state.streams.remove(&number);
        // Frees the memory of a table that was much larger.
        if state.streams.capacity() > 1024 && state.streams.len() < state.streams.capacity() / 4 {
            state.streams.shrink_to_fit();
        }
    }

    /// The number of streams that have an owner.
    pub(super) fn streams(&self) -> usize {
        self.state().streams.len()
    }

    /// Whether the token with this ID is revoked. A revocation ends when the token would expire.
    pub(super) fn is_revoked(&self, token: &str) -> bool {
        self.state().is_revoked(token)
    }

    /// A mark for a decision that begins now.
    pub(super) fn mark(&self) -> RevocationMark {
        self.state().lately.mark()
    }

    /// Whether a decision that began at a mark was revoked since: its user, its token, or one of
    /// its channels.
    pub(super) fn is_revoked_since(
        &self,
        mark: RevocationMark,
        user: Option<&str>,
        token: Option<&str>,
        channels: &[Channel],
    ) -> bool {
        let state = self.state();
        token.is_some_and(|token| state.is_revoked(token))
            || state.lately.is_revoked_since(mark, user, channels)
    }

    /// Adds the broker's time to a revocation that was made here.
    pub(super) fn set_time(&self, revocation: &Revocation, time_ms: u64) {
        self.state().lately.set_time(revocation, time_ms);
    }

    /// Remembers a revocation, and closes the streams of a user or of a token, or one stream by its
    /// number. It scans all streams: revocations are rare. `time_ms` is 0 if the broker has not
    /// said when it was made.
    pub(super) fn revoke(
        &self,
        revocation: &Revocation,
        time_ms: u64,
        number_of: impl Fn(&str) -> Option<u64>,
    ) {
        let mut state = self.state();
        state.lately.remember(revocation, time_ms);
        if let Revocation::Token { id, until } = revocation {
            state.revoke_token(id, *until);
        }
        let number = match revocation {
            Revocation::Stream(id) => number_of(id),
            _ => None,
        };
        let mut of_shards: Vec<(&Arc<Mailbox>, Vec<u64>)> = Vec::new();
        for (at, Owned { target, user, token }) in &state.streams {
            let is_revoked = match revocation {
                Revocation::User(id) => user.as_deref() == Some(id),
                Revocation::Token { id, .. } => token.as_deref() == Some(id),
                Revocation::Stream(_) => Some(*at) == number,
                Revocation::Channel(_) => false,
            };
            if !is_revoked {
                continue;
            }
            let Target::Shard(mailbox) = target else {
                target.revoke(*at);
                continue;
            };
            match of_shards.iter_mut().find(|(it, _)| Arc::ptr_eq(it, mailbox)) {
                Some((_, numbers)) => numbers.push(*at),
                None => of_shards.push((mailbox, vec![*at])),
            }
        }
        for (mailbox, numbers) in of_shards {
            revoke_on(mailbox, numbers);
        }
    }
}

/// Revokes streams of a shard, which scans its streams once. A shard that is gone has none.
fn revoke_on(mailbox: &Mailbox, mut numbers: Vec<u64>) {
    numbers.sort_unstable();
    let _ = mailbox.push(Message::Revoke(Revoked::Streams(numbers.into())));
}

impl Target {
    fn revoke(&self, number: u64) {
        match self {
            Self::Queue(queue) => {
                if let Some(queue) = queue.upgrade() {
                    queue.revoke();
                }
            }
            Self::Shard(mailbox) => revoke_on(mailbox, vec![number]),
        }
    }
}

impl State {
    fn is_revoked(&self, token: &str) -> bool {
        self.tokens.get(token).is_some_and(|until| *until > SystemTime::now())
    }

    fn revoke_token(&mut self, token: &str, until: SystemTime) {
        if let Some(known) = self.tokens.get_mut(token) {
            *known = until.max(*known);
            return;
        }
        if self.is_full() {
            let now = SystemTime::now();
            self.forget_expired(now);
        }
        while self.is_full() && !self.tokens.is_empty() {
            // The revocation with the shortest time left makes room.
            tracing::error!(
                tokens = self.tokens.len(),
                "too many tokens are revoked: the one that expires first is accepted again; change \
                 the keys instead, or raise the memory"
            );
            let first = self.tokens.iter().min_by_key(|(_, until)| **until);
            if let Some(first) = first.map(|(token, _)| token.clone()) {
                self.tokens.remove(&first);
                self.give_back(TOKEN_BYTES + first.len());
            }
            self.account.evicted(1);
        }
        self.token_bytes += TOKEN_BYTES + token.len();
        self.account.add(TOKEN_BYTES + token.len());
        self.tokens.insert(token.to_owned(), until);
    }

    fn forget_expired(&mut self, now: SystemTime) {
        let mut bytes = 0;
        self.tokens.retain(|token, until| {
            let stays = *until > now;
            bytes += if stays { 0 } else { TOKEN_BYTES + token.len() };
            stays
        });
        self.give_back(bytes);
    }

    fn give_back(&mut self, bytes: usize) {
        self.token_bytes -= bytes;
        self.account.remove(bytes);
    }

    /// Whether there may be no room for one more.
    fn is_full(&self) -> bool {
        self.tokens.len() >= REVOKED_TOKENS_MAX
            || self.token_bytes + TOKEN_BYTES_MAX > self.account.limit() / 4 * 3
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::close::CloseReason;

    #[test]
    fn a_revocation_closes_exactly_the_streams_it_names() {
        let registry = Registry::new(Account::of(1 << 20));
        let queues: Vec<_> = (0..4).map(|_| Arc::new(Queue::new(1, 1))).collect();
        let owners = [(Some("ann"), Some("t1")), (Some("bob"), Some("t2")), (None, None)];
        for (queue, (user, token)) in queues.iter().zip(owners) {
            registry.insert(queue, user, token);
        }
        let closed = || queues.iter().map(|queue| queue.closed().is_some()).collect::<Vec<_>>();
        let number = |id: &str| id.parse().ok();
        registry.revoke(&Revocation::User("eve".into()), 0, number);
        registry.revoke(&Revocation::Stream("99".into()), 0, number);
        assert_eq!(closed(), [false; 4]);
        registry.revoke(&Revocation::User("ann".into()), 0, number);
        assert_eq!(closed(), [true, false, false, false]);
        assert_eq!(queues[0].closed(), Some(CloseReason::Revoked));
        let until = SystemTime::now() + Duration::from_secs(60);
        registry.revoke(&Revocation::Token { id: "t2".into(), until }, 0, number);
        assert_eq!(closed(), [true, true, false, false]);
        registry.revoke(&Revocation::Stream("3".into()), 0, number);
        assert_eq!(closed(), [true, true, true, false]);
        assert!(registry.is_revoked("t2") && !registry.is_revoked("t1"));
        registry.insert(&queues[3], None, Some("t2"));
        assert_eq!(queues[3].closed(), Some(CloseReason::Revoked), "its token was revoked before");
    }

    #[test]
    fn a_token_stays_revoked_until_its_latest_expiry() {
        let registry = Registry::new(Account::of(1 << 20));
        let revoke = |until| {
            registry.revoke(&Revocation::Token { id: "t".into(), until }, 0, |_| None);
        };
        revoke(SystemTime::now() - Duration::from_secs(1));
        assert!(!registry.is_revoked("t"));
        revoke(SystemTime::now() + Duration::from_secs(60));
        revoke(SystemTime::now() - Duration::from_secs(1));
        assert!(registry.is_revoked("t"));
    }

    #[test]
    fn a_full_share_forgets_the_token_that_expires_first() {
        let account = Account::of(16 << 10);
        let registry = Registry::new(account.clone());
        let until = |seconds| SystemTime::now() + Duration::from_secs(seconds);
        let revoke = |id: String, until| {
            registry.revoke(&Revocation::Token { id, until }, 0, |_| None);
        };
        for number in 0..1_000 {
            revoke(format!("over {number}"), SystemTime::now());
        }
        assert_eq!(account.evictions(), 0, "what has expired goes first");
        for number in 0..1_000 {
            revoke(number.to_string(), until(60 + number));
        }
        assert!(account.evictions() > 0 && account.used() <= account.limit());
        assert!(!registry.is_revoked("0") && registry.is_revoked("999"));
    }
}
