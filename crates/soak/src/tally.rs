//! The counts of a round while it runs, and failures that no client's stream shows. Look here for
//! the progress lines.

use std::fmt;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

/// Failures recorded at most: the first ones show what is wrong.
const TROUBLES_MAX: usize = 20;

/// Counts, shared by all tasks of a round.
#[derive(Default)]
pub struct Tally {
    /// Acknowledged events.
    pub acknowledged: Count,
    /// Events whose outcome is unknown.
    pub unknown: Count,
    /// Events received by clients.
    pub deliveries: Count,
    /// Gap events received by clients.
    pub gaps: Count,
    /// Streams opened.
    pub opened: Count,
    /// Streams dropped by clients.
    pub drops: Count,
    /// Streams that ended otherwise.
    pub ended: Count,
    /// Injected faults.
    pub faults: Count,
    troubles: Mutex<Vec<String>>,
}

/// A counter.
#[derive(Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds to the counter.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The current value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts of a round, in the order of the fields of [`Tally`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts(pub [u64; 8]);

impl Counts {
    /// Adds those of another round.
    pub fn add(&mut self, other: Self) {
        for (count, other) in self.0.iter_mut().zip(other.0) {
            *count += other;
        }
    }
}

impl Tally {
    /// All counts.
    pub fn counts(&self) -> Counts {
        let counts = [
            &self.acknowledged,
            &self.unknown,
            &self.deliveries,
            &self.gaps,
            &self.opened,
            &self.drops,
            &self.ended,
            &self.faults,
        ];
        Counts(counts.map(Count::get))
    }

    /// Records a failure that no client's stream shows.
    pub fn trouble(&self, what: String) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        if troubles.len() < TROUBLES_MAX {
            troubles.push(what);
        }
    }

    /// The recorded failures.
    pub fn troubles(&self) -> Vec<String> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} events acknowledged, {} unknown; {} deliveries, {} gaps; \
             {} streams, {} dropped, {} ended; {} faults",
            self.acknowledged.get(),
            self.unknown.get(),
            self.deliveries.get(),
            self.gaps.get(),
            self.opened.get(),
            self.drops.get(),
            self.ended.get(),
            self.faults.get()
        )
    }
}
