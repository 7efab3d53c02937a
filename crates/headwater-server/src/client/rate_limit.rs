//! Rates per key, as token buckets. Look here for what a rate means exactly, and for how the table
//! of buckets is bounded. No I/O.
//!
//! A bucket is one number: when it will be full again. A full bucket needs no entry, so idle keys
//! cost nothing. The table has a fixed size: sets of a few entries, found by a keyed hash of the
//! key. If a set is full, its fullest bucket is evicted.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::{RATE_LIMIT_SETS, RATE_LIMIT_WAYS};
use crate::settings::Rate;

/// A rate for every key.
pub(crate) struct RateLimit {
    pace: Pace,
    begin: Instant,
    hasher: RandomState,
    sets: Mutex<Vec<[Bucket; RATE_LIMIT_WAYS]>>,
}

/// A rate for all together.
pub(crate) struct OneRate {
    pace: Pace,
    begin: Instant,
    full_at_ns: Mutex<u64>,
}

/// What a rate allows a bucket.
#[derive(Clone, Copy)]
struct Pace {
    /// Time that one unit costs.
    cost_ns: u64,
    /// How far a bucket may be from full and still admit one unit.
    room_ns: u64,
}

#[derive(Clone, Copy, Default)]
struct Bucket {
    /// 64 bits of a keyed hash: two keys with equal hashes would share a bucket, which is
    /// improbable enough.
    key: u64,
    /// When it will be full, since `begin`.
    full_at_ns: u64,
}

impl Pace {
    fn new(rate: Rate) -> Self {
        let per_ns = u64::try_from(rate.per.as_nanos()).unwrap_or(u64::MAX);
        let cost_ns = (per_ns / u64::from(rate.count.max(1))).max(1);
        Self { cost_ns, room_ns: per_ns.saturating_sub(cost_ns) }
    }

    /// Takes this many from a bucket: when it will be full then. Otherwise the time until it has
    /// one.
    fn take(self, full_at_ns: u64, count: usize, now_ns: u64) -> Result<u64, Duration> {
        let full_at_ns = full_at_ns.max(now_ns);
        let wait_ns = (full_at_ns - now_ns).saturating_sub(self.room_ns);
        if wait_ns > 0 {
            return Err(Duration::from_nanos(wait_ns));
        }
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        Ok(full_at_ns.saturating_add(count.saturating_mul(self.cost_ns)))
    }
}

fn ns_since(begin: Instant) -> u64 {
    u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

impl OneRate {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { pace: Pace::new(rate), begin: Instant::now(), full_at_ns: Mutex::default() }
    }

    /// Takes this many, if there is at least one. Otherwise returns the time until there is.
    pub(crate) fn take(&self, count: usize) -> Result<(), Duration> {
        let mut full_at_ns = self.full_at_ns.lock().unwrap_or_else(PoisonError::into_inner);
        *full_at_ns = self.pace.take(*full_at_ns, count, ns_since(self.begin))?;
        Ok(())
    }
}

impl RateLimit {
    pub(crate) fn new(rate: Rate) -> Self {
        Self {
            pace: Pace::new(rate),
            begin: Instant::now(),
            hasher: RandomState::new(),
            sets: Mutex::new(vec![Default::default(); RATE_LIMIT_SETS]),
        }
    }

    /// Takes this many from the key's bucket, if it has at least one. Otherwise returns the time
    /// until it has one.
    pub(crate) fn take(&self, key: impl Hash, count: usize) -> Result<(), Duration> {
        self.take_at(self.hasher.hash_one(key), count, ns_since(self.begin))
    }

    fn take_at(&self, key: u64, count: usize, now_ns: u64) -> Result<(), Duration> {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        #[expect(clippy::cast_possible_truncation, reason = "the remainder is less than a usize")]
        let set = &mut sets[(key % RATE_LIMIT_SETS as u64) as usize];
        let known = set.iter().position(|bucket| bucket.key == key);
        let full_at_ns = known.map_or(0, |at| set[at].full_at_ns);
        let full_at_ns = self.pace.take(full_at_ns, count, now_ns)?;
        if count > 0 {
            *place_for(set, known) = Bucket { key, full_at_ns };
        }
        Ok(())
    }
}

fn place_for(set: &mut [Bucket], known: Option<usize>) -> &mut Bucket {
    let fullest = || (0..set.len()).min_by_key(|at| set[*at].full_at_ns).unwrap_or(0);
    let at = known.unwrap_or_else(fullest);
    &mut set[at]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn limit(count: u32) -> RateLimit {
        RateLimit::new(Rate { count, per: Duration::from_secs(1) })
    }

    #[test]
    fn a_burst_of_the_rate_is_admitted_then_one_at_a_time() {
        let limit = limit(10);
        for _ in 0..10 {
            assert_eq!(limit.take_at(7, 1, SECOND), Ok(()));
        }
        assert_eq!(limit.take_at(7, 1, SECOND), Err(Duration::from_millis(100)));
        assert_eq!(limit.take_at(8, 1, SECOND), Ok(()), "others notice nothing");
        assert_eq!(limit.take_at(7, 1, SECOND + SECOND / 10), Ok(()));
        assert!(limit.take_at(7, 1, SECOND + SECOND / 10).is_err());
        for _ in 0..10 {
            assert_eq!(limit.take_at(7, 1, 10 * SECOND), Ok(()));
        }
        assert!(limit.take_at(7, 1, 10 * SECOND).is_err());
    }

    #[test]
    fn one_rate_admits_as_many_in_all() {
        let limit = OneRate::new(Rate { count: 10, per: Duration::from_secs(3600) });
        assert!((0..10).all(|_| limit.take(1).is_ok()));
        assert!(limit.take(1).is_err());
    }

    #[test]
    fn a_batch_may_exceed_the_rate_and_delays_the_next() {
        let limit = limit(10);
        assert_eq!(limit.take_at(7, 50, SECOND), Ok(()));
        assert_eq!(limit.take_at(7, 1, SECOND), Err(Duration::from_millis(4_100)));
        assert_eq!(limit.take_at(7, 0, SECOND), Err(Duration::from_millis(4_100)));
        assert_eq!(limit.take_at(7, 1, SECOND + 41 * SECOND / 10), Ok(()));
    }

    #[test]
    fn a_check_consumes_nothing() {
        let limit = limit(1);
        for _ in 0..5 {
            assert_eq!(limit.take_at(7, 0, SECOND), Ok(()));
        }
        assert_eq!(limit.take_at(7, 1, SECOND), Ok(()));
        assert!(limit.take_at(7, 0, SECOND).is_err());
    }

    #[test]
    fn the_emptiest_buckets_are_remembered_when_there_are_too_many() {
        let limit = limit(10);
        let key = |number: u64| number * RATE_LIMIT_SETS as u64;
        // All in one set, and one of them has used up what it had.
        assert_eq!(limit.take_at(key(1), 20, SECOND), Ok(()));
        for number in 2..1_000 {
            assert_eq!(limit.take_at(key(number), 1, SECOND), Ok(()));
        }
        assert!(limit.take_at(key(1), 1, SECOND).is_err());
    }

    proptest! {
        /// In any period, no more is admitted than the rate and one burst.
        #[test]
        fn the_average_holds(
            count in 1..200_u32,
            gaps_ms in proptest::collection::vec(0..500_u64, 1..200),
        ) {
            let limit = limit(count);
            let mut now = SECOND;
            let mut taken = 0;
            for gap_ms in &gaps_ms {
                now += gap_ms * 1_000_000;
                while limit.take_at(7, 1, now).is_ok() {
                    taken += 1;
                }
            }
            let seconds = Duration::from_nanos(now - SECOND).as_secs_f64();
            let allowed = f64::from(count) * (1.0 + seconds) * 1.000_001 + 1.0;
            prop_assert!(f64::from(taken) <= allowed, "{taken} in {seconds} s");
            prop_assert!(f64::from(taken) >= f64::from(count));
        }
    }
}
