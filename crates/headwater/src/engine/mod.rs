//! The engine: threads that own the sockets of streams. Look here for how shards start, fail and stop.
//!
//! Each hub whose streams come through a server gets shards of its own there, when its first stream does.
//! A shard that panics is a bug of ours: its streams are cut, so that their clients resume, and it begins
//! anew with another mailbox. Shards hold on to their hub for as long as the server lives.

mod backlog;
mod batch;
mod channels;
mod deliver;
mod join;
#[cfg(test)]
mod joining_tests;
mod leave;
mod parts;
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

pub(crate) use parts::StreamParts;
use shard::{MAILBOX, Shard};
pub(crate) use slots::{ConnectionSlot, ConnectionSlots};

/// How long a shard rests that cannot begin, for want of descriptors for example.
const REST: Duration = Duration::from_millis(100);

/// The shards of a server.
pub(crate) struct Engine {
    /// How many per hub.
    shards: usize,
    groups: Mutex<Vec<ShardGroup>>,
}

/// The shards that serve one hub.
struct ShardGroup {
    hub: HubRef,
    handles: Vec<Arc<ShardHandle>>,
}

/// Where one shard sits: the mailbox changes when it begins anew.
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

    /// The shard with the fewest streams; `None` if none can be started.
    pub(crate) fn mailbox(&self, hub: &HubRef) -> Option<Arc<Mailbox>> {
        let mut groups = self.groups();
        let is_theirs = |group: &ShardGroup| group.hub.is_same(hub);
        let at = groups.iter().position(is_theirs).unwrap_or(groups.len());
        if at == groups.len() {
            groups.push(ShardGroup::start(hub, self.shards)?);
        }
        let mailboxes = groups[at].handles.iter().map(|handle| handle.mailbox());
        mailboxes.min_by_key(|mailbox| mailbox.counts.streams.load(Ordering::Relaxed))
    }
}

/// Gives a live stream to a shard.
pub(crate) fn attach(subscription: Subscription, mailbox: &Arc<Mailbox>, parts: StreamParts) {
    if let Err(parts) = subscription.attach(mailbox, Box::new(parts))
        && let Ok(parts) = parts.downcast::<StreamParts>()
    {
        // The shard failed at this very moment, and the stream with it; its client resumes.
        parts.callbacks.close(CloseReason::Internal);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for handle in self.groups().iter().flat_map(|group| &group.handles) {
            handle.stopped.store(true, Ordering::SeqCst);
            // A shard that begins anew at this moment looks at `stopped`.
            let _ = handle.mailbox().push(Message::Stop);
        }
    }
}

impl ShardGroup {
    /// Starts the threads. `None` if not even one can be; the log says why.
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
            let (its_handle, its_hub) = (Arc::clone(&handle), hub.clone());
            thread.spawn(move || its_handle.run(&its_hub, port, poll)).inspect_err(|_| {
                hub.remove(&handle.mailbox());
            })?;
            io::Result::Ok(handle)
        };
        match start() {
            Ok(handle) => Some(handle),
            Err(error) => {
                tracing::error!(number, "cannot start a shard, streams go on without it: {error}");
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

    /// Runs a shard until it is stopped, and starts another one in its place if it fails.
    fn run(&self, hub: &HubRef, mut port: ShardPort, mut poll: Poll) {
        loop {
            let mailbox = Arc::clone(port.mailbox());
            let mut shard = Shard::new(port, poll);
            let ran = catch_unwind(AssertUnwindSafe(|| shard.run()));
            let was_stopped = matches!(ran, Ok(Ok(())));
            if !was_stopped {
                let error = match ran {
                    Ok(Err(error)) => error.to_string(),
                    _ => "it panicked".to_owned(),
                };
                tracing::error!("a shard failed: its streams are cut, and it restarts ({error})");
                mailbox.counts.panics.fetch_add(1, Ordering::Relaxed);
            }
            clear_up(shard);
            let next = if was_stopped { None } else { self.restart(hub, &mailbox) };
            let Some(next) = next else { return hub.remove(&mailbox) };
            (poll, port) = next;
        }
    }

    fn restart(&self, hub: &HubRef, before: &Mailbox) -> Option<(Poll, ShardPort)> {
        loop {
            if self.stopped.load(Ordering::SeqCst) {
                return None;
            }
            match open_port(hub, Some(before)) {
                Ok((poll, port)) => {
                    *self.lock() = Arc::clone(port.mailbox());
                    if self.stopped.load(Ordering::SeqCst) {
                        // The message that stops it may have gone to the old mailbox.
                        let _ = port.mailbox().push(Message::Stop);
                    }
                    return Some((poll, port));
                }
                Err(error) => tracing::error!("a shard cannot restart, trying again: {error}"),
            }
            std::thread::sleep(REST);
        }
    }
}

/// A mailbox that the hub knows, and the poll loop that it wakes.
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

/// Ends what a shard leaves behind: streams it did not end, and those that were being attached.
fn clear_up(mut shard: Shard) {
    let left = shard.port.close();
    // Its tables may be what is broken.
    if catch_unwind(AssertUnwindSafe(|| shard.cut_all(CloseReason::Internal))).is_err() {
        tracing::error!("a shard that failed could not end all its streams");
    }
    let port = Arc::clone(&shard.port);
    let _ = catch_unwind(AssertUnwindSafe(|| drop(shard)));
    for message in left {
        if let Message::Attach(attachment) = message
            && let Ok(parts) = attachment.payload.downcast::<StreamParts>()
        {
            let close = || parts.callbacks.close(CloseReason::Internal);
            let _ = catch_unwind(AssertUnwindSafe(close));
            port.ended(CloseReason::Internal);
        }
    }
    // Streams that were being handled when it failed.
    port.write_off();
}
