//! The memory that a node may keep, and its shares. Look here for how much of it each kind of state
//! may use, and for what counts as full.
//!
//! A part that keeps state has an [`Account`] of its share, adds what it keeps, and removes what it
//! drops. When the share is full it drops its oldest, or refuses the request; the account counts
//! both. An account is a few relaxed atomics: it never blocks.

mod machine;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::counter::Counter;
use crate::limits::{
    BODIES_SHARE_BYTES_MAX, BUDGET_BYTES_MIN, BUDGET_PERCENT, CHANNELS_SHARE_BYTES_MAX,
    KEYS_SHARE_BYTES_MAX, RING_TOTAL_BYTES_MAX,
};

/// What a share is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Share {
    /// Events of the embedded log.
    Log,
    /// Recent events in the rings of channels.
    Rings,
    /// What the embedded log remembers of channels, with or without events.
    Channels,
    /// Idempotency keys of the embedded log.
    Keys,
    /// Bodies of requests in flight.
    Bodies,
    /// Pages of history that wait for streams that replay.
    Replays,
    /// Buffers of connections over HTTP/2.
    Connections,
    /// Tickets that wait to be used.
    Tickets,
    /// Revocations.
    Revocations,
}

impl Share {
    /// All shares.
    pub const ALL: [Self; 9] = [
        Self::Log,
        Self::Rings,
        Self::Channels,
        Self::Keys,
        Self::Bodies,
        Self::Replays,
        Self::Connections,
        Self::Tickets,
        Self::Revocations,
    ];

    /// The name, as metrics show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Rings => "rings",
            Self::Channels => "channels",
            Self::Keys => "keys",
            Self::Bodies => "bodies",
            Self::Replays => "replays",
            Self::Connections => "connections",
            Self::Tickets => "tickets",
            Self::Revocations => "revocations",
        }
    }

    /// How much of the budget it is, in percent. Events are what a node is for, so their log has
    /// the largest share; what a request needs while it is served comes next.
    const fn percent(self) -> usize {
        match self {
            Self::Log => 40,
            Self::Connections => 15,
            Self::Rings | Self::Bodies | Self::Replays => 10,
            Self::Channels => 8,
            Self::Keys => 4,
            Self::Revocations => 2,
            Self::Tickets => 1,
        }
    }

    /// More would be of no use, on a machine of any size.
    const fn bytes_max(self) -> usize {
        match self {
            Self::Rings => RING_TOTAL_BYTES_MAX,
            Self::Channels => CHANNELS_SHARE_BYTES_MAX,
            Self::Keys => KEYS_SHARE_BYTES_MAX,
            Self::Bodies => BODIES_SHARE_BYTES_MAX,
            _ => usize::MAX,
        }
    }
}

/// The memory that a node may keep. A clone is the same budget.
///
/// ```
/// use headwater::budget::{Budget, Share};
///
/// let budget = Budget::new(256 << 20);
/// assert!(budget.account(Share::Log).limit() > 100 << 20);
/// ```
#[derive(Clone)]
pub struct Budget {
    bytes: usize,
    accounts: Arc<[Account; Share::ALL.len()]>,
}

impl Budget {
    /// A budget of this size, at least 16 MiB.
    pub fn new(bytes: usize) -> Self {
        let bytes = bytes.max(BUDGET_BYTES_MIN);
        let account = |share: Share| {
            Account::of((bytes / 100).saturating_mul(share.percent()).min(share.bytes_max()))
        };
        Self { bytes, accounts: Arc::new(Share::ALL.map(account)) }
    }

    /// 70 % of the memory that this process may use: that of its cgroup (version 1 or 2), or of
    /// the machine. The rest is for what has no account: code, stacks, queues of streams, the
    /// allocator.
    pub fn of_this_machine() -> Self {
        Self::new(machine::memory_bytes() / 100 * BUDGET_PERCENT)
    }

    /// The size, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The account of a share.
    pub fn account(&self, share: Share) -> &Account {
        &self.accounts[share as usize]
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::of_this_machine()
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// What is kept of one share. A clone is the same account.
#[derive(Clone)]
pub struct Account(Arc<Counts>);

struct Counts {
    used: AtomicUsize,
    limit: usize,
    evictions: Counter,
    refusals: Counter,
}

impl Account {
    /// An account with this limit, in bytes.
    pub fn of(limit: usize) -> Self {
        let (evictions, refusals) = (Counter::default(), Counter::default());
        Self(Arc::new(Counts { used: AtomicUsize::new(0), limit, evictions, refusals }))
    }

    /// The most bytes that may be kept.
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// The bytes that are kept.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Whether more is kept than may be.
    pub fn is_over(&self) -> bool {
        self.used() > self.0.limit
    }

    /// Records that more is kept. The caller then drops its oldest while the account
    /// [is over](Self::is_over).
    pub fn add(&self, bytes: usize) {
        self.0.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Records that less is kept.
    pub fn remove(&self, bytes: usize) {
        self.0.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Takes bytes until the result is dropped; `None` if the share is full, which counts as a
    /// refusal: the caller answers 503.
    pub fn try_take(&self, bytes: usize) -> Option<Taken> {
        let mut taken = self.take(0);
        taken.try_extend(bytes).then_some(taken)
    }

    /// Takes bytes until the result is dropped, even if the share is full.
    pub fn take(&self, bytes: usize) -> Taken {
        self.add(bytes);
        Taken { account: self.clone(), bytes }
    }

    /// Counts a request that was refused.
    pub fn refuse(&self) {
        self.0.refusals.add(1);
    }

    /// Counts what was dropped to make room.
    pub fn evicted(&self, count: u64) {
        self.0.evictions.add(count);
    }

    /// How much was dropped to make room.
    pub fn evictions(&self) -> u64 {
        self.0.evictions.get()
    }

    /// How many requests were refused.
    pub fn refusals(&self) -> u64 {
        self.0.refusals.get()
    }
}

/// Bytes of an account, until this is dropped.
#[must_use = "the bytes are given back at once"]
pub struct Taken {
    account: Account,
    bytes: usize,
}

impl Taken {
    /// Changes how many bytes are taken, even if the share is full.
    pub(crate) fn set(&mut self, bytes: usize) {
        self.account.add(bytes);
        self.account.remove(std::mem::replace(&mut self.bytes, bytes));
    }

    /// Takes more bytes. False if the share is full, which counts as a refusal.
    pub fn try_extend(&mut self, bytes: usize) -> bool {
        self.account.add(bytes);
        if self.account.is_over() {
            self.account.remove(bytes);
            self.account.refuse();
            return false;
        }
        self.bytes += bytes;
        true
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.account.remove(self.bytes);
    }
}

const _: () = {
    let (mut at, mut percent) = (0, 0);
    while at < Share::ALL.len() {
        assert!(Share::ALL[at] as usize == at, "a share is the index of its account");
        percent += Share::ALL[at].percent();
        at += 1;
    }
    assert!(percent == 100, "the shares are the whole budget");
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_fit_in_the_budget() {
        for bytes in [0, 16 << 20, 256 << 20, 100 << 30] {
            let budget = Budget::new(bytes);
            let sum: usize = Share::ALL.iter().map(|it| budget.account(*it).limit()).sum();
            assert!(sum <= budget.bytes() && budget.bytes() >= BUDGET_BYTES_MIN, "{bytes}");
        }
        let large = Budget::new(100 << 30);
        assert_eq!(large.account(Share::Rings).limit(), RING_TOTAL_BYTES_MAX);
        assert!(Budget::default().bytes() >= BUDGET_BYTES_MIN);
    }

    #[test]
    fn a_full_share_refuses_and_counts() {
        let account = Account::of(100);
        let first = account.try_take(60).expect("room");
        assert!(account.try_take(41).is_none());
        assert_eq!((account.used(), account.refusals()), (60, 1));
        let second = account.try_take(40).expect("room");
        drop((first, second));
        assert_eq!((account.used(), account.refusals(), account.evictions()), (0, 1, 0));
    }
}
