//! The queue of one stream: bounded, closable. Look here for what happens when a client is slow.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::mailbox::{Missed, ReplayFrom};
use super::waiting::{View, Waiting, WaitingBounds};
use crate::channel::Channel;
use crate::close::CloseReason;
use crate::frame::Frame;
use crate::gap::GapReason;

/// The queued frames of one stream. The hub pushes, the subscription pops.
pub(crate) struct Queue {
    bounds: WaitingBounds,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: Waiting,
    /// Whether the stream replays: it then reads from the rings, and the queue drops what is
    /// pushed.
    paused: bool,
    /// Set if the stream must replay once it has delivered the queued frames: its node has missed
    /// events.
    missed: Option<Missed>,
    closed: Option<CloseReason>,
    waker: Option<Waker>,
}

impl Queue {
    pub(crate) fn new(frames_max: usize, bytes_max: usize) -> Self {
        Self { bounds: WaitingBounds { frames_max, bytes_max }, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a frame, or closes the queue if it does not fit. A frame always fits an empty queue.
    /// With `latest_only` the frame replaces the queued one of its channel.
    pub(crate) fn push(&self, frame: &Frame, latest_only: bool) {
        let mut state = self.state();
        if state.closed.is_some() || state.paused {
            return;
        }
        if latest_only {
            state.waiting.conflate(frame, 0, View::Body);
        }
        if state.waiting.fits(frame, View::Body, self.bounds) {
            state.waiting.push(frame, View::Body);
        } else {
            // What waits is dropped, since the client resumes from the last id that it received.
            state.closed = Some(CloseReason::Overflow);
            state.waiting = Waiting::default();
        }
        Self::wake(state);
    }

    /// Drops all frames, now and until [`resume_push`](Self::resume_push): the stream replays.
    pub(crate) fn pause(&self) {
        let mut state = self.state();
        state.paused = true;
        // The replay reads that too.
        state.missed = None;
        state.waiting = Waiting::default();
    }

    /// Accepts frames again.
    pub(crate) fn resume_push(&self) {
        self.state().paused = false;
    }

    /// Lets the stream replay after the frames that are queued, and drops what is pushed until it
    /// has. A replay that is under way reads the missing events too.
    pub(crate) fn replay(&self, channel: &Channel, from: ReplayFrom) {
        let mut state = self.state();
        if !std::mem::replace(&mut state.paused, true) {
            state.missed = Some(Missed { channel: channel.clone(), from });
            Self::wake(state);
        }
    }

    /// What the stream must replay, once its queue is empty.
    pub(crate) fn take_missed(&self) -> Option<Missed> {
        let mut state = self.state();
        let is_due = state.waiting.is_empty() && state.closed.is_none();
        if is_due { state.missed.take() } else { None }
    }

    /// Registers the waker for when the queue closes, without taking a frame.
    pub(crate) fn watch_close(&self, context: &Context<'_>) -> Option<CloseReason> {
        let mut state = self.state();
        Self::set_waker(&mut state, context);
        state.closed
    }

    /// Closes the queue. Queued frames are still delivered. The first reason wins.
    pub(crate) fn close(&self, reason: CloseReason) {
        let mut state = self.state();
        state.closed.get_or_insert(reason);
        Self::wake(state);
    }

    /// Closes the queue and drops its frames, which the client is no longer allowed to receive.
    pub(crate) fn revoke(&self) {
        let mut state = self.state();
        state.closed.get_or_insert(CloseReason::Revoked);
        state.waiting = Waiting::default();
        Self::wake(state);
    }

    /// Moves the stream to a shard: returns the queued frames, what the stream must replay after
    /// them, and why the queue is closed if it is.
    pub(crate) fn attach(&self) -> (VecDeque<Frame>, Option<Missed>, Option<CloseReason>) {
        let mut state = self.state();
        (state.waiting.take(), state.missed.take(), state.closed)
    }

    /// Drops what was queued for a reset of the log before the stream's first event.
    pub(crate) fn forget_resets(&self) {
        let mut state = self.state();
        let is_reset = |frame: &Frame| {
            frame.is_marker() || frame.gap().is_some_and(|gap| gap.reason == GapReason::Epoch)
        };
        while state.waiting.front().is_some_and(is_reset) {
            state.waiting.pop_front(View::Body);
        }
    }

    /// The number of queued frames that end their channel.
    pub(crate) fn ends(&self) -> usize {
        self.state().waiting.iter().filter(|frame| frame.is_end()).count()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.state().waiting.is_empty()
    }

    pub(crate) fn closed(&self) -> Option<CloseReason> {
        self.state().closed
    }

    /// Takes the next frame; `None` if the queue is closed and empty.
    pub(crate) fn poll_pop(&self, context: &mut Context<'_>) -> Poll<Option<Frame>> {
        let mut state = self.state();
        if let Some(frame) = Self::pop(&mut state) {
            return Poll::Ready(Some(frame));
        }
        if state.closed.is_some() {
            return Poll::Ready(None);
        }
        Self::set_waker(&mut state, context);
        Poll::Pending
    }

    /// Whether the stream must replay once its queue is empty.
    pub(crate) fn must_replay(&self) -> bool {
        let state = self.state();
        state.missed.is_some() && state.closed.is_none()
    }

    fn set_waker(state: &mut State, context: &Context<'_>) {
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            state.waker = Some(context.waker().clone());
        }
    }

    /// Takes the next frame if it is queued and `predicate` accepts it.
    pub(crate) fn pop_if(&self, predicate: impl FnOnce(&Frame) -> bool) -> Option<Frame> {
        let mut state = self.state();
        if !state.waiting.front().is_some_and(predicate) {
            return None;
        }
        Self::pop(&mut state)
    }

    fn pop(state: &mut State) -> Option<Frame> {
        let frame = state.waiting.pop_front(View::Body)?;
        if state.waiting.is_empty() {
            // An idle stream holds no buffer.
            state.waiting = Waiting::default();
        }
        Some(frame)
    }

    fn wake(mut state: MutexGuard<'_, State>) {
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    fn frame(bytes: usize) -> Frame {
        let frame = Frame::new(&Event::new("x".repeat(bytes - "data: \n\n".len())));
        assert_eq!(frame.len(), bytes);
        frame
    }

    fn drain(queue: &Queue) -> usize {
        let mut context = Context::from_waker(Waker::noop());
        std::iter::from_fn(|| match queue.poll_pop(&mut context) {
            Poll::Ready(frame) => frame,
            Poll::Pending => None,
        })
        .count()
    }

    #[test]
    fn frames_are_bounded() {
        let queue = Queue::new(2, 1000);
        queue.push(&frame(10), false);
        queue.push(&frame(10), false);
        assert_eq!(queue.closed(), None);
        queue.push(&frame(10), false);
        assert_eq!(queue.closed(), Some(CloseReason::Overflow));
        assert_eq!(drain(&queue), 0);
    }

    #[test]
    fn bytes_are_bounded_but_a_single_frame_fits() {
        let queue = Queue::new(10, 100);
        queue.push(&frame(500), false);
        assert_eq!(queue.closed(), None);
        assert_eq!(drain(&queue), 1);
        queue.push(&frame(60), false);
        queue.push(&frame(40), false);
        assert_eq!(queue.closed(), None);
        queue.push(&frame(10), false);
        assert_eq!(queue.closed(), Some(CloseReason::Overflow));
    }

    #[test]
    fn queued_frames_are_delivered_after_the_close_and_the_first_reason_is_kept() {
        let queue = Queue::new(10, 100);
        queue.push(&frame(20), false);
        queue.push(&frame(20), false);
        queue.close(CloseReason::Drain);
        queue.close(CloseReason::ClientGone);
        queue.push(&frame(20), false);
        assert_eq!(queue.closed(), Some(CloseReason::Drain));
        assert_eq!(drain(&queue), 2);
    }

    #[test]
    fn a_paused_queue_accepts_nothing() {
        let queue = Queue::new(10, 1000);
        queue.push(&frame(20), false);
        queue.pause();
        queue.push(&frame(20), false);
        assert!(queue.is_empty());
        queue.resume_push();
        queue.push(&frame(20), false);
        assert!(queue.pop_if(|frame| frame.len() > 20).is_none());
        assert!(queue.pop_if(|frame| frame.len() == 20).is_some());
        assert!(queue.pop_if(|_| true).is_none());
    }
}
