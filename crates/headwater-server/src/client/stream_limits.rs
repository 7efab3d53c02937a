//! Limits on the number of streams: in total, per address, per user. Look here for which limit is
//! checked first. No I/O.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::address::{AddressKey, ClientAddress};
use super::refusal::{Limit, LimitExceeded};
use crate::limits::{SITE_TIMES, STREAM_RETRY_AFTER};

/// Counts open streams. An open stream is never closed for a new one.
#[derive(Debug, Default)]
pub(super) struct StreamLimits {
    pub(super) total_max: usize,
    pub(super) per_address_max: Option<usize>,
    pub(super) per_user_max: Option<usize>,
    pub(super) open: Mutex<Open>,
}

/// Only what has a limit is counted, and only while it has streams: the table has at most three
/// entries per stream.
#[derive(Debug, Default)]
pub(super) struct Open {
    total: usize,
    by_owner: HashMap<Owner, usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Owner {
    Address(AddressKey),
    /// Many addresses of IPv6.
    Site(AddressKey),
    User(Box<str>),
}

/// The slot of one open stream, released on drop.
#[derive(Debug)]
pub(crate) struct StreamPlace {
    limits: Arc<StreamLimits>,
    owners: [Option<Owner>; 3],
}

impl StreamLimits {
    /// Acquires a slot for a stream. Limits per client are checked first: a client with too many
    /// streams is notified even if the server is full.
    pub(super) fn acquire(
        self: &Arc<Self>,
        address: ClientAddress,
        user: Option<&str>,
    ) -> Result<StreamPlace, LimitExceeded> {
        let [address, site] = self.address_owners(address);
        let user = self.per_user_max.zip(user).map(|(max, user)| (Owner::User(user.into()), max));
        let mut open = self.open();
        let limit = if open.is_full(address.as_ref()) || open.is_full(site.as_ref()) {
            Some(Limit::StreamsPerAddress)
        } else if open.is_full(user.as_ref()) {
            Some(Limit::StreamsPerUser)
        } else {
            (open.total >= self.total_max).then_some(Limit::Streams)
        };
        if let Some(limit) = limit {
            return Err(LimitExceeded { limit, retry_after: STREAM_RETRY_AFTER });
        }
        open.total += 1;
        let owners = [address, site, user].map(|owner| owner.map(|(owner, _)| owner));
        for owner in owners.iter().flatten() {
            *open.by_owner.entry(owner.clone()).or_default() += 1;
        }
        Ok(StreamPlace { limits: Arc::clone(self), owners })
    }

    /// Whether this address may have one more, before anything else is looked at.
    pub(super) fn check_address(&self, address: ClientAddress) -> Result<(), LimitExceeded> {
        let owners = self.address_owners(address);
        if owners.iter().all(Option::is_none) {
            return Ok(());
        }
        let open = self.open();
        if owners.iter().any(|owner| open.is_full(owner.as_ref())) {
            let limit = Limit::StreamsPerAddress;
            return Err(LimitExceeded { limit, retry_after: STREAM_RETRY_AFTER });
        }
        Ok(())
    }

    /// What a stream of this address counts as, with the limits.
    fn address_owners(&self, address: ClientAddress) -> [Option<(Owner, usize)>; 2] {
        let Some(max) = self.per_address_max else { return [None, None] };
        let site = address.site().map(|site| (Owner::Site(site), max.saturating_mul(SITE_TIMES)));
        [Some((Owner::Address(address.key()), max)), site]
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn is_full(&self, owner: Option<&(Owner, usize)>) -> bool {
        owner.is_some_and(|(owner, max)| {
            self.by_owner.get(owner).is_some_and(|streams| streams >= max)
        })
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut open = self.limits.open();
        open.total -= 1;
        for owner in self.owners.iter().flatten() {
            let Some(streams) = open.by_owner.get_mut(owner) else { continue };
            *streams -= 1;
            if *streams == 0 {
                open.by_owner.remove(owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(total: usize, per_address: usize, per_user: usize) -> Arc<StreamLimits> {
        Arc::new(StreamLimits {
            total_max: total,
            per_address_max: Some(per_address),
            per_user_max: Some(per_user),
            open: Mutex::default(),
        })
    }

    fn address(last: u8) -> ClientAddress {
        ClientAddress::new([192, 0, 2, last].into())
    }

    #[track_caller]
    fn refused(outcome: Result<StreamPlace, LimitExceeded>) -> Limit {
        outcome.expect_err("it is refused").limit
    }

    #[test]
    fn each_limit_rejects_the_new_request() {
        let limits = limits(4, 2, 3);
        let enter = |last, user| limits.acquire(address(last), user);
        let first = enter(1, Some("ann")).expect("there is room");
        let _second = enter(1, Some("ann")).expect("there is room");
        assert_eq!(refused(enter(1, Some("bob"))), Limit::StreamsPerAddress);
        let _third = enter(2, Some("ann")).expect("there is room");
        assert_eq!(refused(enter(2, Some("ann"))), Limit::StreamsPerUser);
        let _fourth = enter(3, None).expect("there is room");
        assert_eq!(refused(enter(4, None)), Limit::Streams);
        assert_eq!(refused(enter(1, None)), Limit::StreamsPerAddress, "its own limit comes first");
        drop(first);
        let _again = enter(1, Some("ann")).expect("there is room again");
    }

    #[test]
    fn the_networks_of_one_site_have_a_limit_together() {
        let limits = limits(10_000, 2, 3);
        let of = |text: &str| ClientAddress::new(text.parse().expect("an address"));
        let mut places = Vec::new();
        for number in 0..100 {
            let address = of(&format!("2001:db8:7:{number:x}::1"));
            assert_eq!(limits.check_address(address).is_ok(), places.len() < 2 * SITE_TIMES);
            places.extend(limits.acquire(address, None));
        }
        assert_eq!(places.len(), 2 * SITE_TIMES);
        assert!(limits.acquire(of("2001:db8:8::1"), None).is_ok(), "another site");
        drop(places);
        assert!(limits.open().by_owner.is_empty());
    }

    #[test]
    fn ended_streams_leave_no_state() {
        let limits = limits(10, 10, 10);
        let places: Vec<_> =
            (0..10).map(|last| limits.acquire(address(last), Some("ann"))).collect();
        assert_eq!(refused(limits.acquire(address(11), None)), Limit::Streams);
        drop(places);
        let open = limits.open();
        assert_eq!((open.total, open.by_owner.len()), (0, 0));
    }
}
