//! The embedded broker: its log is in this process. Look here for the minimum that a broker with a
//! log does.

mod channel_log;
mod log;
#[cfg(test)]
mod restart_tests;
mod restore;
mod store;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::broker::{Broker, BrokerFuture, BrokerStatus, History, ReadRange, Sink};
use crate::channel::Channel;
use crate::clock::now_ms;
use crate::error::{Error, ErrorKind};
use crate::log::RetentionRules;
use crate::publish::{Publish, Receipt};

use log::Log;

/// How often the log is synced to disk. A power failure loses what was published since.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Carries events within this process. The default, for a single node.
///
/// It retains the history of every channel, within its [retention](RetentionRules), so that streams
/// resume without a gap. The history starts with the process, or with the directory that stores it.
pub struct MemoryBroker {
    sink: Option<Sink>,
    log: Arc<Mutex<Log>>,
    /// The task that syncs the log, if it is stored in a directory.
    syncing: Option<AbortHandle>,
}

impl MemoryBroker {
    /// An empty broker with the default retention.
    pub fn new() -> Self {
        Self::with_retention(RetentionRules::default())
    }

    /// An empty broker with these retention rules.
    pub fn with_retention(rules: RetentionRules) -> Self {
        Self { sink: None, log: Arc::new(Mutex::new(Log::new(rules))), syncing: None }
    }

    /// A broker that stores its log in a directory and continues the log that is there: positions
    /// and history survive a restart, even after the process was killed. Events are written before
    /// they are acknowledged, and synced to disk about once per second, so a power failure can lose
    /// about a second of events.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`] if another process has the directory open;
    /// [`ErrorKind::Invalid`] if it contains foreign files, or a newer format;
    /// [`ErrorKind::Unavailable`] if the operating system fails to read or write it;
    /// [`ErrorKind::NoRuntime`] outside of a Tokio runtime.
    pub fn open(directory: impl AsRef<Path>, rules: RetentionRules) -> Result<Self, Error> {
        let runtime = Handle::try_current().map_err(|error| {
            Error::new(ErrorKind::NoRuntime, "open the broker inside a Tokio runtime")
                .with_source(error)
        })?;
        let log = Arc::new(Mutex::new(Log::open(rules, directory.as_ref(), now_ms())?));
        let syncing = Some(runtime.spawn(sync(Arc::downgrade(&log))).abort_handle());
        Ok(Self { sink: None, log, syncing })
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }
}

impl Default for MemoryBroker {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for MemoryBroker {
    fn drop(&mut self) {
        if let Some(syncing) = &self.syncing {
            syncing.abort();
        }
    }
}

/// Syncs the log to disk about once per second.
async fn sync(log: Weak<Mutex<Log>>) {
    loop {
        tokio::time::sleep(SYNC_INTERVAL).await;
        let Some(log) = log.upgrade() else { return };
        // It fails only when the runtime shuts down.
        let _ = tokio::task::spawn_blocking(move || run_upkeep(&log)).await;
    }
}

/// Runs the upkeep that is due. The disk may take seconds, so the lock, which publishers and
/// readers need, is not held meanwhile.
fn run_upkeep(log: &Mutex<Log>) {
    // A separate statement, at whose end the lock is released.
    let work = lock(log).begin_upkeep(now_ms());
    if let Some(work) = work {
        let done = work.run();
        lock(log).end_upkeep(done);
    }
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Broker for MemoryBroker {
    fn start(&mut self, sink: Sink) {
        self.sink = Some(sink);
    }

    /// Holds the log's lock until the hub has the events, so that it receives them in order.
    fn publish(&self, batch: Vec<Publish>) -> BrokerFuture<'_, Result<Vec<Receipt>, Error>> {
        let result = self.log().append(batch, now_ms(), |channel, frame, previous| {
            if let Some(sink) = &self.sink {
                sink.frame(channel, frame, previous);
            }
        });
        Box::pin(std::future::ready(result))
    }

    // Nothing to do: the hub knows its subscribers, and there is no other node.
    fn subscribe(&self, _channel: &Channel) {}

    fn unsubscribe(&self, _channel: &Channel) {}

    fn subscribed<'a>(&'a self, channel: &'a Channel) -> BrokerFuture<'a, Result<(), Error>> {
        let log = self.log();
        if let Some(sink) = &self.sink {
            sink.log(log.epoch(), log.last());
            sink.baseline(channel, log.baseline(channel));
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn read<'a>(
        &'a self,
        channel: &'a Channel,
        range: ReadRange,
    ) -> BrokerFuture<'a, Result<History, Error>> {
        Box::pin(std::future::ready(Ok(self.log().read(channel, range, now_ms()))))
    }

    fn status(&self) -> BrokerStatus {
        BrokerStatus::ready()
    }
}
