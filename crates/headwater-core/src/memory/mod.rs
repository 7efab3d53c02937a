//! The embedded broker, whose log lives in this process. Look here for the least that a broker must
//! do.

mod history;
mod kept;
mod keys;
mod log;
#[cfg(test)]
mod log_tests;
mod order;
mod plan;
#[cfg(test)]
mod restart_tests;
mod restore;
mod store;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::{AbortHandle, yield_now};

use crate::broker::{Broker, BrokerFuture, BrokerStatus, History, ReadRange, Sink};
use crate::budget::Budget;
use crate::channel::Channel;
use crate::clock::now_ms;
use crate::error::{Error, ErrorKind};
use crate::limits::{APPEND_BYTES_MAX, APPEND_EVENTS_MAX, REPLAY_BYTES_MAX};
use crate::log::RetentionRules;
use crate::publish::{Publish, Receipt};

use history::Page;
use kept::Sharing;
use log::Log;

/// How often the log is synced to disk. A power failure loses what was published since.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// The default broker, for a single node: it delivers events within this process.
///
/// It retains a history of every channel, within the [retention](RetentionRules), so that streams
/// resume without a gap. The history lasts as long as the process, or, if the broker was
/// [opened](Self::open) on a directory, as long as that directory.
pub struct MemoryBroker {
    sink: Option<Sink>,
    log: Arc<Mutex<Log>>,
    sharing: Mutex<Sharing>,
    /// Held while large events are encoded.
    encoding: tokio::sync::Mutex<()>,
    /// The task that syncs the log to disk, if it has a directory.
    syncing: Option<AbortHandle>,
}

impl MemoryBroker {
    /// Creates an empty broker with the default retention, whose log is in memory only.
    pub fn new() -> Self {
        Self::with_retention(RetentionRules::default())
    }

    /// Creates an empty broker with these retention rules, whose log is in memory only.
    pub fn with_retention(rules: RetentionRules) -> Self {
        Self::with_budget(rules, &Budget::default())
    }

    /// Creates an empty broker with these retention rules, whose log is in memory only, and keeps
    /// no more than its shares of this budget: when they are full, the oldest goes.
    pub fn with_budget(rules: RetentionRules, budget: &Budget) -> Self {
        let log = Arc::new(Mutex::new(Log::new(rules, budget)));
        let (sharing, encoding) = Default::default();
        Self { sink: None, log, sharing, encoding, syncing: None }
    }

    /// Opens a broker whose log is stored in a directory, which is created if it does not exist.
    ///
    /// Positions and history survive a restart, even after a crash (`kill -9`): an event is written
    /// before it is acknowledged. Files are synced to disk about once a second, so a power failure
    /// can lose about one second of events.
    ///
    /// # Errors
    /// - [`ErrorKind::PermissionDenied`] if another process has the directory open.
    /// - [`ErrorKind::Invalid`] if the directory holds foreign files, or files of a newer format.
    /// - [`ErrorKind::Unavailable`] if the operating system reports an error.
    /// - [`ErrorKind::NoRuntime`] outside a Tokio runtime.
    pub fn open(directory: impl AsRef<Path>, rules: RetentionRules) -> Result<Self, Error> {
        Self::open_with_budget(directory, rules, &Budget::default())
    }

    /// Opens a broker on a directory, as [`open`](Self::open) does, that keeps no more in memory
    /// than its shares of this budget.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_with_budget(
        directory: impl AsRef<Path>,
        rules: RetentionRules,
        budget: &Budget,
    ) -> Result<Self, Error> {
        let runtime = Handle::try_current().map_err(|error| {
            Error::new(ErrorKind::NoRuntime, "open the broker inside a Tokio runtime")
                .with_source(error)
        })?;
        let log = Arc::new(Mutex::new(Log::open(rules, budget, directory.as_ref(), now_ms())?));
        let syncing = Some(runtime.spawn(sync(Arc::downgrade(&log))).abort_handle());
        let (sharing, encoding) = Default::default();
        Ok(Self { sink: None, log, sharing, encoding, syncing })
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }

    /// Encodes a page that takes milliseconds. One at a time, and others go between: many streams
    /// that read large events delay nobody by more than one, and keep one core busy at most. Those
    /// that read the same events share them.
    async fn encode_large(&self, page: Page) -> Result<History, Error> {
        let _turn = self.encoding.lock().await;
        yield_now().await;
        Ok(page.encode())
    }
}

impl MemoryBroker {
    /// Holds the log's lock until the hub has the events, so that the hub receives them in order.
    fn append(&self, batch: Vec<Publish>) -> Result<Vec<Receipt>, Error> {
        let mut log = self.log();
        let mut sharing = self.sharing.lock().unwrap_or_else(PoisonError::into_inner);
        log.append(batch, now_ms(), &mut sharing, |channel, event, previous| {
            let (Some(sink), Some(position)) = (&self.sink, event.position()) else { return };
            if event.is_encoded() {
                sink.frame(channel, &event.frame(), previous);
            } else {
                sink.lazy(channel, position, previous, || event.frame());
            }
        })
    }

    /// Nothing is appended if the batch cannot be, as far as that is known before.
    async fn append_in_parts(&self, batch: Vec<Publish>) -> Result<Vec<Receipt>, Error> {
        self.log().check(&batch, now_ms())?;
        let mut receipts = Vec::with_capacity(batch.len());
        let mut rest = batch.into_iter();
        while !rest.as_slice().is_empty() {
            let count = part_len(rest.as_slice());
            let part = rest.by_ref().take(count).collect();
            receipts.extend(self.append(part)?);
            tokio::task::yield_now().await;
        }
        Ok(receipts)
    }
}

/// How many events of a batch are appended at a time, from its first on.
fn part_len(batch: &[Publish]) -> usize {
    let mut bytes = 0;
    let fits = |publish: &&Publish| {
        bytes += publish.event.data().len();
        bytes <= APPEND_BYTES_MAX
    };
    let count = batch.iter().take(APPEND_EVENTS_MAX).take_while(fits).count();
    count.max(1).min(batch.len())
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

/// Syncs the log to disk about once a second, until the broker is dropped.
async fn sync(log: Weak<Mutex<Log>>) {
    loop {
        tokio::time::sleep(SYNC_INTERVAL).await;
        let Some(log) = log.upgrade() else { return };
        // Joining fails only when the runtime shuts down.
        let _ = tokio::task::spawn_blocking(move || run_upkeep(&log)).await;
    }
}

/// The disk may take seconds, so the lock that publishers and readers need is not held meanwhile.
fn run_upkeep(log: &Mutex<Log>) {
    // A separate statement, so that the lock is released at its end.
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

    /// A large batch is appended in parts, so that others can publish and read meanwhile.
    fn publish(&self, batch: Vec<Publish>) -> BrokerFuture<'_, Result<Vec<Receipt>, Error>> {
        if part_len(&batch) == batch.len() {
            let result = self.append(batch);
            return Box::pin(std::future::ready(result));
        }
        Box::pin(self.append_in_parts(batch))
    }

    // The hub knows its subscribers, and no other node exists.
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
        let page = self.log().read(channel, range, now_ms());
        if page.unencoded_bytes() <= REPLAY_BYTES_MAX {
            return Box::pin(std::future::ready(Ok(page.encode())));
        }
        Box::pin(self.encode_large(page))
    }

    fn status(&self) -> BrokerStatus {
        let mut status = BrokerStatus::ready();
        status.keeps = self.log().keeps();
        status
    }
}
