//! Where a broker passes the events that it receives. Look here for what a broker can report to its
//! hub; the hub implements [`Inlet`], so that brokers need not know it.

use std::sync::{Arc, Weak};

use super::history::{Baseline, LoggedEvent};
use crate::channel::Channel;
use crate::event::Event;
use crate::frame::Frame;
use crate::gap::GapReason;
use crate::log::{Epoch, Position};
use crate::revocation::Revocation;

/// What a broker reports, from the hub's side.
pub(crate) trait Inlet: Send + Sync {
    fn set_log(&self, epoch: Epoch, last: u64);
    fn set_begun(&self, epoch: Epoch, offset: u64);
    fn set_baselines(&self, baselines: &[(Channel, Baseline)]);
    fn deliver(&self, channel: &Channel, frame: &Frame, previous: u64);
    /// Whether events of the channel are delivered on this node.
    fn is_subscribed(&self, channel: &Channel) -> bool;
    /// Takes note of an event of the log whose channel is not subscribed.
    fn pass(&self, position: Position);
    fn deliver_ephemeral(&self, channel: &Channel, event: &Event);
    fn deliver_gap(&self, channel: &Channel, reason: GapReason);
    fn revoke(&self, revocation: &Revocation, time_ms: u64);
    fn count_sanitized(&self);
    fn count_rejected(&self);
    fn heard(&self) -> Option<Position>;
}

/// Where a broker passes the events that it receives. It does nothing once its hub is gone.
#[derive(Clone)]
pub struct Sink {
    inlet: Weak<dyn Inlet>,
}

impl Sink {
    pub(crate) fn new<I: Inlet + 'static>(inlet: &Arc<I>) -> Self {
        let inlet: Weak<I> = Arc::downgrade(inlet);
        Self { inlet }
    }

    /// The log that positions are in, and its last offset now: every event up to it, on the
    /// channels that have a baseline, was passed, or reported by a later baseline. To be called
    /// before the first event, and again when the log lost its data and has a new epoch: every
    /// stream gets a gap event. An offset below an earlier one of the same epoch is ignored.
    pub fn log(&self, epoch: Epoch, last: u64) {
        self.with(|inlet| inlet.set_log(epoch, last));
    }

    /// The offset after which an epoch began, if the log still has older events, which have
    /// positions in the new epoch too. Others may be lost: a client that resumes before this offset
    /// gets a gap event. To be called after [`log`](Self::log).
    pub fn begun(&self, epoch: Epoch, offset: u64) {
        self.with(|inlet| inlet.set_begun(epoch, offset));
    }

    /// What is known of a channel when its events start to arrive. Again when they arrive again
    /// after the connection was lost, before [`log`](Self::log), or after it if the epoch is new:
    /// the streams of the channel replay the events that were not passed, and get a gap event if it
    /// receives ephemeral ones.
    pub fn baseline(&self, channel: &Channel, baseline: Baseline) {
        self.baselines(&[(channel.clone(), baseline)]);
    }

    /// The same for several channels at once. After a lost connection, report all of them together:
    /// a stream may have several, and its gap events must come before anything that it missed.
    pub fn baselines(&self, baselines: &[(Channel, Baseline)]) {
        self.with(|inlet| inlet.set_baselines(baselines));
    }

    /// Delivers an event of the log to all subscribers of its channel on this node. Never waits. An
    /// event that was passed before is ignored. If events before it are missing, the hub reads them
    /// by [`Broker::read`](super::Broker::read), and the streams of the channel replay them.
    pub fn event(&self, event: LoggedEvent<'_>) {
        self.with(|inlet| inlet.deliver(event.channel, &event.to_frame(), event.previous));
    }

    /// Delivers a frame that is encoded already.
    pub(crate) fn frame(&self, channel: &Channel, frame: &Frame, previous: u64) {
        self.with(|inlet| inlet.deliver(channel, frame, previous));
    }

    /// Delivers an event of the log, which is encoded only if its channel is subscribed.
    pub(crate) fn lazy(
        &self,
        channel: &Channel,
        position: Position,
        previous: u64,
        frame: impl FnOnce() -> Frame,
    ) {
        self.with(|inlet| {
            if inlet.is_subscribed(channel) {
                inlet.deliver(channel, &frame(), previous);
            } else {
                inlet.pass(position);
            }
        });
    }

    /// Delivers an event that is in no log: the node numbers it.
    pub fn ephemeral(&self, channel: &Channel, event: &Event) {
        self.with(|inlet| inlet.deliver_ephemeral(channel, event));
    }

    /// Reports to all subscribers of a channel that events are missing.
    pub fn gap(&self, channel: &Channel, reason: GapReason) {
        self.with(|inlet| inlet.deliver_gap(channel, reason));
    }

    /// Closes the streams that a revocation names, on this node. `time_ms` is when it was made, by
    /// the broker's clock: what was decided before does not count any more. Repeating it does no
    /// harm.
    pub fn revoke(&self, revocation: &Revocation, time_ms: u64) {
        self.with(|inlet| inlet.revoke(revocation, time_ms));
    }

    /// The newest position of the log that the hub has, of any channel; `None` before the first. A
    /// log that lacks it has lost data.
    pub fn heard(&self) -> Option<Position> {
        self.inlet.upgrade()?.heard()
    }

    /// Counts an event whose bytes were not UTF-8, so that it has U+FFFD instead.
    pub fn count_sanitized(&self) {
        self.with(|inlet| inlet.count_sanitized());
    }

    /// Counts an event that was dropped because it was too large or could not be decoded.
    pub fn count_rejected(&self) {
        self.with(|inlet| inlet.count_rejected());
    }

    fn with(&self, call: impl FnOnce(&dyn Inlet)) {
        if let Some(inlet) = self.inlet.upgrade() {
            call(&*inlet);
        }
    }
}
