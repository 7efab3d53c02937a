//! The embedded broker: the log is in this process. Look here for what a broker must do at the least.

mod log;
#[cfg(test)]
mod restart_tests;
mod restoring;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::{Broker, BrokerFuture, BrokerStatus, History, ReadRange, Receipt, Sink};
use crate::channel::Channel;
use crate::error::{Error, ErrorKind};
use crate::frame::now_ms;
use crate::publish::Publish;
use crate::retention::RetentionRules;

use log::Log;

/// How often the log is put on disk. A loss of power costs what was published since.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Carries events within this process. The default, for one node.
///
/// It keeps a history of every channel, within its [retention](RetentionRules), so that streams resume
/// without a gap. The history is as old as the process, or as the directory that it is kept in.
pub struct MemoryBroker {
    sink: Option<Sink>,
    log: Arc<Mutex<Log>>,
    /// Puts the log on disk, if it is kept in a directory.
    syncing: Option<AbortHandle>,
}

impl MemoryBroker {
    /// An empty broker with the default retention.
    pub fn new() -> Self {
        Self::with_retention(RetentionRules::default())
    }

    /// An empty broker that keeps what the rules say.
    pub fn with_retention(rules: RetentionRules) -> Self {
        Self { sink: None, log: Arc::new(Mutex::new(Log::new(rules))), syncing: None }
    }

    /// A broker that keeps its log in a directory, and goes on with what is there: positions and history
    /// survive a restart, also after the process was killed. What was acknowledged is written before; it is put
    /// on disk about once a second, which is what a loss of power can cost.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`] if another process has the directory open;
    /// [`ErrorKind::Invalid`] if it holds something else;
    /// [`ErrorKind::Unavailable`] if the system fails;
    /// [`ErrorKind::NoRuntime`] outside of a Tokio runtime.
    pub fn open(directory: impl AsRef<Path>, rules: RetentionRules) -> Result<Self, Error> {
        let runtime = Handle::try_current().map_err(|error| {
            Error::new(ErrorKind::NoRuntime, "open the broker inside of a Tokio runtime")
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

/// Puts the log on disk about once a second.
async fn sync(log: Weak<Mutex<Log>>) {
    loop {
        tokio::time::sleep(SYNC_INTERVAL).await;
        let Some(log) = log.upgrade() else { return };
        // It fails only when the runtime ends.
        let _ = tokio::task::spawn_blocking(move || keep_up(&log)).await;
    }
}

/// The disk may take seconds for it. The lock, which publishers and readers wait for, is not held then.
fn keep_up(log: &Mutex<Log>) {
    // In a statement of its own, at whose end the lock is given back.
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

    /// The log's lock is held until the hub has the events, so that it gets them in their order.
    fn publish(&self, batch: Vec<Publish>) -> BrokerFuture<'_, Result<Vec<Receipt>, Error>> {
        let result = self.log().append(batch, now_ms(), |channel, frame, previous| {
            if let Some(sink) = &self.sink {
                sink.deliver_frame(channel, frame, previous);
            }
        });
        Box::pin(std::future::ready(result))
    }

    // The hub knows who listens; there is nobody else to tell.
    fn subscribe(&self, _channel: &Channel) {}

    fn unsubscribe(&self, _channel: &Channel) {}

    fn subscribed<'a>(&'a self, channel: &'a Channel) -> BrokerFuture<'a, ()> {
        let log = self.log();
        if let Some(sink) = &self.sink {
            sink.log(log.epoch(), log.last());
            sink.baseline(channel, log.baseline(channel));
        }
        Box::pin(std::future::ready(()))
    }

    fn read<'a>(
        &'a self,
        channel: &'a Channel,
        range: ReadRange,
    ) -> BrokerFuture<'a, Result<History, Error>> {
        Box::pin(std::future::ready(Ok(self.log().read(channel, range, now_ms()))))
    }

    fn status(&self) -> BrokerStatus {
        BrokerStatus { ready: true, ..BrokerStatus::default() }
    }
}
