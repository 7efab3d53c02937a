//! A live subscription is handed to a shard of an engine. Look here for why no frame is lost or
//! repeated meanwhile.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::entry::Departure;
use super::shard_port::HubRef;
use super::subscription::{Phase, Subscription};
use crate::close::CloseReason;
use crate::stream::mailbox::{Attachment, Mailbox, Message};

impl Subscription {
    /// Whether nothing is left to replay and no frame that was read ahead waits, so that the
    /// subscription can be attached to a shard.
    #[doc(hidden)]
    pub fn is_live(&mut self) -> bool {
        if let Phase::Ready(frames, None) = &self.phase
            && frames.is_empty()
        {
            self.phase = Phase::Live;
        }
        matches!(self.phase, Phase::Live)
    }

    /// Attaches a [live](Self::is_live) subscription to a shard. If the shard is gone, the stream
    /// has ended with it, and the payload is returned.
    ///
    /// Under the locks of all channels, the queue leaves the fan-out, and an attachment with the
    /// frames that wait in it is pushed to the shard's mailbox. Frames delivered later are pushed
    /// after the attachment, so none is lost or duplicated, and the order stays.
    #[doc(hidden)]
    pub fn attach(
        mut self,
        mailbox: &Arc<Mailbox>,
        payload: Box<dyn Any + Send>,
    ) -> Result<(), Box<dyn Any + Send>> {
        debug_assert!(self.is_live());
        self.is_attached = true;
        mailbox.counts.streams.fetch_add(1, Ordering::Relaxed);
        let entries = std::mem::take(&mut self.entries);
        let mut channels = Vec::with_capacity(entries.len());
        let mut attachment = Attachment {
            channels: Box::default(),
            waiting: VecDeque::new(),
            missed: None,
            progress: self.progress,
            closed: None,
            number: self.number,
            payload,
        };
        let names = entries.iter().map(|(channel, _)| channel);
        let mut locked = self.hub.fanout.table.lock_all(names);
        for (channel, key) in &entries {
            channels.extend(locked.attach(channel, *key, mailbox));
        }
        let (waiting, missed, closed) = self.queue.attach();
        (attachment.waiting, attachment.missed, attachment.closed) = (waiting, missed, closed);
        attachment.channels = channels.into();
        let pushed = mailbox.push(Message::Attach(Box::new(attachment)));
        drop(locked);
        let closed_before = closed;
        let Err(Message::Attach(attachment)) = pushed else {
            if self.number > 0 {
                // A revocation from now on goes to the shard; one a moment ago closed the queue,
                // which the attachment did not see.
                let is_late = || {
                    let revoked = Some(CloseReason::Revoked);
                    self.queue.closed() == revoked && closed_before != revoked
                };
                self.hub.fanout.registry.attach(self.number, mailbox, is_late);
            }
            return Ok(());
        };
        self.hub.forget_owner(self.number);
        for (channel, _) in &entries {
            self.hub.leave(channel, Departure::Stream(mailbox));
        }
        mailbox.counts.streams.fetch_sub(1, Ordering::Relaxed);
        self.hub.stream_ended(CloseReason::Internal);
        Err(attachment.payload)
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
