//! When a stream acts: its heartbeat, its send timeout, its end. It reads no clock: each driver of
//! streams counts ticks of its own. Look here for which deadline comes first.

use std::time::Duration;

use crate::close::CloseReason;
use crate::limits::TICK;

/// A point in time, in [ticks](TICK) since the driver began to count.
pub type Tick = u32;

const NEVER: Tick = Tick::MAX;

/// The intervals of a stream, in ticks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Intervals {
    /// How long a stream is idle before a heartbeat is due.
    heartbeat: Option<u32>,
    /// How long a client may take nothing of what waits for it.
    send_timeout: Option<u32>,
}

impl Intervals {
    /// Intervals of these lengths; `None` for no heartbeat, and no timeout.
    pub fn new(heartbeat: Option<Duration>, send_timeout: Option<Duration>) -> Self {
        Self { heartbeat: heartbeat.map(ticks), send_timeout: send_timeout.map(ticks) }
    }

    /// When a client that has taken nothing since `since` is stalled.
    pub fn stalls_at(&self, since: Tick) -> Option<Tick> {
        // The tick had begun: a client must not be cut off early.
        Some(since.saturating_add(self.send_timeout?).saturating_add(1))
    }
}

/// A duration in whole ticks, rounded up so that no timer fires early.
pub fn ticks(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(NEVER - 1)
}

/// The deadlines of one stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    /// The tick after that in which bytes were written last.
    written: Tick,
    /// Since when the client has taken nothing of what waits for it.
    waiting: Tick,
    /// When the stream ends.
    ends: Tick,
    /// Whether the client's permission expires then, as opposed to the stream's lifetime.
    expires: bool,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// The client has taken nothing for the send timeout: it would not take an orderly end either.
    Stall,
    /// The stream ends, for this reason.
    End(CloseReason),
    /// A heartbeat.
    Heartbeat,
}

impl Schedule {
    /// The schedule of a stream that wrote at this tick. It ends when and because `ends` says so.
    pub(super) fn new(now: Tick, ends: Option<(Tick, CloseReason)>) -> Self {
        let (ends, reason) = ends.unzip();
        Self {
            written: now.saturating_add(1),
            waiting: NEVER,
            ends: ends.unwrap_or(NEVER),
            expires: reason == Some(CloseReason::Expired),
        }
    }

    /// Records that bytes were written, or queued.
    #[inline]
    pub(super) fn wrote(&mut self, now: Tick) {
        // The tick has begun: a heartbeat a tick too early would be sent to a stream that is not
        // idle.
        self.written = now.saturating_add(1);
    }

    /// Records that something waits for the client. Has no effect if something did before.
    pub(super) fn waits(&mut self, now: Tick) {
        if self.waiting == NEVER {
            self.waiting = now;
        }
    }

    /// Records that the client took a part of what waits for it.
    pub(super) fn took_some(&mut self, now: Tick) {
        self.waiting = now;
    }

    /// Records that nothing waits for the client any more.
    pub(super) fn took_all(&mut self) {
        self.waiting = NEVER;
    }

    /// Since when the client has taken nothing of what waits for it.
    pub(super) fn waiting_since(&self) -> Option<Tick> {
        (self.waiting != NEVER).then_some(self.waiting)
    }

    /// When something is due next. A stream that is closing only stalls.
    pub(super) fn next(&self, intervals: &Intervals, is_closing: bool) -> Option<Tick> {
        let stalls = self.stalls_at(intervals);
        if is_closing {
            return stalls;
        }
        let ends = (self.ends != NEVER).then_some(self.ends);
        [stalls, ends, self.heartbeat_at(intervals)].into_iter().flatten().min()
    }

    /// What is due now; the first of them, if it is several.
    pub(super) fn due(&self, now: Tick, intervals: &Intervals, is_closing: bool) -> Option<Due> {
        let is_due = |at: Option<Tick>| at.is_some_and(|at| now >= at);
        if is_due(self.stalls_at(intervals)) {
            return Some(Due::Stall);
        }
        if is_closing {
            return None;
        }
        if self.ends != NEVER && now >= self.ends {
            let reason = if self.expires { CloseReason::Expired } else { CloseReason::Lifetime };
            return Some(Due::End(reason));
        }
        is_due(self.heartbeat_at(intervals)).then_some(Due::Heartbeat)
    }

    fn stalls_at(&self, intervals: &Intervals) -> Option<Tick> {
        intervals.stalls_at(self.waiting_since()?)
    }

    fn heartbeat_at(&self, intervals: &Intervals) -> Option<Tick> {
        Some(self.written.saturating_add(intervals.heartbeat?))
    }
}

const _: () = assert!(size_of::<Schedule>() <= 16);

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_due_first_comes_first_and_a_closing_stream_only_stalls() {
        let intervals = Intervals::new(Some(15 * SECOND), Some(30 * SECOND));
        let mut schedule = Schedule::new(0, Some((200, CloseReason::Expired)));
        let check = |schedule: &Schedule, now, is_closing, next, due| {
            assert_eq!(schedule.next(&intervals, is_closing), next, "next at {now}");
            assert_eq!(schedule.due(now, &intervals, is_closing), due, "due at {now}");
        };
        check(&schedule, 150, false, Some(151), None);
        check(&schedule, 151, false, Some(151), Some(Due::Heartbeat));
        schedule.wrote(151);
        check(&schedule, 199, false, Some(200), None);
        let expired = Some(Due::End(CloseReason::Expired));
        check(&schedule, 400, false, Some(200), expired);
        check(&schedule, 400, true, None, None);
        schedule.waits(160);
        schedule.waits(170);
        check(&schedule, 460, true, Some(461), None);
        check(&schedule, 461, true, Some(461), Some(Due::Stall));
        check(&schedule, 461, false, Some(200), Some(Due::Stall));
        schedule.took_some(461);
        check(&schedule, 461, true, Some(762), None);
        schedule.took_all();
        check(&schedule, 999, true, None, None);
        let never = Schedule::new(7, None);
        assert_eq!(never.next(&Intervals::default(), false), None);
        assert_eq!(never.due(Tick::MAX, &Intervals::default(), false), None);
    }

    #[test]
    fn no_timer_fires_early() {
        for (duration, expected) in [(0, 0), (1, 1), (100, 1), (101, 2), (15_000, 150)] {
            assert_eq!(ticks(Duration::from_millis(duration)), expected, "{duration} ms");
        }
        assert_eq!(ticks(Duration::MAX), Tick::MAX - 1);
    }
}
