//! Channels whose last subscriber left, until they are unsubscribed. Look here for the linger's one task.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::HubInner;
use crate::channel::Channel;

/// How many channels are looked at in one turn, so that a hundred thousand of them do not hold up the runtime.
const SWEEP_MAX: usize = 1024;

/// How often rings of quiet channels are looked at for what is too old.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(30);

/// The list of channels that linger, and the task that takes them off it. One task per hub.
pub(super) struct Linger {
    period: Duration,
    due: Mutex<BinaryHeap<Reverse<(Instant, Channel)>>>,
    changed: Notify,
    task: OnceLock<()>,
}

impl Linger {
    pub(super) fn new(period: Duration) -> Self {
        Self { period, due: Mutex::default(), changed: Notify::new(), task: OnceLock::new() }
    }

    pub(super) fn period(&self) -> Duration {
        self.period
    }

    /// Starts the task, once.
    pub(super) fn start(self: &Arc<Self>, runtime: &Handle, hub: impl FnOnce() -> Weak<HubInner>) {
        self.task.get_or_init(|| {
            runtime.spawn(run(Arc::clone(self), hub()));
        });
    }

    pub(super) fn add(&self, channel: Channel) {
        self.due().push(Reverse((Instant::now() + self.period, channel)));
        self.changed.notify_one();
    }

    /// Ends the task: the hub is gone.
    pub(super) fn stop(&self) {
        self.changed.notify_one();
    }

    fn due(&self) -> std::sync::MutexGuard<'_, BinaryHeap<Reverse<(Instant, Channel)>>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pop_due(&self) -> Option<Channel> {
        let mut due = self.due();
        let Reverse((at, _)) = due.peek()?;
        if *at > Instant::now() {
            return None;
        }
        due.pop().map(|Reverse((_, channel))| channel)
    }

    fn next_due(&self) -> Option<Instant> {
        self.due().peek().map(|Reverse((at, _))| *at)
    }
}

async fn run(linger: Arc<Linger>, hub: Weak<HubInner>) {
    let mut expire_at = Instant::now() + EXPIRE_INTERVAL;
    loop {
        {
            let Some(hub) = hub.upgrade() else { return };
            if Instant::now() >= expire_at {
                hub.expire_rings();
                expire_at = Instant::now() + EXPIRE_INTERVAL;
            }
            let due = std::iter::from_fn(|| linger.pop_due());
            for channel in due.take(SWEEP_MAX) {
                if let Some(again) = hub.linger_over(&channel) {
                    linger.due().push(Reverse((again, channel)));
                }
            }
        }
        let look_again = linger.next_due().map_or(expire_at, |due| due.min(expire_at));
        let _ = tokio::time::timeout_at(look_again, linger.changed.notified()).await;
        tokio::task::yield_now().await;
    }
}
