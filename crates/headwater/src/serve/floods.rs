//! Addresses whose connections were closed as floods. Look here for when a new connection waits
//! before it is served.
//!
//! A flood is cheap to begin again: the client opens the next connection at once. Those of the same
//! address are then served one after another, at a slow pace; open connections and other addresses
//! do not wait. Other clients of that address, behind the same NAT, wait in the same line, so they
//! are late and not locked out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::counts::{Closed, ServeCounts};
use crate::limits::{
    FLOOD_PAUSE, FLOODING_ADDRESSES_MAX, FLOODING_CONNECTION_INTERVAL, FLOODING_WAIT_MAX,
    FLOODS_MAX,
};

/// Whether many clients share an address.
pub(super) type IsShared = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// The addresses. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Floods {
    addresses: Arc<Mutex<HashMap<IpAddr, Flooding>>>,
    /// Whether there ever was one; without it, no connection takes the lock.
    has_some: Arc<AtomicBool>,
    /// Addresses that are never held back.
    pub(super) is_shared: Option<IsShared>,
}

struct Flooding {
    /// How many floods may still come; less than one holds connections back. At `at`.
    left: f64,
    at: Instant,
    /// When the next connection may be served.
    next: Instant,
}

impl Flooding {
    fn left(&self, now: Instant) -> f64 {
        let pauses = now.duration_since(self.at).as_secs_f64() / FLOOD_PAUSE.as_secs_f64();
        (self.left + pauses).min(FLOODS_MAX)
    }
}

/// The client's network: an address of IPv4, or a /64 of IPv6, which is what one customer has.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        address @ IpAddr::V4(_) => address,
    }
}

impl Floods {
    fn addresses(&self) -> MutexGuard<'_, HashMap<IpAddr, Flooding>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether many clients share this address, so that it is never held back.
    fn is_shared(&self, address: IpAddr) -> bool {
        self.is_shared.as_ref().is_some_and(|is_shared| is_shared(address.to_canonical()))
    }

    /// Records a flood.
    fn add(&self, address: IpAddr) {
        if self.is_shared(address) {
            return;
        }
        let (now, network) = (Instant::now(), network(address));
        let mut addresses = self.addresses();
        if addresses.len() >= FLOODING_ADDRESSES_MAX && !addresses.contains_key(&network) {
            addresses.retain(|_, flooding| flooding.left(now) < FLOODS_MAX);
            if addresses.len() >= FLOODING_ADDRESSES_MAX {
                return;
            }
        }
        self.has_some.store(true, Ordering::Relaxed);
        let new = || Flooding { left: FLOODS_MAX, at: now, next: now };
        let flooding = addresses.entry(network).or_insert_with(new);
        // As much again at most, so that the end of a flood is noticed.
        flooding.left = (flooding.left(now) - 1.0).max(-FLOODS_MAX);
        flooding.at = now;
    }

    /// How long a new connection waits before it is served; `None` if too many wait already.
    fn delay(&self, address: IpAddr) -> Option<Duration> {
        // Another machine of its network may flood.
        if !self.has_some.load(Ordering::Relaxed) || self.is_shared(address) {
            return Some(Duration::ZERO);
        }
        let now = Instant::now();
        let mut addresses = self.addresses();
        let Some(flooding) = addresses.get_mut(&network(address)) else {
            return Some(Duration::ZERO);
        };
        if flooding.left(now) >= 1.0 {
            return Some(Duration::ZERO);
        }
        let turn = flooding.next.max(now);
        let delay = turn - now;
        if delay > FLOODING_WAIT_MAX {
            return None;
        }
        flooding.next = turn + FLOODING_CONNECTION_INTERVAL;
        Some(delay)
    }

    /// Waits until a new connection may be served. False if it must be closed.
    pub(super) async fn admit(&self, address: IpAddr) -> bool {
        match self.delay(address) {
            Some(Duration::ZERO) => true,
            Some(delay) => {
                tokio::time::sleep(delay).await;
                true
            }
            None => false,
        }
    }
}

/// Records why a connection over HTTP/2 was closed.
#[derive(Clone)]
pub(super) struct CloseReport {
    pub(super) counts: ServeCounts,
    pub(super) floods: Floods,
    pub(super) client: IpAddr,
}

impl CloseReport {
    pub(super) fn closed(&self, reason: Closed) {
        self.counts.close(reason);
        if reason == Closed::Flood {
            self.floods.add(self.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOODING: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn flood(floods: &Floods, address: IpAddr) {
        (0..100).for_each(|_| floods.add(address));
    }

    #[tokio::test(start_paused = true)]
    async fn connections_of_an_address_that_floods_are_served_one_after_another() {
        let floods = Floods::default();
        floods.add(FLOODING);
        assert_eq!(floods.delay(FLOODING), Some(Duration::ZERO), "once is no habit");
        flood(&floods, FLOODING);
        for number in 0..10 {
            assert_eq!(floods.delay(FLOODING), Some(number * FLOODING_CONNECTION_INTERVAL));
            assert_eq!(floods.delay(OTHER), Some(Duration::ZERO));
        }
        let waiting = std::iter::from_fn(|| floods.delay(FLOODING)).take(10_000).last();
        assert_eq!(waiting, Some(FLOODING_WAIT_MAX), "the line has an end");
        tokio::time::advance(FLOOD_PAUSE.mul_f64(FLOODS_MAX + 2.0)).await;
        assert_eq!(floods.delay(FLOODING), Some(Duration::ZERO), "it has stopped");
    }

    #[tokio::test(start_paused = true)]
    async fn proxies_are_not_held_back_and_the_table_is_bounded() {
        let floods = Floods { is_shared: Some(Arc::new(|it| it == OTHER)), ..Floods::default() };
        flood(&floods, OTHER);
        assert!(floods.addresses().is_empty());
        for number in 0..2 * FLOODING_ADDRESSES_MAX as u128 {
            floods.add(IpAddr::from((number << 64).to_be_bytes()));
        }
        assert_eq!(floods.addresses().len(), FLOODING_ADDRESSES_MAX);
        let known = IpAddr::from(0_u128.to_be_bytes());
        flood(&floods, known);
        floods.delay(known);
        assert!(floods.delay(known) > Some(Duration::ZERO), "it counts although the table is full");
        tokio::time::advance(2 * FLOOD_PAUSE).await;
        flood(&floods, FLOODING);
        assert_eq!(floods.addresses().len(), 2, "others have stopped");
        let own = |end: u16| IpAddr::from([0x2001, 0xdb8, 0, 7, 0, 0, 0, end]);
        flood(&floods, own(1));
        floods.delay(own(2));
        assert!(floods.delay(own(3)) > Some(Duration::ZERO), "a /64 is one client");
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_is_not_held_back_for_another_machine_of_its_network() {
        let own = |end: u16| IpAddr::from([0x2001, 0xdb8, 0, 7, 0, 0, 0, end]);
        let proxy = own(1);
        let is_shared: IsShared = Arc::new(move |it| it == proxy);
        let floods = Floods { is_shared: Some(is_shared), ..Floods::default() };
        flood(&floods, own(2));
        floods.delay(own(2));
        assert!(floods.delay(own(2)) > Some(Duration::ZERO));
        for _ in 0..2 {
            assert_eq!(floods.delay(proxy), Some(Duration::ZERO));
        }
    }
}
