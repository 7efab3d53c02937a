//! What was revoked lately, so that nothing that was decided before a revocation opens a stream
//! after it. Look here for how decisions and revocations are ordered.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use crate::budget::Account;
use crate::channel::Channel;
use crate::limits::REVOCATIONS_REMEMBERED_MAX;
use crate::revocation::{Moment, Revocation, RevocationMark};

/// The latest revocation of each user and channel. Names are remembered as keyed hashes of 64 bits:
/// their length costs nothing, and two that are equal would only deny too much.
pub(super) struct RevokedLately {
    account: Account,
    count_max: usize,
    hasher: RandomState,
    /// The number of the last revocation.
    last: u64,
    latest: HashMap<u64, At>,
    /// The latest of those that were forgotten for lack of room: what was decided before it counts
    /// as revoked.
    forgotten: Option<At>,
}

/// When something was revoked.
#[derive(Clone, Copy, PartialEq, Eq)]
struct At {
    /// By the order in which this node heard of it.
    number: u64,
    /// By the broker's clock, in milliseconds since 1970; 0 until the broker has said.
    time_ms: u64,
}

#[derive(Hash)]
enum Subject<'a> {
    User(&'a str),
    Channel(&'a str),
}

/// What one costs: an entry of the table, which is half empty at worst.
const COST_BYTES: usize = 64;

impl RevokedLately {
    /// Remembers as many as fit these bytes of a share.
    pub(super) fn new(account: Account, bytes_max: usize) -> Self {
        Self {
            account,
            count_max: REVOCATIONS_REMEMBERED_MAX.min(bytes_max / COST_BYTES),
            hasher: RandomState::new(),
            last: 0,
            latest: HashMap::new(),
            forgotten: None,
        }
    }

    /// A mark for a decision that begins now.
    pub(super) fn mark(&self) -> RevocationMark {
        RevocationMark(Moment::Number(self.last))
    }

    /// Remembers a revocation. One that is heard of again, with the same time, changes nothing.
    pub(super) fn remember(&mut self, revocation: &Revocation, time_ms: u64) {
        let Some(key) = self.key_of(revocation) else { return };
        let known = self.latest.get(&key);
        if known.is_some_and(|known| time_ms > 0 && known.time_ms == time_ms) {
            return;
        }
        let time_ms = time_ms.max(known.map_or(0, |known| known.time_ms));
        if known.is_none() {
            if self.latest.len() >= self.count_max {
                self.forget_all();
            }
            self.account.add(COST_BYTES);
        }
        self.last += 1;
        self.latest.insert(key, At { number: self.last, time_ms });
    }

    /// Adds the broker's time to a revocation that was remembered without one.
    pub(super) fn set_time(&mut self, revocation: &Revocation, time_ms: u64) {
        let key = self.key_of(revocation);
        if let Some(at) = key.and_then(|key| self.latest.get_mut(&key)) {
            at.time_ms = at.time_ms.max(time_ms);
        }
    }

    fn forget_all(&mut self) {
        let time_ms = self.latest.values().map(|at| at.time_ms).max().unwrap_or(0);
        self.account.remove(COST_BYTES * self.latest.len());
        self.account.evicted(self.latest.len() as u64);
        self.latest.clear();
        self.forgotten = Some(At { number: self.last, time_ms });
    }

    /// Whether a decision about this user or one of these channels was revoked after its mark.
    pub(super) fn is_revoked_since(
        &self,
        mark: RevocationMark,
        user: Option<&str>,
        channels: &[Channel],
    ) -> bool {
        let is_later = |at: At| match mark.0 {
            Moment::Number(number) => at.number > number,
            // Within one millisecond the order is not known.
            Moment::TimeMs(time_ms) => at.time_ms >= time_ms,
        };
        let user = user.map(Subject::User);
        let channels = channels.iter().map(|channel| Subject::Channel(channel.as_str()));
        let mut subjects = user.into_iter().chain(channels);
        self.forgotten.is_some_and(is_later)
            || !self.latest.is_empty()
                && subjects.any(|subject| {
                    let key = self.hasher.hash_one(subject);
                    self.latest.get(&key).is_some_and(|at| is_later(*at))
                })
    }

    /// `None` for what has a record of its own: tokens, and streams, which are closed for good.
    fn key_of(&self, revocation: &Revocation) -> Option<u64> {
        let subject = match revocation {
            Revocation::User(user) => Subject::User(user),
            Revocation::Channel(channel) => Subject::Channel(channel.as_str()),
            Revocation::Stream(_) | Revocation::Token { .. } => return None,
        };
        Some(self.hasher.hash_one(subject))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> Revocation {
        Revocation::User(name.into())
    }

    #[test]
    fn a_revocation_concerns_what_was_decided_before_it() {
        let channel = |name: &str| [Channel::new(name).unwrap()];
        let mut revoked = RevokedLately::new(Account::of(1 << 20), 1 << 20);
        let is_revoked = |revoked: &RevokedLately, mark, user, name| {
            revoked.is_revoked_since(mark, user, &channel(name))
        };
        let before = revoked.mark();
        revoked.remember(&user("ann"), 0);
        revoked.remember(&Revocation::Channel(channel("news")[0].clone()), 0);
        let after = revoked.mark();
        for (user, name, expected) in [
            (Some("ann"), "a", true),
            (Some("bob"), "a", false),
            (None, "a", false),
            (None, "news", true),
            // A user and a channel of one name are two things.
            (Some("news"), "ann", false),
        ] {
            assert_eq!(is_revoked(&revoked, before, user, name), expected, "{user:?} {name}");
            assert!(!is_revoked(&revoked, after, user, name), "{user:?} {name}");
        }
        // The broker's time, and the same revocation from the broker.
        revoked.set_time(&user("ann"), 1_000);
        revoked.remember(&user("ann"), 1_000);
        assert!(!is_revoked(&revoked, after, Some("ann"), "a"));
        for (time_ms, expected) in [(999, true), (1_000, true), (1_001, false)] {
            let mark = RevocationMark::at_ms(time_ms);
            assert_eq!(is_revoked(&revoked, mark, Some("ann"), "a"), expected, "{time_ms}");
        }
        revoked.remember(&user("ann"), 2_000);
        assert!(is_revoked(&revoked, after, Some("ann"), "a"), "it is another revocation");
    }

    #[test]
    fn what_is_forgotten_denies() {
        let account = Account::of(1 << 20);
        let mut revoked = RevokedLately::new(account.clone(), 1_000 * COST_BYTES);
        let before = revoked.mark();
        for number in 0..=1_000 {
            revoked.remember(&user(&number.to_string()), 1_000);
        }
        assert_eq!((revoked.latest.len(), account.used()), (1, COST_BYTES));
        assert_eq!(account.evictions(), 1_000);
        assert!(revoked.is_revoked_since(before, Some("0"), &[]));
        assert!(revoked.is_revoked_since(RevocationMark::at_ms(1_000), Some("0"), &[]));
        assert!(!revoked.is_revoked_since(revoked.mark(), Some("0"), &[]));
        assert!(!revoked.is_revoked_since(RevocationMark::at_ms(1_001), Some("0"), &[]));
    }
}
