//! A timer wheel: one timer per stream of a shard, in ticks. No I/O and no clock. Look here for
//! what a timer costs.
//!
//! Each slot holds a doubly linked list of the timers that are due when the hand passes it, in this
//! round or a later one: those of later rounds stay in place. Setting and clearing a timer takes a
//! few stores, and a stream's timer is 12 bytes.

/// Number of slots: 51 s of ticks. Heartbeats and most timeouts are due within one round.
const SLOTS: usize = 512;

const NONE: u32 = u32::MAX;

/// The timers of a shard, one per key. Keys must be small: they index a vector.
pub(super) struct TimerWheel {
    /// The first timer of each slot.
    slots: Box<[u32]>,
    nodes: Vec<Node>,
    /// The tick up to which all timers have fired.
    now: u32,
    /// Number of timers that are set.
    set: usize,
}

#[derive(Clone, Copy)]
struct Node {
    due: u32,
    next: u32,
    /// The previous timer, or `NONE` if this is the first of its slot.
    before: u32,
}

/// A timer that is not set.
const UNSET: Node = Node { due: NONE, next: NONE, before: NONE };

impl TimerWheel {
    /// A wheel without timers, at this tick.
    pub(super) fn at(now: u32) -> Self {
        Self { slots: vec![NONE; SLOTS].into(), nodes: Vec::new(), now, set: 0 }
    }

    fn slot(due: u32) -> usize {
        due as usize % SLOTS
    }

    /// Sets or moves the timer of a key. One that is due already fires on the next tick.
    pub(super) fn set(&mut self, key: u32, due: u32) {
        let due = due.clamp(self.now + 1, NONE - 1);
        if self.due(key) == Some(due) {
            return;
        }
        self.clear(key);
        let at = key as usize;
        if at >= self.nodes.len() {
            self.nodes.resize(at + 1, UNSET);
        }
        let first = std::mem::replace(&mut self.slots[Self::slot(due)], key);
        self.nodes[at] = Node { due, next: first, before: NONE };
        if first != NONE {
            self.nodes[first as usize].before = key;
        }
        self.set += 1;
    }

    pub(super) fn due(&self, key: u32) -> Option<u32> {
        self.nodes.get(key as usize).map(|node| node.due).filter(|due| *due != NONE)
    }

    pub(super) fn clear(&mut self, key: u32) {
        let Some(due) = self.due(key) else { return };
        let Node { next, before, .. } = std::mem::replace(&mut self.nodes[key as usize], UNSET);
        if next != NONE {
            self.nodes[next as usize].before = before;
        }
        match before {
            NONE => self.slots[Self::slot(due)] = next,
            before => self.nodes[before as usize].next = next,
        }
        self.set -= 1;
    }

    /// Moves the hand to `now`; clears the timers that fire, and appends their keys to `fired`.
    pub(super) fn advance(&mut self, now: u32, fired: &mut Vec<u32>) {
        if now <= self.now {
            return;
        }
        let ticks = (now - self.now).min(u32::try_from(SLOTS).unwrap_or(u32::MAX));
        let from = self.now + 1;
        self.now = now;
        for tick in from..from.saturating_add(ticks) {
            let mut key = self.slots[Self::slot(tick)];
            while key != NONE {
                let Node { due, next, .. } = self.nodes[key as usize];
                if due <= now {
                    self.clear(key);
                    fired.push(key);
                }
                key = next;
            }
        }
    }

    /// When to move the hand next: no later than the next timer is due, and at most a round from
    /// now. `None` if no timer is set.
    pub(super) fn next(&self) -> Option<u32> {
        if self.set == 0 {
            return None;
        }
        let round = u32::try_from(SLOTS).unwrap_or(u32::MAX);
        let filled = |tick: &u32| self.slots[Self::slot(*tick)] != NONE;
        (self.now + 1..=self.now + round).find(filled)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Set(u32, u32),
        Clear(u32),
        Advance(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..20u32, 0..2000u32).prop_map(|(key, after)| Step::Set(key, after)),
            (0..20u32).prop_map(Step::Clear),
            (0..1500u32).prop_map(Step::Advance),
        ]
    }

    proptest! {
        #[test]
        fn timers_fire_as_in_a_sorted_table(steps in prop::collection::vec(step(), 0..200)) {
            let (mut wheel, mut table, mut now) = (TimerWheel::at(0), BTreeMap::new(), 0);
            for step in steps {
                match step {
                    Step::Set(key, after) => {
                        wheel.set(key, now + after);
                        table.insert(key, (now + after).max(now + 1));
                    }
                    Step::Clear(key) => {
                        wheel.clear(key);
                        table.remove(&key);
                    }
                    Step::Advance(ticks) => {
                        now += ticks;
                        let mut fired = Vec::new();
                        wheel.advance(now, &mut fired);
                        fired.sort_unstable();
                        let is_due = |(_, due): &(&u32, &u32)| **due <= now;
                        let due: Vec<u32> = table.iter().filter(is_due).map(|it| *it.0).collect();
                        table.retain(|_, due| *due > now);
                        prop_assert_eq!(fired, due);
                    }
                }
                for key in 0..20 {
                    prop_assert_eq!(wheel.due(key), table.get(&key).copied());
                }
                let next = table.values().min().copied();
                prop_assert_eq!(wheel.next().is_some(), next.is_some());
                if let (Some(wake), Some(next)) = (wheel.next(), next) {
                    prop_assert!(now < wake && wake <= next);
                }
            }
        }
    }
}
