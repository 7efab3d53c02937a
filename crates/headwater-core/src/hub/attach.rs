//! A subscription is handed to a shard of an engine: at once if it is live, otherwise when it has
//! replayed. Look here for why no frame is lost or repeated meanwhile.

use std::any::Any;
use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::entry::Departure;
use super::shard_port::HubRef;
use super::shard_replay;
use super::subscription::{Phase, Subscription};
use crate::channel::Channel;
use crate::close::CloseReason;
use crate::frame::Frame;
use crate::stream::mailbox::{Attachment, Joined, Mailbox, Message, StreamStart};

impl Subscription {
    /// Hands the subscription to a shard, which counts its end. If the shard is gone, the stream
    /// has ended with it, and the payload is returned.
    ///
    /// A stream that is not live joins its channels there later: until then a task of the hub has
    /// the subscription, and feeds the shard.
    #[doc(hidden)]
    pub fn attach(
        mut self,
        mailbox: &Arc<Mailbox>,
        payload: Box<dyn Any + Send>,
    ) -> Result<(), Box<dyn Any + Send>> {
        let (hub, number) = (Arc::clone(&self.hub), self.number);
        mailbox.counts.streams.fetch_add(1, Ordering::Relaxed);
        self.is_on_shard = true;
        let refused = if let Some(replayed) = self.take_last_page() {
            self.join(mailbox, replayed, |joined| {
                let start = StreamStart::Live(joined);
                Message::Attach(Box::new(Attachment { start, number, payload }))
            })
        } else {
            let shard = Arc::clone(mailbox);
            let start = StreamStart::Replaying(Box::new(move |replay| {
                let hub = Arc::clone(&self.hub);
                hub.spawn(shard_replay::feed(self, shard, replay))
            }));
            mailbox.push(Message::Attach(Box::new(Attachment { start, number, payload }))).err()
        };
        let Some(Message::Attach(attachment)) = refused else { return Ok(()) };
        mailbox.counts.streams.fetch_sub(1, Ordering::Relaxed);
        hub.stream_ended(CloseReason::Internal);
        Err(attachment.payload)
    }

    /// Joins the channels of a stream that is on a shard, and has replayed everything.
    pub(super) fn join_on_shard(mut self, mailbox: &Arc<Mailbox>, replay: u64) {
        // A shard that is gone has closed the stream.
        drop(self.join(mailbox, VecDeque::new(), |joined| Message::Join {
            replay,
            joined: Box::new(joined),
        }));
    }

    /// Moves a live subscription from its queue to a shard. Returns the message if the shard is
    /// gone.
    ///
    /// Under the locks of all channels, the queue leaves the fan-out, and a message with the frames
    /// that wait in it is pushed to the shard's mailbox. Frames delivered later are pushed after
    /// it, so none is lost or duplicated, and the order stays.
    fn join(
        &mut self,
        mailbox: &Arc<Mailbox>,
        mut replayed: VecDeque<Frame>,
        message: impl FnOnce(Joined) -> Message,
    ) -> Option<Message> {
        let entries = mem::take(&mut self.entries);
        let mut channels = Vec::with_capacity(entries.len());
        let names = entries.iter().map(|(channel, _)| channel);
        let mut locked = self.hub.fanout.table.lock_all(names);
        for (channel, key) in &entries {
            channels.extend(locked.attach(channel, *key, mailbox));
        }
        let (waiting, missed, closed) = self.queue.attach();
        if closed == Some(CloseReason::Revoked) {
            replayed.clear();
        }
        let (channels, progress) = (channels.into(), self.progress);
        let joined = Joined { channels, replayed, waiting, progress, missed, closed };
        let refused = mailbox.push(message(joined)).err();
        drop(locked);
        if refused.is_some() {
            self.leave_shard(mailbox, &entries);
        } else if self.number > 0 {
            // A revocation from now on goes to the shard; one a moment ago closed the queue, which
            // the message did not see.
            let is_late = || {
                let revoked = Some(CloseReason::Revoked);
                self.queue.closed() == revoked && closed != revoked
            };
            self.hub.fanout.registry.attach(self.number, mailbox, is_late);
            // The shard removes it.
            self.number = 0;
        }
        refused
    }

    fn leave_shard(&self, mailbox: &Arc<Mailbox>, entries: &[(Channel, usize)]) {
        for (channel, _) in entries {
            self.hub.leave(channel, Departure::Stream(mailbox));
        }
    }

    /// What was read ahead for a subscription that has nothing else to replay; `None` if there is
    /// more, or its start is not known yet.
    fn take_last_page(&mut self) -> Option<VecDeque<Frame>> {
        let page = match &mut self.phase {
            Phase::Ready(frames, None) => mem::take(frames),
            Phase::Live => VecDeque::new(),
            _ => return None,
        };
        self.phase = Phase::Live;
        Some(page)
    }

    /// The hub, for a shard that serves it.
    #[doc(hidden)]
    pub fn hub(&self) -> HubRef {
        HubRef::new(Arc::clone(&self.hub))
    }

    /// Closes the subscription for a reason that the caller chooses.
    #[doc(hidden)]
    pub fn close(&self, reason: CloseReason) {
        self.queue.close(reason);
    }

    #[doc(hidden)]
    pub fn count_sent(&self, frames: u64, bytes: usize) {
        self.hub.fanout.stats.sent.add(frames);
        self.hub.fanout.stats.sent_bytes.add(bytes as u64);
    }
}
