//! Counts of a round while it runs, and what went wrong beside the clients' streams. Look here for the
//! lines of progress.

use std::fmt;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most complaints kept: the first tell what is wrong.
const TROUBLES_MAX: usize = 20;

/// Counts, shared by all tasks of a round.
#[derive(Default)]
pub struct Tally {
    /// Events acknowledged.
    pub acknowledged: Count,
    /// Publishes whose end is not known.
    pub unknown: Count,
    /// Events that came to clients.
    pub deliveries: Count,
    /// Gaps that clients were told of.
    pub gaps: Count,
    /// Streams that opened.
    pub opened: Count,
    /// Streams that clients dropped.
    pub drops: Count,
    /// Streams that ended otherwise.
    pub ended: Count,
    /// Faults that were injected.
    pub faults: Count,
    troubles: Mutex<Vec<String>>,
}

/// A number that grows.
#[derive(Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds to it.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// What it is now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Tally {
    /// Notes something that must not happen and is on no client's stream.
    pub fn trouble(&self, what: String) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        if troubles.len() < TROUBLES_MAX {
            troubles.push(what);
        }
    }

    /// What was noted.
    pub fn troubles(&self) -> Vec<String> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} events acknowledged, {} unknown; {} deliveries, {} gaps; {} streams, {} dropped, {} ended; {} faults",
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
