//! The order in which the embedded log drops events and forgets channels. Look here for how it
//! finds the next one without looking at all.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, HashMap};

use super::history::ChannelHistory;
use crate::channel::Channel;

/// How many entries that are of no use are not worth the work to remove them.
const ENTRIES_MIN: usize = 1024;

pub(super) type Channels = HashMap<Channel, ChannelHistory>;

/// Which events and channels go first. A channel may be in a list to which it does not belong any
/// more, or twice.
#[derive(Default)]
pub(super) struct Order {
    /// Channels with events, by the oldest.
    by_event: Oldest,
    /// The same channels, by the last.
    with_events: Oldest,
    /// Channels without events, by the last that they had.
    without_events: Oldest,
}

impl Order {
    /// Takes note of a channel that is new, or that has events now and had none, or had some.
    pub(super) fn note(
        &mut self,
        channel: &Channel,
        history: &ChannelHistory,
        had_events: Option<bool>,
    ) {
        if had_events == Some(history.has_events()) {
            return;
        }
        let last = history.last();
        if let Some(oldest) = history.oldest() {
            self.by_event.add(oldest, channel.clone());
            self.with_events.add(last, channel.clone());
        } else {
            self.without_events.add(last, channel.clone());
        }
    }

    fn entries(&self) -> usize {
        self.by_event.len() + self.with_events.len() + self.without_events.len()
    }

    /// Removes the entries of channels that are elsewhere or gone, once most are.
    pub(super) fn tidy(&mut self, channels: &Channels) {
        if self.entries() > 4 * channels.len() + ENTRIES_MIN {
            *self = Self::default();
            for (channel, history) in channels {
                self.note(channel, history, None);
            }
        }
    }

    /// Takes the channel that has the oldest event.
    pub(super) fn oldest_event(&mut self, channels: &Channels) -> Option<Channel> {
        self.by_event.take(oldest_in(channels))
    }

    /// Puts a channel back that has lost its oldest event.
    pub(super) fn put_back(&mut self, channel: Channel, history: &ChannelHistory) {
        match history.oldest() {
            Some(offset) => self.by_event.add(offset, channel),
            None => self.without_events.add(history.last(), channel),
        }
    }

    /// Takes the channel that was silent for longest, first of those without events.
    pub(super) fn silent_channel(&mut self, channels: &Channels) -> Option<Channel> {
        let silent = self.without_events.take(last_in(channels, false));
        silent.or_else(|| self.with_events.take(last_in(channels, true)))
    }

    /// Removes entries that are of no use, if they are the first: those of what was dropped last.
    pub(super) fn trim(&mut self, channels: &Channels) {
        self.by_event.first(oldest_in(channels));
        self.with_events.first(last_in(channels, true));
        self.without_events.first(last_in(channels, false));
    }
}

/// The oldest event of a channel.
fn oldest_in(channels: &Channels) -> impl Fn(&Channel) -> Option<u64> {
    |channel| channels.get(channel)?.oldest()
}

/// The last event of a channel that has some, or that has none.
fn last_in(channels: &Channels, has_events: bool) -> impl Fn(&Channel) -> Option<u64> {
    move |channel| {
        let history = channels.get(channel)?;
        (history.has_events() == has_events).then(|| history.last())
    }
}

/// Channels by a number. A change of it is noticed when the channel is the first, so that it costs
/// nothing before.
#[derive(Default)]
struct Oldest(BinaryHeap<Reverse<(u64, Channel)>>);

impl Oldest {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn add(&mut self, number: u64, channel: Channel) {
        self.0.push(Reverse((number, channel)));
    }

    /// The entry of the channel with the smallest number. `number` is what a channel has now, and
    /// `None` if it does not belong here any more.
    fn first(
        &mut self,
        number: impl Fn(&Channel) -> Option<u64>,
    ) -> Option<PeekMut<'_, Reverse<(u64, Channel)>>> {
        loop {
            let mut first = self.0.peek_mut()?;
            let Reverse((noted, channel)) = &mut *first;
            match number(channel) {
                None => drop(PeekMut::pop(first)),
                Some(number) if number > *noted => *noted = number,
                Some(_) => break,
            }
        }
        self.0.peek_mut()
    }

    /// Takes that channel.
    fn take(&mut self, number: impl Fn(&Channel) -> Option<u64>) -> Option<Channel> {
        self.first(number).map(|first| PeekMut::pop(first).0.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(name: &str) -> Channel {
        Channel::new(name).unwrap()
    }

    #[test]
    fn channels_are_taken_in_the_order_that_they_have_by_then() {
        let mut oldest = Oldest::default();
        for (number, name) in [(1, "a"), (2, "b"), (3, "c"), (4, "d"), (4, "d")] {
            oldest.add(number, channel(name));
        }
        let mut now: HashMap<Channel, u64> =
            [("a", 9), ("c", 3), ("d", 5)].map(|(name, number)| (channel(name), number)).into();
        let mut taken = Vec::new();
        while let Some(first) = oldest.take(|it| now.get(it).copied()) {
            now.remove(&first);
            taken.push(first.to_string());
        }
        assert_eq!(taken, ["c", "d", "a"], "b is gone, and d counts once");
        assert_eq!(oldest.len(), 0);
    }

    /// Channels that are replaced leave entries behind.
    #[test]
    fn entries_are_bounded() {
        let (mut order, mut channels) = (Order::default(), HashMap::new());
        for last in 0..10_000 {
            channels.insert(channel("a"), ChannelHistory::without_events(last, false, 0));
            order.note(&channel("a"), &channels[&channel("a")], None);
            order.tidy(&channels);
            assert!(order.entries() <= ENTRIES_MIN + 4);
        }
        assert_eq!(order.silent_channel(&channels), Some(channel("a")));
    }
}
