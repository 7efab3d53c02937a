//! What the hub wants to receive, against what Redis has confirmed. The hub writes, the session reads; look
//! here for who waits for a confirmation.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use headwater_core::Channel;
use headwater_core::broker::BrokerStatus;
use headwater_core::log::Epoch;
use tokio::sync::{Notify, oneshot};

use crate::library::LogMode;

/// What the hub wants to receive, and how the connection is. The hub writes, the session reads.
#[derive(Default)]
pub(crate) struct Wanted {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    channels: HashMap<Channel, Listening>,
    /// Channels that came or went since the session looked. Kept only while there is a session, for a
    /// new one asks for everything: so it is bounded by what can change between two looks.
    changes: HashSet<Channel>,
    in_session: bool,
    log_mode: LogMode,
    /// The life of the log, once it is known.
    epoch: Option<Epoch>,
    status: BrokerStatus,
}

/// A channel that is wanted.
#[derive(Default)]
struct Listening {
    /// Whether Redis confirmed it in this session.
    confirmed: bool,
    /// Whether the hub was told where the channel stands, in this session or before.
    had_baseline: bool,
    /// Whether Redis denied it in this session, so that there is nothing to wait for.
    denied: bool,
    /// Those who wait to know.
    waiters: Vec<oneshot::Sender<()>>,
}

/// What is known of a channel's subscription.
#[derive(Debug)]
pub(crate) enum Confirmation {
    Confirmed,
    /// Redis denies it, or the hub does not want the channel any more.
    Denied,
    /// Resolves when it is confirmed; it is dropped when Redis denies it.
    Pending(oneshot::Receiver<()>),
}

impl Wanted {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert(&self, channel: &Channel) {
        let mut state = self.state();
        state.channels.entry(channel.clone()).or_default();
        self.change(state, channel);
    }

    pub(crate) fn remove(&self, channel: &Channel) {
        let mut state = self.state();
        let removed = state.channels.remove(channel);
        if removed.is_some_and(|listening| listening.confirmed) {
            state.status.channels_confirmed -= 1;
        }
        self.change(state, channel);
    }

    fn change(&self, mut state: MutexGuard<'_, State>, channel: &Channel) {
        if state.in_session {
            state.changes.insert(channel.clone());
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Redis confirmed a channel, or had done so before.
    pub(crate) fn confirm(&self, channel: &Channel) {
        let mut state = self.state();
        let Some(listening) = state.channels.get_mut(channel) else { return };
        for waiter in listening.waiters.drain(..) {
            // Who waited may have left.
            let _ = waiter.send(());
        }
        listening.had_baseline = true;
        if !std::mem::replace(&mut listening.confirmed, true) {
            state.status.channels_confirmed += 1;
        }
    }

    /// Whether the hub knows where a channel stands: not if it left and came back meanwhile.
    pub(crate) fn had_baseline(&self, channel: &Channel) -> bool {
        self.state().channels.get(channel).is_some_and(|listening| listening.had_baseline)
    }

    /// Redis denied a channel: whoever waits for it goes on.
    pub(crate) fn deny(&self, channel: &Channel) {
        if let Some(listening) = self.state().channels.get_mut(channel) {
            *listening = Listening { denied: true, ..Listening::default() };
        }
    }

    /// Whether a channel is confirmed, or what to wait for.
    pub(crate) fn confirmation(&self, channel: &Channel) -> Confirmation {
        let mut state = self.state();
        let Some(listening) = state.channels.get_mut(channel) else { return Confirmation::Denied };
        if listening.confirmed {
            return Confirmation::Confirmed;
        }
        if listening.denied {
            return Confirmation::Denied;
        }
        let (waiter, confirmation) = oneshot::channel();
        // Receivers that were dropped make room, so the list is bounded by those that wait.
        listening.waiters.retain(|waiter| !waiter.is_closed());
        listening.waiters.push(waiter);
        Confirmation::Pending(confirmation)
    }

    pub(crate) fn log_mode(&self) -> LogMode {
        self.state().log_mode
    }

    pub(crate) fn set_log_mode(&self, log_mode: LogMode) {
        self.state().log_mode = log_mode;
    }

    /// The life of the log; `None` until it is known.
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        self.state().epoch
    }

    pub(crate) fn set_epoch(&self, epoch: Epoch) {
        self.state().epoch = Some(epoch);
    }

    pub(crate) fn status(&self) -> BrokerStatus {
        let state = self.state();
        let mut status = state.status;
        status.channels_wanted = state.channels.len();
        status
    }

    pub(crate) fn update_status(&self, update: impl FnOnce(&mut BrokerStatus)) {
        update(&mut self.state().status);
    }

    /// Waits until a channel came or went. Cancel safe.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// A session begins: everything that is wanted now. Changes are noted from here on.
    pub(crate) fn begin(&self) -> Vec<Channel> {
        let mut state = self.state();
        state.in_session = true;
        state.changes = HashSet::new();
        state.channels.keys().cloned().collect()
    }

    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.in_session = false;
        state.changes = HashSet::new();
        for listening in state.channels.values_mut() {
            // Those who wait go on waiting for the next session.
            listening.confirmed = false;
            listening.denied = false;
        }
        state.status.ready = false;
        state.status.lag = None;
        state.status.channels_confirmed = 0;
    }

    /// The channels that came or went since the last call.
    pub(crate) fn take_changes(&self) -> Vec<Channel> {
        self.state().changes.drain().collect()
    }

    /// Sorts channels into those that are wanted and those that are not.
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
    fn changes_are_noted_only_in_a_session() {
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
    fn confirmations_are_counted_and_told() {
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
