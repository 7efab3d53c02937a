//! Streams and channels that fall behind. Look here for which channels' publishers wait, and for
//! who pays when too much waits: the slowest clients, and the channels with the most events.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;

use headwater_core::close::CloseReason;
use headwater_core::transport::{Joined, Message, StreamStart};

use super::shard::{Looked, Shard};
use crate::limits::{
    BACKLOG_SHED_BYTES, BACKLOG_TOTAL_BYTES_MAX, CONGESTED_BYTES, CONGESTED_STREAMS_MIN,
};

/// The streams of a channel that have a backlog.
#[derive(Default)]
struct Behind {
    /// Those whose clients read, and the bytes that wait for them.
    reading: usize,
    bytes: usize,
    /// Those whose clients do not read. They are not a sign that the node is at its limit.
    stalled: usize,
}

impl Shard {
    /// Looks at all backlogs once a tick, and sooner if they grow fast. Costs nothing while few
    /// streams have one.
    pub(super) fn look_at_backlogs(&mut self) {
        let mailbox = self.port.mailbox();
        let backlog_bytes = mailbox.counts.backlog_bytes.load(Ordering::Relaxed);
        let is_over = self.port.held_bytes() > BACKLOG_SHED_BYTES;
        let blocked = mailbox.counts.blocked.load(Ordering::Relaxed);
        if !is_over && blocked < CONGESTED_STREAMS_MIN && !mailbox.has_congested() {
            return;
        }
        let grown = backlog_bytes.saturating_sub(self.looked.backlog_bytes);
        if self.looked.tick == self.now && grown < CONGESTED_STREAMS_MIN * CONGESTED_BYTES / 2 {
            return;
        }
        self.looked = Looked { tick: self.now, backlog_bytes };
        if is_over {
            self.shed();
        }
        let mut congested = self.congested();
        congested.sort_unstable();
        self.port.mailbox().set_congested(congested);
    }

    /// The slots of the channels most of whose reading streams are far behind.
    fn congested(&self) -> Vec<u32> {
        let mut channels: HashMap<u32, Behind> = HashMap::new();
        for (_, stream) in &self.streams {
            let Some(backlog) = stream.state.backlog() else { continue };
            let is_reading = backlog.pace().is_reading(self.now);
            for membership in stream.channels.as_slice() {
                let behind = channels.entry(membership.slot).or_default();
                if is_reading {
                    behind.reading += 1;
                    behind.bytes += backlog.bytes();
                } else {
                    behind.stalled += 1;
                }
            }
        }
        let is_congested = |(slot, behind): &(u32, Behind)| {
            let streams = self.channels.get(*slot).map_or(0, |entry| entry.streams.len());
            behind.reading >= CONGESTED_STREAMS_MIN
                && behind.reading > (streams - behind.stalled) / 2
                && behind.bytes > behind.reading * CONGESTED_BYTES
        };
        channels.into_iter().filter(is_congested).map(|(slot, _)| slot).collect()
    }

    /// Closes streams whose clients do not read, those first that have read nothing for longest,
    /// until the backlogs take half of what they may.
    fn shed(&mut self) {
        let mut slow = Vec::new();
        for (key, stream) in &self.streams {
            if let Some(backlog) = stream.state.backlog()
                && !backlog.pace().is_reading(self.now)
            {
                slow.push((stream.state.waiting_since(), u32::try_from(key).unwrap_or(u32::MAX)));
            }
        }
        slow.sort_unstable();
        let mut closed = 0_usize;
        for (_, key) in slow {
            if self.port.held_bytes() <= BACKLOG_TOTAL_BYTES_MAX / 2 {
                break;
            }
            self.finish(key, CloseReason::Overflow);
            closed += 1;
        }
        if closed > 0 {
            tracing::warn!(closed, "events wait for too many clients: closed the slowest streams");
        }
        if self.port.held_bytes() > BACKLOG_SHED_BYTES {
            self.port.wake_others();
        }
    }

    /// Discards pending frames of the channels that have the most of them, until the rest is within
    /// bounds, and closes the streams of these channels and of `dropped`: their clients resume.
    pub(super) fn discard_overrun(&mut self, dropped: Vec<u32>) {
        let mut by_slot: HashMap<u32, (usize, usize)> = HashMap::new();
        if self.port.mailbox().is_overrun() {
            for message in &self.pending {
                if let Message::Deliver { slot, frame } = message {
                    let (bytes, messages) = by_slot.entry(*slot).or_default();
                    *bytes += frame.len();
                    *messages += 1;
                }
            }
        }
        let mut most: Vec<(usize, usize, u32)> =
            by_slot.into_iter().map(|(slot, (bytes, messages))| (bytes, messages, slot)).collect();
        // A message without data costs about as much as a hundred bytes.
        most.sort_unstable_by_key(|(bytes, messages, _)| bytes + 100 * messages);
        let mut discarded = HashSet::new();
        while self.port.mailbox().is_overrun()
            && let Some((bytes, messages, slot)) = most.pop()
        {
            self.handled.resize(messages, slot);
            self.port.mailbox().done(messages, bytes, &mut self.handled);
            discarded.insert(slot);
        }
        let is_discarded =
            |it: &Message| matches!(it, Message::Deliver { slot, .. } if discarded.contains(slot));
        self.pending.retain(|message| !is_discarded(message));
        discarded.extend(dropped);
        if discarded.is_empty() {
            return;
        }
        tracing::warn!(
            channels = discarded.len(),
            "more events than this node can deliver: closing the streams of the channels with the \
             most, so that their clients resume"
        );
        // A stream that is about to join may lack what was dropped, too.
        for message in &mut self.pending {
            if let Some(joined) = joined(message)
                && joined.channels.iter().any(|it| discarded.contains(&it.slot))
            {
                joined.closed.get_or_insert(CloseReason::Overflow);
            }
        }
        for slot in discarded {
            for key in self.channels.streams_on(slot) {
                self.end(u32::try_from(key).unwrap_or(u32::MAX), CloseReason::Overflow);
            }
        }
    }
}

/// The stream that a message lets join its channels.
fn joined(message: &mut Message) -> Option<&mut Joined> {
    match message {
        Message::Attach(attachment) => match &mut attachment.start {
            StreamStart::Live(joined) => Some(joined),
            StreamStart::Replaying(_) => None,
        },
        Message::Join { joined, .. } => Some(joined),
        _ => None,
    }
}
