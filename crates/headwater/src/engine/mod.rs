//! The engine: the threads (shards) that own the sockets of streams. Look here for how shards
//! start, fail and stop.
//!
//! A server starts a separate set of shards for each hub when the hub's first stream reaches it. A
//! panic in a shard is a bug in the engine: the shard's streams are disconnected so that their
//! clients resume, and the shard restarts with a new mailbox. Shards keep their hub alive until the
//! server is dropped.

mod batch;
mod behind;
mod channels;
mod deliver;
mod join;
#[cfg(test)]
mod joining_tests;
mod leave;
mod parts;
mod replay;
mod replays;
mod shard;
mod slots;
mod stream;
#[cfg(test)]
mod tests;
mod turn;
mod wheel;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use headwater_core::Subscription;
use headwater_core::close::CloseReason;
use headwater_core::transport::{HubRef, Mailbox, Message, ShardPort};
use mio::{Poll, Waker};

use crate::throttled_log::ThrottledLog;

pub(crate) use parts::StreamParts;
use shard::{MAILBOX, Shard};
pub(crate) use slots::{ConnectionSlot, ConnectionSlots};

/// Pause before retrying a shard that cannot restart, for example because descriptors ran out.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// The shards of a server.
pub(crate) struct Engine {
    /// Shards per hub.
    shards: usize,
    groups: Mutex<Vec<ShardGroup>>,
}

/// The shards that serve one hub.
struct ShardGroup {
    hub: HubRef,
    handles: Vec<Arc<ShardHandle>>,
}

/// One shard across its restarts, each of which replaces the mailbox.
struct ShardHandle {
    mailbox: Mutex<Arc<Mailbox>>,
    stopped: AtomicBool,
}

impl Engine {
    pub(crate) fn new(shards: usize) -> Self {
        Self { shards, groups: Mutex::default() }
    }

    fn groups(&self) -> MutexGuard<'_, Vec<ShardGroup>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mailbox of the hub's shard with the fewest streams; starts the hub's shards if needed.
    /// `None` if no shard can be started.
    pub(crate) fn mailbox(&self, hub: &HubRef) -> Option<Arc<Mailbox>> {
        let mut groups = self.groups();
        let serves_hub = |group: &ShardGroup| group.hub.is_same(hub);
        let at = groups.iter().position(serves_hub).unwrap_or(groups.len());
        if at == groups.len() {
            groups.push(ShardGroup::start(hub, self.shards)?);
        }
        let mailboxes = groups[at].handles.iter().map(|handle| handle.mailbox());
        mailboxes.min_by_key(|mailbox| mailbox.counts.streams.load(Ordering::Relaxed))
    }
}

/// Hands a stream to a shard.
pub(crate) fn attach(subscription: Subscription, mailbox: &Arc<Mailbox>, parts: StreamParts) {
    if let Err(parts) = subscription.attach(mailbox, Box::new(parts))
        && let Ok(parts) = parts.downcast::<StreamParts>()
    {
        // The shard failed during the hand-over. The client resumes.
        parts.callbacks.close(CloseReason::Internal);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for handle in self.groups().iter().flat_map(|group| &group.handles) {
            handle.stopped.store(true, Ordering::SeqCst);
            // A shard that is restarting misses this message, and checks `stopped`.
            let _ = handle.mailbox().push(Message::Stop);
        }
    }
}

impl ShardGroup {
    /// Starts the threads, as many as the system allows. `None` if there is not even one; each
    /// failure is logged.
    fn start(hub: &HubRef, shards: usize) -> Option<Self> {
        let handles: Vec<_> =
            (0..shards).map_while(|number| ShardHandle::start(hub, number)).collect();
        if handles.is_empty() {
            return None;
        }
        Some(Self { hub: hub.clone(), handles })
    }
}

impl ShardHandle {
    fn start(hub: &HubRef, number: usize) -> Option<Arc<Self>> {
        let start = || {
            let (poll, port) = open_port(hub, None)?;
            let mailbox = Mutex::new(Arc::clone(port.mailbox()));
            let handle = Arc::new(Self { mailbox, stopped: AtomicBool::new(false) });
            let thread = std::thread::Builder::new().name(format!("headwater-shard-{number}"));
            let (thread_handle, thread_hub) = (Arc::clone(&handle), hub.clone());
            thread.spawn(move || thread_handle.run(&thread_hub, port, poll)).inspect_err(|_| {
                hub.remove(&handle.mailbox());
            })?;
            io::Result::Ok(handle)
        };
        match start() {
            Ok(handle) => Some(handle),
            Err(error) => {
                tracing::error!(number, "cannot start a shard, continuing without it: {error}");
                None
            }
        }
    }

    fn mailbox(&self) -> Arc<Mailbox> {
        Arc::clone(&self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Mailbox>> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the shard until it is stopped, restarting it after each failure.
    fn run(&self, hub: &HubRef, mut port: ShardPort, mut poll: Poll) {
        let (failures, restarts) = (ThrottledLog::default(), ThrottledLog::default());
        loop {
            let mailbox = Arc::clone(port.mailbox());
            let mut shard = Shard::new(port, poll);
            let ran = catch_unwind(AssertUnwindSafe(|| shard.run()));
            let was_stopped = matches!(ran, Ok(Ok(())));
            if !was_stopped {
                let error = match ran {
                    Ok(Err(error)) => error.to_string(),
                    _ => "panic".to_owned(),
                };
                if let Some(suppressed) = failures.due() {
                    tracing::error!(
                        suppressed,
                        "shard failed: disconnecting its streams, restarting: {error}"
                    );
                }
                mailbox.counts.panics.fetch_add(1, Ordering::Relaxed);
            }
            clean_up(shard);
            let next = if was_stopped { None } else { self.restart(hub, &mailbox, &restarts) };
            let Some(next) = next else { return hub.remove(&mailbox) };
            (poll, port) = next;
        }
    }

    /// Opens a new port in place of the failed one, retrying until it succeeds. `None` once the
    /// server is stopped.
    fn restart(
        &self,
        hub: &HubRef,
        before: &Mailbox,
        log: &ThrottledLog,
    ) -> Option<(Poll, ShardPort)> {
        loop {
            if self.stopped.load(Ordering::SeqCst) {
                return None;
            }
            match open_port(hub, Some(before)) {
                Ok((poll, port)) => {
                    *self.lock() = Arc::clone(port.mailbox());
                    if self.stopped.load(Ordering::SeqCst) {
                        // `Stop` may have been sent to the old mailbox.
                        let _ = port.mailbox().push(Message::Stop);
                    }
                    return Some((poll, port));
                }
                Err(error) => {
                    if let Some(suppressed) = log.due() {
                        tracing::error!(suppressed, "cannot restart a shard, retrying: {error}");
                    }
                }
            }
            std::thread::sleep(RESTART_PAUSE);
        }
    }
}

/// Registers a mailbox with the hub, in place of `before` if given, and creates the poll loop that
/// the mailbox wakes.
fn open_port(hub: &HubRef, before: Option<&Mailbox>) -> io::Result<(Poll, ShardPort)> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), MAILBOX)?;
    let port = hub.open(before, move || {
        if let Err(error) = waker.wake() {
            tracing::error!("cannot wake a shard: {error}");
        }
    });
    Ok((poll, port))
}

/// Closes the streams that a shard left open, and those that were being attached.
fn clean_up(mut shard: Shard) {
    let unhandled = shard.port.close();
    // The panic may have left the shard's tables inconsistent.
    if catch_unwind(AssertUnwindSafe(|| shard.close_all(CloseReason::Internal))).is_err() {
        tracing::error!("cannot close all streams of a failed shard");
    }
    let port = Arc::clone(&shard.port);
    let _ = catch_unwind(AssertUnwindSafe(|| drop(shard)));
    for message in unhandled {
        if let Message::Attach(attachment) = message
            && let Ok(parts) = attachment.payload.downcast::<StreamParts>()
        {
            let close = || parts.callbacks.close(CloseReason::Internal);
            let _ = catch_unwind(AssertUnwindSafe(close));
            port.ended(CloseReason::Internal);
        }
    }
    // Streams that were being processed when the shard failed.
    port.write_off();
}
