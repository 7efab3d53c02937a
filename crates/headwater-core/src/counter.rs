//! A counter that many threads add to. Look here for its memory ordering: relaxed, since no other
//! data is published through it.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows, for statistics.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to the number.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The current number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
