//! The desired state of this node in Redis, and the state of its connections. Look here for what
//! the hub, the session and the reconciler share.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use headwater_core::Channel;
use headwater_core::broker::{BrokerStatus, Part};
use headwater_core::log::Epoch;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::accepted::AcceptedEvents;
use super::revocations::{OwnRevocations, Retained};
use super::subscriptions::{Confirmation, Subscriptions};
use crate::library::{Accepted, Heard, LogMode};
use crate::limits::{EPOCHS_MAX, NOTES_AGAIN_WITHIN};

/// What this node wants of Redis, and what Redis has confirmed.
pub(crate) struct Desired {
    state: Mutex<State>,
    /// Notifies the session.
    changed: Notify,
    /// Notifies the reconciler.
    due: Notify,
}

struct State {
    subscriptions: Subscriptions,
    log_mode: LogMode,
    /// Set if the session must restart, since the log mode has changed.
    must_restart: bool,
    status: BrokerStatus,
    /// Who waits until the node has heard everything that the log has.
    behind: Vec<oneshot::Sender<()>>,
    revocations: Revocations,
    own_revocations: OwnRevocations,
    /// How often revocations had to be read.
    revocation_reads: u64,
    heard_before: Option<Heard>,
    /// The last epochs of the log, the current one at the end.
    epochs: VecDeque<Epoch>,
    accepted: AcceptedEvents,
    /// Since when all nodes could note their channels with ephemeral events in the current epoch;
    /// `None` as long as this node has seen one epoch only.
    notable_since: Option<Instant>,
}

/// Whether this node knows what was revoked while it was disconnected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Revocations {
    /// The node does not receive new ones yet, so reading the others would be too early.
    Unsubscribed,
    /// Those since this time, in milliseconds since 1970, must be read. A read is complete only if
    /// this has not been asked for again since it began: the number differs then.
    Unread {
        since_ms: u64,
        number: u64,
    },
    Known,
}

impl State {
    fn may_lack_notes(&self) -> bool {
        self.notable_since.is_some_and(|at| at.elapsed() < NOTES_AGAIN_WITHIN)
    }
}

impl Desired {
    pub(crate) fn new() -> Self {
        let waiting = || Part::failed("not connected to Redis yet");
        let mut status = BrokerStatus::default();
        status.delivers = waiting();
        status.keeps = waiting();
        status.reads = waiting();
        status.access = waiting();
        let state = State {
            subscriptions: Subscriptions::default(),
            log_mode: LogMode::Unknown,
            must_restart: false,
            status,
            behind: Vec::new(),
            revocations: Revocations::Unsubscribed,
            own_revocations: OwnRevocations::default(),
            revocation_reads: 0,
            heard_before: None,
            epochs: VecDeque::new(),
            accepted: AcceptedEvents::default(),
            notable_since: None,
        };
        Self { state: Mutex::new(state), changed: Notify::new(), due: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // === channels ===

    pub(crate) fn insert(&self, channel: &Channel) {
        if self.state().subscriptions.insert(channel) {
            self.changed.notify_one();
        }
    }

    pub(crate) fn remove(&self, channel: &Channel) {
        if self.state().subscriptions.remove(channel) {
            self.changed.notify_one();
        }
    }

    pub(crate) fn confirm(&self, channel: &Channel) {
        self.state().subscriptions.confirm(channel);
    }

    pub(crate) fn had_baseline(&self, channel: &Channel) -> bool {
        self.state().subscriptions.had_baseline(channel)
    }

    pub(crate) fn deny(&self, channel: &Channel) {
        self.state().subscriptions.deny(channel);
    }

    pub(crate) fn confirmation(&self, channel: &Channel) -> Confirmation {
        self.state().subscriptions.confirmation(channel)
    }

    pub(crate) fn take_changes(&self) -> Vec<Channel> {
        self.state().subscriptions.take_changes()
    }

    pub(crate) fn partition(&self, channels: Vec<Channel>) -> (Vec<Channel>, Vec<Channel>) {
        self.state().subscriptions.partition(channels)
    }

    // === sessions ===

    /// Starts a session: returns all wanted channels.
    pub(crate) fn begin(&self) -> Vec<Channel> {
        let mut state = self.state();
        state.must_restart = false;
        state.subscriptions.begin()
    }

    /// Ends a session, which has heard of this position of the log.
    pub(crate) fn end(&self, why: &str, heard: Option<Heard>) {
        let mut state = self.state();
        if state.heard_before.is_none() {
            state.heard_before = heard;
        }
        state.subscriptions.end();
        state.revocations = Revocations::Unsubscribed;
        let status = &mut state.status;
        status.reconnects += 1;
        status.lag = None;
        let lost = Part::failed(format!("the connection to Redis was lost: {why}"));
        status.delivers = lost.clone();
        status.access = lost;
    }

    /// Waits until there is something for the session to do. Cancel safe.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether the session must restart.
    pub(crate) fn must_restart(&self) -> bool {
        self.state().must_restart
    }

    // === the log ===

    pub(crate) fn log_mode(&self) -> LogMode {
        self.state().log_mode
    }

    /// Records whether the log can be used. Restarts the session if that changes what it passes on.
    pub(crate) fn set_log_mode(&self, log_mode: LogMode) {
        let mut state = self.state();
        let before = std::mem::replace(&mut state.log_mode, log_mode);
        let is_denied = |mode| mode == LogMode::Denied;
        if is_denied(log_mode) && !is_denied(before) {
            tracing::warn!(
                "retention disabled: Redis denies the keys headwater:{{0}}:*, so streams resume on \
                 the same node only"
            );
        }
        if before != LogMode::Unknown && is_denied(before) != is_denied(log_mode) {
            state.must_restart = true;
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Resolves when the node has heard everything that the log has now; never sends if it cannot.
    pub(crate) fn wait_for_log(&self) -> oneshot::Receiver<()> {
        let (waiter, heard) = oneshot::channel();
        let mut state = self.state();
        state.behind.retain(|waiter| !waiter.is_closed());
        state.behind.push(waiter);
        drop(state);
        self.changed.notify_one();
        heard
    }

    /// The position that was heard of before a connection was lost, until Redis is known to have it
    /// or to have begun a new epoch: what is heard of later may be above what it has lost.
    pub(crate) fn heard_before(&self) -> Option<Heard> {
        self.state().heard_before.clone()
    }

    /// Records that Redis knows of that position.
    pub(crate) fn forget_heard_before(&self) {
        self.state().heard_before = None;
    }

    /// Takes those that wait for the log: one query answers all of them.
    pub(crate) fn take_behind(&self) -> Vec<oneshot::Sender<()>> {
        let mut behind = std::mem::take(&mut self.state().behind);
        behind.retain(|waiter| !waiter.is_closed());
        behind
    }

    /// Returns those whose query failed.
    pub(crate) fn return_behind(&self, waiters: Vec<oneshot::Sender<()>>) {
        self.state().behind.extend(waiters);
    }

    /// Enters an epoch; returns false if it is one that has ended. Then the reconciler must act.
    pub(crate) fn enter_epoch(&self, epoch: Epoch) -> bool {
        let mut state = self.state();
        if state.epochs.contains(&epoch) {
            let is_current = state.epochs.back() == Some(&epoch);
            if !is_current {
                self.due.notify_one();
            }
            return is_current;
        }
        if state.epochs.len() == EPOCHS_MAX {
            state.epochs.pop_front();
        }
        if !state.epochs.is_empty() {
            state.notable_since = Some(Instant::now());
        }
        state.epochs.push_back(epoch);
        true
    }

    /// The epochs before the current one.
    pub(crate) fn ended_epochs(&self) -> Vec<Epoch> {
        let state = self.state();
        state.epochs.iter().rev().skip(1).copied().collect()
    }

    /// Records that Redis accepted events in an epoch, up to this offset, over the connection with
    /// this generation.
    pub(crate) fn record_accepted(&self, epoch: Epoch, offset: u64, generation: u64) {
        self.state().accepted.record(epoch, offset, generation);
    }

    /// What Redis has accepted, as it is reported over the connection with this generation.
    pub(crate) fn accepted(&self, generation: u64) -> Vec<Accepted> {
        self.state().accepted.report(generation)
    }

    /// Records that the Redis of this connection is in this epoch, and knows what was reported.
    pub(crate) fn forget_accepted(&self, reported: &[Accepted], generation: u64, epoch: Epoch) {
        self.state().accepted.forget(reported, generation, epoch);
    }

    /// Whether Redis may lack notes of which channels receive ephemeral events: the log was reset,
    /// and with it the notes may be gone that nodes make again once they are connected.
    pub(crate) fn may_lack_notes(&self) -> bool {
        self.state().may_lack_notes()
    }

    // === revocations ===

    pub(crate) fn revocations(&self) -> Revocations {
        self.state().revocations
    }

    /// Records that revocations arrive from now on: those since this time must be read.
    pub(crate) fn read_revocations(&self, missed_since_ms: u64) {
        let mut state = self.state();
        state.revocation_reads += 1;
        let number = state.revocation_reads;
        state.revocations = Revocations::Unread { since_ms: missed_since_ms, number };
        drop(state);
        self.due.notify_one();
    }

    /// Records a revocation that this node has made, and the epoch in which Redis has it.
    pub(crate) fn record_revocation(&self, retained: Retained, epoch: Option<Epoch>) {
        self.state().own_revocations.push(retained, epoch);
    }

    /// The revocations that this node has made, and Redis may not have in this epoch.
    pub(crate) fn revocations_not_in(&self, epoch: Epoch) -> Vec<Retained> {
        self.state().own_revocations.not_in(epoch)
    }

    /// Records that Redis has these in this epoch.
    pub(crate) fn revocations_are_in(&self, repeated: &[Retained], epoch: Epoch) {
        self.state().own_revocations.are_in(repeated, epoch);
    }

    /// Records that they were read, unless they must be read again.
    pub(crate) fn revocations_read(&self, was: Revocations) {
        let mut state = self.state();
        if state.revocations == was {
            state.revocations = Revocations::Known;
            state.status.access = Part::ok();
        }
    }

    /// Waits until the reconciler has something to do at once. Cancel safe.
    pub(crate) async fn due(&self) {
        self.due.notified().await;
    }

    // === status ===

    pub(crate) fn status(&self) -> BrokerStatus {
        let state = self.state();
        let mut status = state.status.clone();
        if status.delivers.is_ok()
            && let Some(channel) = state.subscriptions.denied()
        {
            status.delivers = Part::failed(format!(
                "Redis denies subscribing to channels, of which {channel} is one: give the Redis \
                 user the permissions that docs/redis.md lists"
            ));
        }
        status.channels_wanted = state.subscriptions.wanted();
        status.channels_confirmed = state.subscriptions.confirmed();
        status
    }

    pub(crate) fn update_status(&self, update: impl FnOnce(&mut BrokerStatus)) {
        let mut state = self.state();
        update(&mut state.status);
        if state.may_lack_notes() && !state.status.keeps.is_ok() {
            // Redis refuses the notes as well.
            state.notable_since = Some(Instant::now());
        }
    }
}
