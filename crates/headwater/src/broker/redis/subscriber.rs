//! The one subscriber connection of a node, for ever: connect, serve a session, connect again. Look here
//! for reconnecting, and for what the hub wants against what Redis has confirmed.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::RedisResult;
use ::redis::aio::ConnectionManager;
use tokio::sync::{Notify, oneshot};

use super::connect::Address;
use super::session::Session;
use super::{EphemeralChannels, LogMode, function, is_refused};
use crate::broker::{BrokerStatus, Sink};
use crate::channel::Channel;
use crate::error::ErrorKind;
use crate::frame::now_ms;
use crate::limits::RECONNECT_WAIT_MAX;
use crate::position::Epoch;

/// The first wait before connecting again; doubled up to the limit. Chosen to be kind to a Redis that restarts.
const RECONNECT_WAIT_MIN: Duration = Duration::from_millis(50);

/// What the hub wants to receive, and how the connection is. The hub writes, the session reads.
#[derive(Default)]
pub(super) struct Wanted {
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
    durability: LogMode,
    /// The life of the log, once it is known.
    epoch: Option<Epoch>,
    health: BrokerStatus,
}

/// A channel that is wanted.
#[derive(Default)]
struct Listening {
    /// Whether Redis confirmed it in this session.
    confirmed: bool,
    /// Whether the hub was told where the channel stands, in this session or before.
    had_baseline: bool,
    /// Whether Redis refused it in this session, so that there is nothing to wait for.
    refused: bool,
    /// Those who wait to know.
    waiters: Vec<oneshot::Sender<()>>,
}

impl Wanted {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn insert(&self, channel: &Channel) {
        let mut state = self.state();
        state.channels.entry(channel.clone()).or_default();
        self.change(state, channel);
    }

    pub(super) fn remove(&self, channel: &Channel) {
        let mut state = self.state();
        let removed = state.channels.remove(channel);
        if removed.is_some_and(|listening| listening.confirmed) {
            state.health.channels_confirmed -= 1;
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
    pub(super) fn confirm(&self, channel: &Channel) {
        let mut state = self.state();
        let Some(listening) = state.channels.get_mut(channel) else { return };
        for waiter in listening.waiters.drain(..) {
            // Who waited may have left.
            let _ = waiter.send(());
        }
        listening.had_baseline = true;
        if !std::mem::replace(&mut listening.confirmed, true) {
            state.health.channels_confirmed += 1;
        }
    }

    /// Whether the hub knows where a channel stands: not if it left and came back meanwhile.
    pub(super) fn had_baseline(&self, channel: &Channel) -> bool {
        self.state().channels.get(channel).is_some_and(|listening| listening.had_baseline)
    }

    /// Redis refused a channel: whoever waits for it goes on.
    pub(super) fn refuse(&self, channel: &Channel) {
        if let Some(listening) = self.state().channels.get_mut(channel) {
            *listening = Listening { refused: true, ..Listening::default() };
        }
    }

    /// Something that resolves when a channel is confirmed, or is no longer waited for; `None` if there is
    /// nothing to wait for.
    pub(super) fn confirmation(&self, channel: &Channel) -> Option<oneshot::Receiver<()>> {
        let mut state = self.state();
        let listening = state.channels.get_mut(channel)?;
        if listening.confirmed || listening.refused {
            return None;
        }
        let (waiter, confirmation) = oneshot::channel();
        // Those who gave up make room, so the list is bounded by those who wait.
        listening.waiters.retain(|waiter| !waiter.is_closed());
        listening.waiters.push(waiter);
        Some(confirmation)
    }

    pub(super) fn durability(&self) -> LogMode {
        self.state().durability
    }

    pub(super) fn set_durability(&self, durability: LogMode) {
        self.state().durability = durability;
    }

    /// The life of the log; `None` until it is known.
    pub(super) fn epoch(&self) -> Option<Epoch> {
        self.state().epoch
    }

    pub(super) fn set_epoch(&self, epoch: Epoch) {
        self.state().epoch = Some(epoch);
    }

    pub(super) fn status(&self) -> BrokerStatus {
        let state = self.state();
        BrokerStatus { channels_wanted: state.channels.len(), ..state.health }
    }

    pub(super) fn update_health(&self, update: impl FnOnce(&mut BrokerStatus)) {
        update(&mut self.state().health);
    }

    /// Waits until a channel came or went. Cancel safe.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// A session begins: everything that is wanted now. Changes are noted from here on.
    pub(super) fn begin(&self) -> Vec<Channel> {
        let mut state = self.state();
        state.in_session = true;
        state.changes = HashSet::new();
        state.channels.keys().cloned().collect()
    }

    fn end(&self) {
        let mut state = self.state();
        state.in_session = false;
        state.changes = HashSet::new();
        for listening in state.channels.values_mut() {
            // Those who wait go on waiting for the next session.
            listening.confirmed = false;
            listening.refused = false;
        }
        state.health.ready = false;
        state.health.lag = None;
        state.health.channels_confirmed = 0;
    }

    /// The channels that came or went since the last call.
    pub(super) fn take_changes(&self) -> Vec<Channel> {
        self.state().changes.drain().collect()
    }

    /// Sorts channels into those that are wanted and those that are not.
    pub(super) fn partition(&self, channels: Vec<Channel>) -> (Vec<Channel>, Vec<Channel>) {
        let state = self.state();
        channels.into_iter().partition(|channel| state.channels.contains_key(channel))
    }
}

/// Keeps the node subscribed until its task is aborted.
pub(super) struct Subscriber {
    pub(super) address: Address,
    pub(super) commands: ConnectionManager,
    pub(super) wanted: Arc<Wanted>,
    /// The retention rules as the function reads them; `None` leaves those that are there.
    pub(super) rules: Option<String>,
    /// Which plain Redis channels are listened to.
    pub(super) ephemeral: EphemeralChannels,
    pub(super) sink: Sink,
}

/// What is remembered from one session to the next: where the log was, and where each channel was that
/// the node has received without a hole.
#[derive(Default)]
pub(super) struct Known {
    pub(super) epoch: Option<Epoch>,
    pub(super) lasts: HashMap<Channel, u64>,
    /// When the last session ended, in milliseconds since 1970.
    pub(super) lost_ms: Option<u64>,
    /// Channels of which it is still to be noted in Redis that they get plain events. Bounded by the
    /// table of channels, each of which asks once a day.
    pub(super) unmarked: Vec<Channel>,
}

impl Subscriber {
    pub(super) async fn run(self) {
        let address = &self.address;
        let mut known = Known::default();
        let mut failures = Failures::default();
        loop {
            match address.open().await {
                Ok(connection) => {
                    tracing::info!(%address, "connected to Redis");
                    failures = Failures::default();
                    self.install().await;
                    let lost = Session::new(connection, &self, &mut known).run().await;
                    known.lost_ms = Some(now_ms());
                    self.wanted.end();
                    self.wanted.update_health(|health| health.reconnects += 1);
                    tracing::warn!(%address, "lost the connection to Redis, streams stay open: {lost}");
                }
                Err(error) => failures.log(address, &error),
            }
            tokio::time::sleep(failures.next_wait()).await;
        }
    }

    /// Brings the function into Redis, and the retention rules that it goes by.
    async fn install(&self) {
        let mut commands = self.commands.clone();
        let installed = match function::install(&mut commands).await {
            Ok(mode) => self.write_rules(&mut commands).await.map(|()| mode),
            Err(error) => Err(error),
        };
        match installed {
            Ok(mode) => self.wanted.set_durability(LogMode::On(mode)),
            Err(error) if is_refused(&error) => {
                tracing::warn!(
                    "events are not kept: the Redis user may not use the keys headwater:{{0}}:*, so streams resume on the same node only ({error})"
                );
                self.wanted.set_durability(LogMode::Off);
            }
            Err(error) => tracing::debug!("the Redis function could not be installed: {error}"),
        }
    }

    async fn write_rules(&self, commands: &mut ConnectionManager) -> RedisResult<()> {
        match &self.rules {
            Some(rules) => function::write_rules(commands, rules).await,
            None => Ok(()),
        }
    }
}

/// Attempts that failed in a row.
#[derive(Default)]
struct Failures {
    count: u32,
    logged: Option<String>,
}

impl Failures {
    /// Says the same thing once.
    fn log(&mut self, address: &Address, error: &crate::error::Error) {
        let message = error.to_string();
        if self.logged.as_ref() == Some(&message) {
            tracing::debug!(%address, "Redis: {message}");
            return;
        }
        if error.kind() == ErrorKind::PermissionDenied {
            tracing::error!(%address, "Redis: {message}; trying again until it accepts them");
        } else {
            tracing::warn!(%address, "Redis: {message}; trying again, streams stay open");
        }
        self.logged = Some(message);
    }

    /// Nothing after a loss, then longer and longer, with full jitter.
    fn next_wait(&mut self) -> Duration {
        let longest = RECONNECT_WAIT_MIN.saturating_mul(1 << self.count.min(16));
        self.count += 1;
        longest.min(RECONNECT_WAIT_MAX).mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_are_bounded() {
        let mut failures = Failures::default();
        for count in 0..100 {
            let wait = failures.next_wait();
            assert!(
                wait <= RECONNECT_WAIT_MAX && wait <= RECONNECT_WAIT_MIN * (1 << count.min(20))
            );
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
        assert!(wanted.confirmation(&b).is_none(), "nobody asked for it");
        let mut confirmation = wanted.confirmation(&a).unwrap();
        assert!(confirmation.try_recv().is_err());
        wanted.confirm(&a);
        wanted.confirm(&a);
        wanted.confirm(&b);
        assert_eq!(confirmation.try_recv(), Ok(()));
        assert!(wanted.confirmation(&a).is_none(), "it is confirmed");
        assert_eq!(wanted.status().channels_confirmed, 1);
        wanted.remove(&a);
        assert_eq!(wanted.status().channels_confirmed, 0);
        wanted.insert(&a);
        let mut confirmation = wanted.confirmation(&a).unwrap();
        wanted.refuse(&a);
        assert_eq!(confirmation.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert!(wanted.confirmation(&a).is_none(), "it is refused");
        wanted.remove(&a);
        wanted.insert(&a);
        let mut confirmation = wanted.confirmation(&a).unwrap();
        wanted.end();
        assert!(confirmation.try_recv().is_err(), "the next session may confirm it");
        wanted.begin();
        wanted.confirm(&a);
        assert_eq!(confirmation.try_recv(), Ok(()));
    }
}
