//! The channels that the hub wants, and which of them Redis has confirmed. Look here for what waits
//! for a confirmation.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use headwater_core::Channel;
use headwater_core::broker::{BrokerStatus, Part};
use headwater_core::log::Epoch;
use tokio::sync::{Notify, oneshot};

use crate::library::LogMode;

/// The channels that the hub wants, and the state of the connection. The hub adds and removes
/// channels, the session confirms them.
#[derive(Default)]
pub(crate) struct Wanted {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    channels: HashMap<Channel, ChannelState>,
    /// Channels that were added or removed since the session last took the changes. They are
    /// recorded only during a session, since a new session subscribes to everything. So the set is
    /// bounded by the channels that change between two such calls.
    changes: HashSet<Channel>,
    in_session: bool,
    log_mode: LogMode,
    /// The epoch of the log, once it is known.
    epoch: Option<Epoch>,
    status: BrokerStatus,
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

impl Wanted {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert(&self, channel: &Channel) {
        let mut state = self.state();
        state.channels.entry(channel.clone()).or_default();
        self.record_change(state, channel);
    }

    pub(crate) fn remove(&self, channel: &Channel) {
        let mut state = self.state();
        let removed = state.channels.remove(channel);
        if removed.is_some_and(|subscription| subscription.confirmed) {
            state.status.channels_confirmed -= 1;
        }
        self.record_change(state, channel);
    }

    fn record_change(&self, mut state: MutexGuard<'_, State>, channel: &Channel) {
        if state.in_session {
            state.changes.insert(channel.clone());
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Records that Redis confirmed a channel, in this session or before.
    pub(crate) fn confirm(&self, channel: &Channel) {
        let mut state = self.state();
        let Some(subscription) = state.channels.get_mut(channel) else { return };
        for waiter in subscription.waiters.drain(..) {
            // The receiver may be gone.
            let _ = waiter.send(());
        }
        subscription.had_baseline = true;
        if !std::mem::replace(&mut subscription.confirmed, true) {
            state.status.channels_confirmed += 1;
        }
    }

    /// Whether the hub has the channel's baseline: not if the channel was removed and added again.
    pub(crate) fn had_baseline(&self, channel: &Channel) -> bool {
        self.state().channels.get(channel).is_some_and(|subscription| subscription.had_baseline)
    }

    /// Records that Redis denied a channel; this drops its waiters.
    pub(crate) fn deny(&self, channel: &Channel) {
        if let Some(subscription) = self.state().channels.get_mut(channel) {
            *subscription = ChannelState { denied: true, ..ChannelState::default() };
        }
    }

    /// Whether a channel is confirmed, or what to wait for.
    pub(crate) fn confirmation(&self, channel: &Channel) -> Confirmation {
        let mut state = self.state();
        let Some(subscription) = state.channels.get_mut(channel) else {
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

    pub(crate) fn log_mode(&self) -> LogMode {
        self.state().log_mode
    }

    pub(crate) fn set_log_mode(&self, log_mode: LogMode) {
        self.state().log_mode = log_mode;
    }

    /// The epoch of the log; `None` until it is known.
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        self.state().epoch
    }

    pub(crate) fn set_epoch(&self, epoch: Epoch) {
        self.state().epoch = Some(epoch);
    }

    pub(crate) fn status(&self) -> BrokerStatus {
        let state = self.state();
        let mut status = state.status.clone();
        status.channels_wanted = state.channels.len();
        status
    }

    pub(crate) fn update_status(&self, update: impl FnOnce(&mut BrokerStatus)) {
        update(&mut self.state().status);
    }

    /// Waits until a channel was added or removed. Cancel safe.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Starts a session: returns all wanted channels, and records changes from here on.
    pub(crate) fn begin(&self) -> Vec<Channel> {
        let mut state = self.state();
        state.in_session = true;
        state.changes = HashSet::new();
        state.channels.keys().cloned().collect()
    }

    /// Ends a session: nothing is confirmed any more.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.in_session = false;
        state.changes = HashSet::new();
        for subscription in state.channels.values_mut() {
            // Waiters stay: the next session may confirm the channel.
            subscription.confirmed = false;
            subscription.denied = false;
        }
        state.status.delivers = Part::failed("not connected to Redis");
        state.status.lag = None;
        state.status.channels_confirmed = 0;
    }

    /// The channels that were added or removed since the last call.
    pub(crate) fn take_changes(&self) -> Vec<Channel> {
        self.state().changes.drain().collect()
    }

    /// Splits channels into those that are wanted and those that are not.
    pub(crate) fn partition(&self, channels: Vec<Channel>) -> (Vec<Channel>, Vec<Channel>) {
        let state = self.state();
        channels.into_iter().partition(|channel| state.channels.contains_key(channel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(wanted: &Wanted, channel: &Channel) -> oneshot::Receiver<()> {
        match wanted.confirmation(channel) {
            Confirmation::Pending(confirmation) => confirmation,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn changes_are_recorded_only_during_a_session() {
        let (a, b) = (Channel::new("a").unwrap(), Channel::new("b").unwrap());
        let wanted = Wanted::default();
        wanted.insert(&a);
        wanted.insert(&b);
        wanted.remove(&b);
        assert_eq!(wanted.take_changes(), []);
        assert_eq!(wanted.begin(), std::slice::from_ref(&a));
        wanted.insert(&b);
        wanted.insert(&b);
        assert_eq!(wanted.take_changes(), std::slice::from_ref(&b));
        assert_eq!(wanted.partition(vec![a.clone(), b.clone()]), (vec![a.clone(), b], vec![]));
        wanted.remove(&a);
        assert_eq!(wanted.partition(vec![a.clone()]), (vec![], vec![a]));
        wanted.end();
        assert_eq!(wanted.take_changes(), []);
        assert_eq!(wanted.status().channels_wanted, 1);
    }

    #[test]
    fn confirmations_are_counted_and_reach_waiters() {
        let (a, b) = (Channel::new("a").unwrap(), Channel::new("b").unwrap());
        let wanted = Wanted::default();
        wanted.insert(&a);
        wanted.begin();
        assert!(matches!(wanted.confirmation(&b), Confirmation::Denied), "it is not wanted");
        let mut confirmation = pending(&wanted, &a);
        assert!(confirmation.try_recv().is_err());
        wanted.confirm(&a);
        wanted.confirm(&a);
        wanted.confirm(&b);
        assert_eq!(confirmation.try_recv(), Ok(()));
        assert!(matches!(wanted.confirmation(&a), Confirmation::Confirmed));
        assert_eq!(wanted.status().channels_confirmed, 1);
        wanted.remove(&a);
        assert_eq!(wanted.status().channels_confirmed, 0);
        wanted.insert(&a);
        let mut confirmation = pending(&wanted, &a);
        wanted.deny(&a);
        assert_eq!(confirmation.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert!(matches!(wanted.confirmation(&a), Confirmation::Denied));
        wanted.remove(&a);
        wanted.insert(&a);
        let mut confirmation = pending(&wanted, &a);
        wanted.end();
        assert!(confirmation.try_recv().is_err(), "the next session may confirm it");
        wanted.begin();
        wanted.confirm(&a);
        assert_eq!(confirmation.try_recv(), Ok(()));
    }
}
