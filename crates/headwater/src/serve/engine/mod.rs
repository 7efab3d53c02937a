//! The engine: threads that own the sockets of streams. Look here for how shards start, fail and stop.
//!
//! Each hub whose streams come through a server gets shards of its own there, when its first stream does.
//! A shard that panics is a bug of ours: its streams are cut, so that their clients resume, and it begins
//! anew with another mailbox. Shards hold on to their hub for as long as the server lives.

mod batch;
mod channels;
mod deliver;
#[cfg(test)]
mod joining_tests;
mod outbox;
mod shard;
mod stream;
#[cfg(test)]
mod tests;
mod wheel;

use std::io;
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use mio::{Poll, Waker};

use crate::close::CloseReason;
use crate::hub::mailbox::{Mailbox, Message};
use crate::hub::{HubInner, Subscription};
use crate::response::{Callbacks, Settings};
use crate::serve::slots::ConnectionSlot;
use shard::{MAILBOX, Shard};

/// How long a shard rests that cannot begin, for want of descriptors for example.
const REST: Duration = Duration::from_millis(100);

/// The shards of a server.
pub(super) struct Engine {
    /// How many per hub.
    shards: usize,
    groups: Mutex<Vec<ShardGroup>>,
}

/// The shards that serve one hub.
struct ShardGroup {
    hub: Weak<HubInner>,
    handles: Vec<Arc<ShardHandle>>,
}

/// Where one shard sits: the mailbox changes when it begins anew.
struct ShardHandle {
    mailbox: Mutex<Arc<Mailbox>>,
    stopped: AtomicBool,
}

/// What a stream takes along to its shard.
pub(super) struct Luggage {
    pub(super) socket: TcpStream,
    /// What must go out first: the head and what was replayed, in chunks.
    pub(super) unsent: Vec<u8>,
    pub(super) settings: Settings,
    pub(super) user: Callbacks,
    pub(super) place: ConnectionSlot,
    pub(super) stray_bytes: u32,
}

impl Engine {
    pub(super) fn new(shards: usize) -> Self {
        Self { shards, groups: Mutex::default() }
    }

    fn groups(&self) -> MutexGuard<'_, Vec<ShardGroup>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shard with the fewest streams; `None` if none can be started.
    pub(super) fn mailbox(&self, hub: &Arc<HubInner>) -> Option<Arc<Mailbox>> {
        let mut groups = self.groups();
        let is_theirs = |group: &ShardGroup| std::ptr::eq(group.hub.as_ptr(), Arc::as_ptr(hub));
        let at = groups.iter().position(is_theirs).unwrap_or(groups.len());
        if at == groups.len() {
            groups.push(ShardGroup::start(hub, self.shards)?);
        }
        let mailboxes = groups[at].handles.iter().map(|handle| handle.mailbox());
        mailboxes.min_by_key(|mailbox| mailbox.counts.streams.load(Ordering::Relaxed))
    }
}

/// Gives a live stream to a shard.
pub(super) fn attach(subscription: Subscription, mailbox: &Arc<Mailbox>, luggage: Luggage) {
    if let Err(luggage) = subscription.attach(mailbox, Box::new(luggage))
        && let Ok(luggage) = luggage.downcast::<Luggage>()
    {
        // The shard failed at this very moment, and the stream with it; its client resumes.
        luggage.user.close(CloseReason::Internal);
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
    fn start(hub: &Arc<HubInner>, shards: usize) -> Option<Self> {
        let handles: Vec<_> =
            (0..shards).map_while(|number| ShardHandle::start(hub, number)).collect();
        if handles.is_empty() {
            return None;
        }
        Some(Self { hub: Arc::downgrade(hub), handles })
    }
}

impl ShardHandle {
    fn start(hub: &Arc<HubInner>, number: usize) -> Option<Arc<Self>> {
        let start = || {
            let (poll, mailbox) = new_mailbox(hub, None)?;
            let handle =
                Arc::new(Self { mailbox: Mutex::new(mailbox), stopped: AtomicBool::new(false) });
            let thread = std::thread::Builder::new().name(format!("headwater-shard-{number}"));
            let (its_handle, its_hub) = (Arc::clone(&handle), Arc::clone(hub));
            thread.spawn(move || its_handle.run(its_hub, poll)).inspect_err(|_| {
                hub.remove_shard(&handle.mailbox());
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

    /// Runs shards one after another until it is told to stop.
    #[expect(clippy::needless_pass_by_value, reason = "the thread holds on to its hub")]
    fn run(&self, hub: Arc<HubInner>, mut poll: Poll) {
        loop {
            let mailbox = self.mailbox();
            let mut shard = Shard::new(Arc::clone(&hub), Arc::clone(&mailbox), poll);
            let ran = catch_unwind(AssertUnwindSafe(|| shard.run()));
            let was_stopped = matches!(ran, Ok(Ok(())));
            if !was_stopped {
                tracing::error!(
                    "a shard failed: its streams are cut, and it begins anew ({ran:?})"
                );
                mailbox.counts.panics.fetch_add(1, Ordering::Relaxed);
            }
            clear_up(shard, &hub, &mailbox);
            let next = if was_stopped { None } else { self.reset(&hub, &mailbox) };
            let Some(next) = next else { return hub.remove_shard(&mailbox) };
            poll = next;
        }
    }

    fn reset(&self, hub: &Arc<HubInner>, before: &Mailbox) -> Option<Poll> {
        loop {
            if self.stopped.load(Ordering::SeqCst) {
                return None;
            }
            match new_mailbox(hub, Some(before)) {
                Ok((poll, mailbox)) => {
                    *self.lock() = Arc::clone(&mailbox);
                    if self.stopped.load(Ordering::SeqCst) {
                        // Whoever stops it may have spoken to the old mailbox.
                        let _ = mailbox.push(Message::Stop);
                    }
                    return Some(poll);
                }
                Err(error) => tracing::error!("a shard cannot begin anew, trying again: {error}"),
            }
            std::thread::sleep(REST);
        }
    }
}

/// A mailbox that the hub knows, and the poll loop that it wakes.
fn new_mailbox(hub: &Arc<HubInner>, before: Option<&Mailbox>) -> io::Result<(Poll, Arc<Mailbox>)> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), MAILBOX)?;
    let mailbox = Arc::new(Mailbox::new(move || {
        if let Err(error) = waker.wake() {
            tracing::error!("cannot wake a shard: {error}");
        }
    }));
    if let Some(before) = before {
        mailbox
            .counts
            .panics
            .store(before.counts.panics.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    hub.add_shard(Arc::clone(&mailbox), before);
    Ok((poll, mailbox))
}

/// What a shard leaves behind: streams it did not end, and those that were on their way to it.
fn clear_up(mut shard: Shard, hub: &Arc<HubInner>, mailbox: &Arc<Mailbox>) {
    let left = hub.close_mailbox(mailbox);
    // Its tables may be what is broken.
    if catch_unwind(AssertUnwindSafe(|| shard.cut_all(CloseReason::Internal))).is_err() {
        tracing::error!("a shard that failed could not end all its streams");
    }
    let _ = catch_unwind(AssertUnwindSafe(|| drop(shard)));
    for message in left {
        if let Message::Attach(newcomer) = message
            && let Ok(luggage) = newcomer.luggage.downcast::<Luggage>()
        {
            let _ = catch_unwind(AssertUnwindSafe(|| luggage.user.close(CloseReason::Internal)));
            hub.shard_stream_ended(mailbox, CloseReason::Internal);
        }
    }
    // Those that were in the middle of something when it failed.
    let lost = mailbox.counts.streams.load(Ordering::Relaxed);
    (0..lost).for_each(|_| hub.shard_stream_ended(mailbox, CloseReason::Internal));
    let waiting = mailbox.counts.outbox_bytes.swap(0, Ordering::Relaxed);
    hub.outbox_bytes.fetch_sub(waiting, Ordering::Relaxed);
}
