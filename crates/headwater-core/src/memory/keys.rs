//! The idempotency keys of the embedded log. Look here for how long and how many of them are
//! remembered.
//!
//! Keys belong to their publisher: nobody's key deduplicates the event of another, and a publisher
//! that sends more keys than are remembered loses its own oldest ones first.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use crate::budget::Account;
use crate::channel::Channel;
use crate::event::EventId;
use crate::limits::{IDEMPOTENCY_KEYS_PER_PUBLISHER_MAX, IDEMPOTENCY_WINDOW};
use crate::memory::history::whole_ms;
use crate::publish::{IdempotencyKey, PublisherKey};

/// What a key costs besides its text: its entries in two tables and its allocations, measured.
const KEY_OVERHEAD_BYTES: usize = 256;

/// The part of the share that one publisher may use.
const PUBLISHER_PART: usize = 4;

type Identity = Option<Arc<str>>;

/// The keys of all publishers.
pub(super) struct Keys {
    publishers: HashMap<Identity, Publisher>,
    /// Each publisher by the number of its oldest key.
    oldest: BTreeMap<u64, Identity>,
    next: u64,
    account: Account,
}

/// The keys of one publisher.
#[derive(Default)]
struct Publisher {
    first: HashMap<(Channel, IdempotencyKey), First>,
    /// Oldest first. An item whose number is not that of the entry has been replaced.
    order: VecDeque<(u64, Channel, IdempotencyKey)>,
    bytes: usize,
}

/// The event that used a key first.
#[derive(Debug, Clone)]
pub(super) struct First {
    pub(super) offset: u64,
    /// The id that the publisher chose.
    pub(super) id: Option<EventId>,
    until_ms: u64,
    number: u64,
}

impl Keys {
    pub(super) fn new(account: Account) -> Self {
        let (publishers, oldest) = (HashMap::new(), BTreeMap::new());
        Self { publishers, oldest, next: 0, account }
    }

    /// The event that used the same key on the same channel, until the key expires.
    pub(super) fn get(&self, channel: &Channel, key: &PublisherKey, now_ms: u64) -> Option<&First> {
        let publisher = self.publishers.get(&key.publisher)?;
        let first = publisher.first.get(&(channel.clone(), key.key.clone()))?;
        (first.until_ms > now_ms).then_some(first)
    }

    /// Remembers a key, and forgets the oldest ones that exceed the bounds.
    pub(super) fn insert(
        &mut self,
        channel: Channel,
        key: PublisherKey,
        offset: u64,
        id: Option<EventId>,
        time_ms: u64,
    ) {
        let PublisherKey { publisher: identity, key } = key;
        let until_ms = time_ms.saturating_add(whole_ms(IDEMPOTENCY_WINDOW));
        let first = First { offset, id, until_ms, number: self.next };
        self.next += 1;
        let bytes = cost(&key, &first);
        if !self.publishers.contains_key(&identity) {
            self.account.add(identity_cost(&identity));
            self.oldest.insert(first.number, identity.clone());
        }
        let publisher = self.publishers.entry(identity.clone()).or_default();
        publisher.order.push_back((first.number, channel.clone(), key.clone()));
        publisher.bytes += bytes;
        self.account.add(bytes);
        if let Some(replaced) = publisher.first.insert((channel, key.clone()), first) {
            publisher.bytes -= cost(&key, &replaced);
            self.account.remove(cost(&key, &replaced));
        }
        while self.exceeds_its_part(&identity) {
            self.forget_oldest_of(&identity);
            self.account.evicted(1);
        }
        while self.account.is_over() && self.next_to_expire().is_some() {
            self.forget_oldest();
            self.account.evicted(1);
        }
    }

    fn exceeds_its_part(&self, identity: &Identity) -> bool {
        let bytes_max = self.account.limit() / PUBLISHER_PART;
        self.publishers.get(identity).is_some_and(|publisher| {
            publisher.order.len() > IDEMPOTENCY_KEYS_PER_PUBLISHER_MAX
                || publisher.bytes > bytes_max
        })
    }

    /// Forgets keys that have expired.
    pub(super) fn expire(&mut self, now_ms: u64) {
        while self.next_to_expire().is_some_and(|until_ms| until_ms <= now_ms) {
            self.forget_oldest();
        }
    }

    /// When the oldest key expires; 0 if it has been replaced.
    fn next_to_expire(&self) -> Option<u64> {
        let publisher = self.publishers.get(self.oldest.values().next()?)?;
        let (number, channel, key) = publisher.order.front()?;
        let first = publisher.first.get(&(channel.clone(), key.clone()));
        Some(first.filter(|first| first.number == *number).map_or(0, |first| first.until_ms))
    }

    fn forget_oldest(&mut self) {
        if let Some(identity) = self.oldest.values().next().cloned() {
            self.forget_oldest_of(&identity);
        }
    }

    fn forget_oldest_of(&mut self, identity: &Identity) {
        let Some(publisher) = self.publishers.get_mut(identity) else { return };
        let Some((number, channel, key)) = publisher.order.pop_front() else { return };
        self.oldest.remove(&number);
        let entry = (channel, key);
        if publisher.first.get(&entry).is_some_and(|first| first.number == number)
            && let Some(first) = publisher.first.remove(&entry)
        {
            let bytes = cost(&entry.1, &first);
            publisher.bytes -= bytes;
            self.account.remove(bytes);
        }
        if let Some((number, ..)) = publisher.order.front() {
            self.oldest.insert(*number, identity.clone());
        } else {
            self.publishers.remove(identity);
            self.account.remove(identity_cost(identity));
        }
    }

    /// The lowest offset of an event whose key is remembered.
    pub(super) fn oldest_offset(&self) -> Option<u64> {
        let all = self.publishers.values().flat_map(|publisher| publisher.first.values());
        all.map(|first| first.offset).min()
    }
}

fn cost(key: &IdempotencyKey, first: &First) -> usize {
    KEY_OVERHEAD_BYTES + key.as_str().len() + first.id.as_ref().map_or(0, |id| id.as_str().len())
}

fn identity_cost(identity: &Identity) -> usize {
    2 * KEY_OVERHEAD_BYTES + identity.as_ref().map_or(0, |identity| identity.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW_MS: u64 = 600_000;

    fn channel(name: &str) -> Channel {
        Channel::new(name).unwrap()
    }

    fn key(publisher: Option<&str>, key: &str) -> PublisherKey {
        let key = IdempotencyKey::new(key).unwrap();
        PublisherKey { publisher: publisher.map(Arc::from), key }
    }

    fn insert(keys: &mut Keys, publisher: Option<&str>, text: &str, time_ms: u64) {
        keys.insert(channel("a"), key(publisher, text), 1, None, time_ms);
    }

    fn has(keys: &Keys, publisher: Option<&str>, text: &str) -> bool {
        keys.get(&channel("a"), &key(publisher, text), 0).is_some()
    }

    #[test]
    fn keys_belong_to_a_publisher_and_a_channel() {
        let mut keys = Keys::new(Account::of(1 << 20));
        insert(&mut keys, Some("u"), "k", 0);
        assert!(has(&keys, Some("u"), "k"));
        assert!(
            !has(&keys, None, "k") && !has(&keys, Some(""), "k") && !has(&keys, Some("v"), "k")
        );
        assert!(keys.get(&channel("b"), &key(Some("u"), "k"), 0).is_none());
    }

    #[test]
    fn a_publisher_displaces_its_own_keys_first() {
        let account = Account::of(1 << 20);
        let mut keys = Keys::new(account.clone());
        insert(&mut keys, Some("quiet"), "k", 0);
        for number in 0..20_000 {
            insert(&mut keys, Some("busy"), &number.to_string(), 0);
            assert!(account.used() <= account.limit() / 2);
        }
        assert!(has(&keys, Some("quiet"), "k") && has(&keys, Some("busy"), "19999"));
        assert!(!has(&keys, Some("busy"), "0") && account.evictions() > 10_000);
    }

    #[test]
    fn many_publishers_displace_the_oldest_key() {
        let account = Account::of(1 << 20);
        let mut keys = Keys::new(account.clone());
        for number in 0..20_000 {
            insert(&mut keys, Some(&number.to_string()), "k", 0);
            assert!(account.used() <= account.limit());
        }
        assert!(!has(&keys, Some("0"), "k") && has(&keys, Some("19999"), "k"));
    }

    #[test]
    fn expired_and_replaced_keys_are_given_back() {
        let account = Account::of(1 << 20);
        let mut keys = Keys::new(account.clone());
        insert(&mut keys, None, "k", 0);
        insert(&mut keys, None, "k", 5);
        insert(&mut keys, Some("u"), "k", 9);
        keys.expire(WINDOW_MS);
        assert!(has(&keys, None, "k") && has(&keys, Some("u"), "k"));
        keys.expire(WINDOW_MS + 5);
        assert!(!has(&keys, None, "k") && has(&keys, Some("u"), "k"));
        keys.expire(WINDOW_MS + 9);
        assert_eq!((account.used(), keys.publishers.len(), keys.oldest.len()), (0, 0, 0));
        assert_eq!((account.evictions(), keys.oldest_offset()), (0, None));
    }
}
