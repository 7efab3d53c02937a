//! The channels that the hub wants, and which of them Redis has confirmed. Look here for what waits
//! for a confirmation.

use std::collections::{BTreeSet, HashMap, HashSet};

use headwater_core::Channel;
use tokio::sync::oneshot;

/// The wanted channels. The hub adds and removes them, the session confirms them.
#[derive(Default)]
pub(crate) struct Subscriptions {
    channels: HashMap<Channel, ChannelState>,
    confirmed: usize,
    /// Denied channels that the hub has received before, so that streams may be waiting.
    denied: BTreeSet<Channel>,
    /// Channels that were added or removed since the session last took the changes. They are
    /// recorded only during a session, since a new session subscribes to everything. So the set is
    /// bounded by the channels that change between two such calls.
    changes: HashSet<Channel>,
    in_session: bool,
}

/// The state of a wanted channel.
#[derive(Default)]
struct ChannelState {
    /// Whether Redis confirmed it in this session.
    confirmed: bool,
    /// Whether the hub has received the channel's baseline, in this session or before.
    had_baseline: bool,
    /// Whether Redis denied it in this session, so that there is nothing to wait for.
    denied: bool,
    /// What waits for the confirmation.
    waiters: Vec<oneshot::Sender<()>>,
}

/// The state of a channel's confirmation.
#[derive(Debug)]
pub(crate) enum Confirmation {
    Confirmed,
    /// Redis denies it, or the hub no longer wants the channel.
    Denied,
    /// Resolves when Redis confirms the channel; the sender is dropped if Redis denies it.
    Pending(oneshot::Receiver<()>),
}

impl Subscriptions {
    /// Adds a channel; returns whether the session must be notified.
    pub(super) fn insert(&mut self, channel: &Channel) -> bool {
        self.channels.entry(channel.clone()).or_default();
        self.record_change(channel)
    }

    /// Removes a channel; returns whether the session must be notified.
    pub(super) fn remove(&mut self, channel: &Channel) -> bool {
        let removed = self.channels.remove(channel);
        self.denied.remove(channel);
        if removed.is_some_and(|subscription| subscription.confirmed) {
            self.confirmed -= 1;
        }
        self.record_change(channel)
    }

    fn record_change(&mut self, channel: &Channel) -> bool {
        if self.in_session {
            self.changes.insert(channel.clone());
        }
        self.in_session
    }

    /// Records that the hub has the channel's baseline, and receives it.
    pub(super) fn confirm(&mut self, channel: &Channel) {
        let Some(subscription) = self.channels.get_mut(channel) else { return };
        for waiter in subscription.waiters.drain(..) {
            // The receiver may be gone.
            let _ = waiter.send(());
        }
        subscription.had_baseline = true;
        subscription.denied = false;
        self.denied.remove(channel);
        if !std::mem::replace(&mut subscription.confirmed, true) {
            self.confirmed += 1;
        }
    }

    /// Whether the hub has the channel's baseline: not if the channel was removed and added again.
    pub(super) fn had_baseline(&self, channel: &Channel) -> bool {
        self.channels.get(channel).is_some_and(|subscription| subscription.had_baseline)
    }

    /// Records that Redis denied a channel; this drops its waiters.
    pub(super) fn deny(&mut self, channel: &Channel) {
        if let Some(subscription) = self.channels.get_mut(channel) {
            subscription.denied = true;
            subscription.waiters.clear();
            if subscription.had_baseline {
                self.denied.insert(channel.clone());
            }
        }
    }

    /// A channel that Redis denies now and did not deny before.
    pub(super) fn denied(&self) -> Option<&Channel> {
        self.denied.first()
    }

    /// Whether a channel is confirmed, or what to wait for.
    pub(super) fn confirmation(&mut self, channel: &Channel) -> Confirmation {
        let Some(subscription) = self.channels.get_mut(channel) else {
            return Confirmation::Denied;
        };
        if subscription.confirmed {
            return Confirmation::Confirmed;
        }
        if subscription.denied {
            return Confirmation::Denied;
        }
        let (waiter, confirmation) = oneshot::channel();
        // Dropped receivers are removed, so the number of waiting streams bounds the list.
        subscription.waiters.retain(|waiter| !waiter.is_closed());
        subscription.waiters.push(waiter);
        Confirmation::Pending(confirmation)
    }

    pub(super) fn wanted(&self) -> usize {
        self.channels.len()
    }

    pub(super) fn confirmed(&self) -> usize {
        self.confirmed
    }

    /// Starts a session: returns all wanted channels, and records changes from here on.
    pub(super) fn begin(&mut self) -> Vec<Channel> {
        self.in_session = true;
        self.changes = HashSet::new();
        self.channels.keys().cloned().collect()
    }

    /// Ends a session: nothing is confirmed any more.
    pub(super) fn end(&mut self) {
        self.in_session = false;
        self.changes = HashSet::new();
        for subscription in self.channels.values_mut() {
            // Waiters stay: the next session may confirm the channel.
            subscription.confirmed = false;
            subscription.denied = false;
        }
        self.confirmed = 0;
        self.denied.clear();
    }

    /// The channels that were added or removed since the last call.
    pub(super) fn take_changes(&mut self) -> Vec<Channel> {
        self.changes.drain().collect()
    }

    /// Splits channels into those that are wanted and those that are not.
    pub(super) fn partition(&self, channels: Vec<Channel>) -> (Vec<Channel>, Vec<Channel>) {
        channels.into_iter().partition(|channel| self.channels.contains_key(channel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(wanted: &mut Subscriptions, channel: &Channel) -> oneshot::Receiver<()> {
        match wanted.confirmation(channel) {
            Confirmation::Pending(confirmation) => confirmation,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn changes_are_recorded_only_during_a_session() {
        let (a, b) = (Channel::new("a").unwrap(), Channel::new("b").unwrap());
        let mut wanted = Subscriptions::default();
        wanted.insert(&a);
        wanted.insert(&b);
        wanted.remove(&b);
        assert_eq!(wanted.take_changes(), []);
        assert_eq!(wanted.begin(), std::slice::from_ref(&a));
        assert!(wanted.insert(&b) && wanted.insert(&b));
        assert_eq!(wanted.take_changes(), std::slice::from_ref(&b));
        assert_eq!(wanted.partition(vec![a.clone(), b.clone()]), (vec![a.clone(), b], vec![]));
        wanted.remove(&a);
        assert_eq!(wanted.partition(vec![a.clone()]), (vec![], vec![a]));
        wanted.end();
        assert_eq!(wanted.take_changes(), []);
        assert_eq!(wanted.wanted(), 1);
    }

    #[test]
    fn confirmations_are_counted_and_reach_waiters() {
        let (a, b) = (Channel::new("a").unwrap(), Channel::new("b").unwrap());
        let mut wanted = Subscriptions::default();
        wanted.insert(&a);
        wanted.begin();
        assert!(matches!(wanted.confirmation(&b), Confirmation::Denied), "it is not wanted");
        let mut confirmation = pending(&mut wanted, &a);
        assert!(confirmation.try_recv().is_err());
        wanted.confirm(&a);
        wanted.confirm(&a);
        wanted.confirm(&b);
        assert_eq!(confirmation.try_recv(), Ok(()));
        assert!(matches!(wanted.confirmation(&a), Confirmation::Confirmed));
        assert_eq!(wanted.confirmed(), 1);
        wanted.remove(&a);
        assert_eq!(wanted.confirmed(), 0);
        wanted.insert(&a);
        let mut confirmation = pending(&mut wanted, &a);
        wanted.deny(&a);
        assert_eq!(confirmation.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert!(matches!(wanted.confirmation(&a), Confirmation::Denied));
        wanted.remove(&a);
        wanted.insert(&a);
        let mut confirmation = pending(&mut wanted, &a);
        wanted.end();
        assert!(confirmation.try_recv().is_err(), "the next session may confirm it");
        wanted.begin();
        wanted.confirm(&a);
        assert_eq!(confirmation.try_recv(), Ok(()));
    }
}
