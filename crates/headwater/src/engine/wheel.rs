//! A timer wheel, in ticks, with one timer per stream of a shard; does no IO and reads no clock.
//! Look here for the cost of a timer.
//!
//! The wheel is an array of slots, each with a doubly linked list of the timers that are due when
//! the hand passes it. Timers that are due a whole round later, or more, stay in the list. Setting
//! and clearing a timer takes a few stores; a stream's timer takes 12 bytes.

/// Slots of the wheel: one round is 51 s. Heartbeats and most timeouts are due within a round.
const SLOTS: usize = 512;

const NONE: u32 = u32::MAX;

/// The timers of a shard, one per key. The table of nodes is as long as the largest key, so keys
/// must be small.
pub(super) struct TimerWheel {
    /// The first timer of each slot.
    slots: Box<[u32]>,
    nodes: Vec<Node>,
    /// The position of the hand: all timers due up to this tick have fired.
    now: u32,
    /// How many timers are set.
    set: usize,
}

#[derive(Clone, Copy)]
struct Node {
    due: u32,
    next: u32,
    /// The preceding timer, or `NONE` for the first of the slot.
    previous: u32,
}

const UNSET: Node = Node { due: NONE, next: NONE, previous: NONE };

impl TimerWheel {
    /// An empty wheel with its hand at `now`.
    pub(super) fn at(now: u32) -> Self {
        Self { slots: vec![NONE; SLOTS].into(), nodes: Vec::new(), now, set: 0 }
    }

    fn slot(due: u32) -> usize {
        due as usize % SLOTS
    }

    /// Sets or moves the timer of a key. If `due` has passed, the timer fires at the next tick.
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
        self.nodes[at] = Node { due, next: first, previous: NONE };
        if first != NONE {
            self.nodes[first as usize].previous = key;
        }
        self.set += 1;
    }

    pub(super) fn due(&self, key: u32) -> Option<u32> {
        self.nodes.get(key as usize).map(|node| node.due).filter(|due| *due != NONE)
    }

    pub(super) fn clear(&mut self, key: u32) {
        let Some(due) = self.due(key) else { return };
        let Node { next, previous, .. } = std::mem::replace(&mut self.nodes[key as usize], UNSET);
        if next != NONE {
            self.nodes[next as usize].previous = previous;
        }
        match previous {
            NONE => self.slots[Self::slot(due)] = next,
            previous => self.nodes[previous as usize].next = next,
        }
        self.set -= 1;
    }

    /// Moves the hand to `now`. Clears the timers that are due, and adds each of their keys to
    /// `fired` once.
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

    /// The tick at which to call `advance` next: no later than the next timer, and at most one
    /// round from now. `None` if no timer is set.
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
                        let due: Vec<u32> =
                            table.iter().filter(is_due).map(|(key, _)| *key).collect();
                        table.retain(|_, due| *due > now);
                        prop_assert_eq!(fired, due);
                    }
                }
                for key in 0..20 {
                    prop_assert_eq!(wheel.due(key), table.get(&key).copied());
                }
                let next = table.values().min().copied();
                prop_assert_eq!(wheel.next().is_some(), next.is_some());
                if let (Some(tick), Some(next)) = (wheel.next(), next) {
                    prop_assert!(now < tick && tick <= next);
                }
            }
        }
    }
}
