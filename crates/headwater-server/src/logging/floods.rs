//! Lines of the same kind, counted instead of repeated. Look here for how many a client can cause.
//! No I/O.
//!
//! A kind is a place in the code: their number is bounded, and no place needs to remember this.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tracing::callsite::Identifier;
use tracing::{Level, Metadata};

use crate::limits::{LOG_LINES_MAX, LOG_LINES_TIME};

/// How many lines of each kind there were lately.
#[derive(Default)]
pub(super) struct Floods(Mutex<HashMap<Identifier, Recent>>);

struct Recent {
    since: Instant,
    lines: u32,
    suppressed: u64,
}

impl Floods {
    /// Whether a line of this kind is to be written now: then how many were not since the last one.
    /// Lines below `info` are written by request only, and all of them.
    pub(super) fn admit(&self, metadata: &Metadata<'_>) -> Option<u64> {
        if *metadata.level() > Level::INFO {
            return Some(0);
        }
        self.admit_at(metadata.callsite(), Instant::now())
    }

    fn admit_at(&self, kind: Identifier, now: Instant) -> Option<u64> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Recent { since: now, lines: 0, suppressed: 0 };
        let recent = kinds.entry(kind).or_insert_with(new);
        if now.saturating_duration_since(recent.since) >= LOG_LINES_TIME {
            (recent.since, recent.lines) = (now, 0);
        }
        if recent.lines == LOG_LINES_MAX {
            recent.suppressed += 1;
            return None;
        }
        recent.lines += 1;
        Some(std::mem::take(&mut recent.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use tracing::callsite::Callsite;
    use tracing::subscriber::Interest;

    use super::*;

    struct Place(u8);

    impl Callsite for Place {
        fn set_interest(&self, _: Interest) {}

        fn metadata(&self) -> &Metadata<'_> {
            unreachable!("only its identity counts")
        }
    }

    #[test]
    fn lines_of_a_kind_are_counted_beyond_a_few() {
        static ONE: Place = Place(1);
        static OTHER: Place = Place(2);
        assert_ne!(ONE.0, OTHER.0, "two places");
        let floods = Floods::default();
        let begin = Instant::now();
        let one = |now| floods.admit_at(Identifier(&ONE), now);
        let admitted = (0..1_000).filter(|_| one(begin).is_some()).count();
        assert_eq!(admitted, LOG_LINES_MAX as usize);
        assert_eq!(one(begin + LOG_LINES_TIME / 2), None);
        assert_eq!(floods.admit_at(Identifier(&OTHER), begin), Some(0));
        let later = begin + LOG_LINES_TIME;
        assert_eq!(one(later), Some(1_001 - u64::from(LOG_LINES_MAX)));
        assert_eq!(one(later), Some(0));
    }
}
