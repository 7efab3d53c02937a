//! Ephemeral events: the channels that share plain `PUBLISH` with other programs, and those that
//! are known to receive ephemeral events. Look here for when a node notes the latter in Redis.

use std::collections::HashMap;
use std::sync::Arc;

use headwater_core::Channel;
use headwater_core::pattern::ChannelPattern;

use crate::limits::EPHEMERAL_NOTE_INTERVAL;

/// The plain Redis channels that a node subscribes to and publishes on; `None` for all.
#[derive(Clone, Default)]
pub(crate) struct EphemeralChannels(pub(crate) Option<Arc<[ChannelPattern]>>);

impl EphemeralChannels {
    pub(crate) fn contains(&self, channel: &Channel) -> bool {
        self.0.as_ref().is_none_or(|all| all.iter().any(|pattern| pattern.matches(channel)))
    }
}

/// Subscribed channels that are known to receive ephemeral events, each with the time when that was
/// last noted in Redis, in milliseconds since 1970; 0 for never.
#[derive(Default)]
pub(crate) struct KnownEphemeral(HashMap<Channel, u64>);

impl KnownEphemeral {
    pub(crate) fn remove(&mut self, channel: &Channel) {
        self.0.remove(channel);
    }

    pub(crate) fn retain(&mut self, is_wanted: impl Fn(&Channel) -> bool) {
        self.0.retain(|channel, _| is_wanted(channel));
    }

    /// All of them, to be noted again now: Redis may have lost the notes.
    pub(crate) fn note_again(&mut self, now_ms: u64) -> Vec<Channel> {
        self.0.values_mut().for_each(|noted_ms| *noted_ms = now_ms);
        self.0.keys().cloned().collect()
    }

    /// Whether it must be noted in Redis now that the channel receives ephemeral events, which is
    /// once per [`EPHEMERAL_NOTE_INTERVAL`]. Returns true once for each note.
    pub(crate) fn note_due(&mut self, channel: &Channel, now_ms: u64) -> bool {
        let noted_ms = self.0.entry(channel.clone()).or_default();
        let interval_ms = u64::try_from(EPHEMERAL_NOTE_INTERVAL.as_millis()).unwrap_or(u64::MAX);
        let is_due = now_ms.saturating_sub(*noted_ms) >= interval_ms;
        if is_due {
            *noted_ms = now_ms;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_noted_once_per_interval() {
        let (mut known, a) = (KnownEphemeral::default(), Channel::new("a").unwrap());
        let interval_ms = u64::try_from(EPHEMERAL_NOTE_INTERVAL.as_millis()).unwrap();
        for (now_ms, due) in [(interval_ms, true), (interval_ms, false), (2 * interval_ms, true)] {
            assert_eq!(known.note_due(&a, now_ms), due, "{now_ms}");
        }
        known.remove(&a);
        assert!(known.note_due(&a, 2 * interval_ms), "a removed channel is noted again");
        assert_eq!(known.note_again(3 * interval_ms), std::slice::from_ref(&a));
        assert!(!known.note_due(&a, 3 * interval_ms));
    }
}
