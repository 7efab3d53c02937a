//! How fast a client reads that has a backlog. Look here for which clients count as reading.

use super::schedule::Tick;

/// The interval in which a client's pace is measured: one second.
const PACE_TICKS: u32 = 10;

/// A client that takes less than this in an interval does not count as reading: 16 KiB a second is
/// a slow telephone line.
const PACE_BYTES_MIN: usize = 16 << 10;

/// What a client has taken lately.
#[derive(Debug, Default, Clone, Copy)]
pub struct Pace {
    /// When the current interval began, and the bytes that were taken in it.
    interval: (Tick, usize),
    /// The bytes that were taken in the interval before.
    before: usize,
}

impl Pace {
    pub(super) fn since(now: Tick) -> Self {
        // A client that has just fallen behind has read until now.
        Self { interval: (now, 0), before: PACE_BYTES_MIN }
    }

    /// Records that the client took bytes.
    pub(super) fn took(&mut self, bytes: usize, now: Tick) {
        if now.saturating_sub(self.interval.0) >= PACE_TICKS {
            let is_next = now - self.interval.0 < 2 * PACE_TICKS;
            self.before = if is_next { self.interval.1 } else { 0 };
            self.interval = (now, 0);
        }
        self.interval.1 += bytes;
    }

    /// Whether the client reads at all: it has taken some in the last interval or two.
    pub fn is_reading(&self, now: Tick) -> bool {
        let is_current = now.saturating_sub(self.interval.0) < 2 * PACE_TICKS;
        is_current && self.interval.1 + self.before >= PACE_BYTES_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_reads_while_it_takes_some_every_second() {
        let mut pace = Pace::since(100);
        assert!(pace.is_reading(100) && pace.is_reading(119) && !pace.is_reading(120));
        for tick in (101..200).step_by(5) {
            pace.took(PACE_BYTES_MIN / 2, tick);
            assert!(pace.is_reading(tick + 5), "{tick}");
        }
        for tick in (200..240).step_by(5) {
            pace.took(10, tick);
        }
        assert!(!pace.is_reading(240), "a trickle");
    }
}
