//! Channels whose last subscriber left, until they are unsubscribed. Look here for the hub's one
//! background task.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::channel::Channel;
use crate::limits::LINGERING_CHANNELS_MAX;

/// The number of channels that one turn checks, so that a hundred thousand of them do not block the
/// runtime.
const SWEEP_MAX: usize = 1024;

/// How often the rings of idle channels are checked for frames that are too old.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(30);

/// The list of channels that linger, and the task that sweeps it. There is one task per hub.
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

    /// Starts the task, once. `sweep` receives the channels whose linger may be over, and whether
    /// to expire rings. It returns the channels to check again, each with its time, or `None` if
    /// the hub is gone.
    pub(super) fn start<S>(self: &Arc<Self>, runtime: &Handle, sweep: impl FnOnce() -> S)
    where
        S: FnMut(Vec<Channel>, bool) -> Option<Vec<(Instant, Channel)>> + Send + 'static,
    {
        self.task.get_or_init(|| {
            runtime.spawn(run(Arc::clone(self), sweep()));
        });
    }

    /// Adds a channel. Returns the one that is due first if there are too many: its linger is over.
    pub(super) fn add(&self, channel: Channel) -> Option<Channel> {
        let excess = {
            let mut due = self.due();
            due.push(Reverse((Instant::now() + self.period, channel)));
            if due.len() > LINGERING_CHANNELS_MAX { due.pop() } else { None }
        };
        self.changed.notify_one();
        excess.map(|Reverse((_, channel))| channel)
    }

    /// Wakes the task after the hub was dropped, so that it ends.
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

async fn run(
    linger: Arc<Linger>,
    mut sweep: impl FnMut(Vec<Channel>, bool) -> Option<Vec<(Instant, Channel)>>,
) {
    let mut expire_at = Instant::now() + EXPIRE_INTERVAL;
    loop {
        let expires = Instant::now() >= expire_at;
        if expires {
            expire_at = Instant::now() + EXPIRE_INTERVAL;
        }
        let due = std::iter::from_fn(|| linger.pop_due()).take(SWEEP_MAX).collect();
        let Some(not_over) = sweep(due, expires) else { return };
        linger.due().extend(not_over.into_iter().map(Reverse));
        let next_check = linger.next_due().map_or(expire_at, |due| due.min(expire_at));
        let _ = tokio::time::timeout_at(next_check, linger.changed.notified()).await;
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_channels_that_linger_are_bounded_and_the_oldest_go_first() {
        let linger = Linger::new(Duration::from_secs(60));
        let channel = |number: usize| Channel::new(format!("c{number}")).unwrap();
        for number in 0..LINGERING_CHANNELS_MAX {
            assert_eq!(linger.add(channel(number)), None);
            tokio::time::advance(Duration::from_nanos(1)).await;
        }
        for number in 0..10 {
            let excess = linger.add(channel(LINGERING_CHANNELS_MAX + number));
            assert_eq!(excess, Some(channel(number)));
            tokio::time::advance(Duration::from_nanos(1)).await;
        }
        assert_eq!(linger.due().len(), LINGERING_CHANNELS_MAX);
    }
}
