//! Where a client that starts over begins: now, after the receipt of an event that it may not even
//! subscribe to, or after an event that it received a while ago. Look here for what it must receive
//! from there on.

use std::collections::VecDeque;

use fastrand::Rng;

use crate::ledger::{Given, Ledger};

/// Ids that a client remembers.
const IDS_MAX: usize = 16;

/// One of so many events is remembered.
const REMEMBERED_OF: u8 = 12;

/// The ids that a client has received, and how far it was with each.
pub struct Starts {
    channels: Vec<usize>,
    /// The highest number of each channel that the client has, or that was sent before it began.
    received: Vec<u64>,
    ids: VecDeque<Given>,
}

impl Starts {
    /// For a client of some channels, by index.
    pub fn new(channels: &[usize]) -> Self {
        Self {
            channels: channels.to_vec(),
            received: vec![0; channels.len()],
            ids: VecDeque::new(),
        }
    }

    /// The client began after these numbers, by slot.
    pub fn begin(&mut self, begun: &[u64]) {
        self.received = begun.to_vec();
    }

    /// The client received an event.
    pub fn receive(&mut self, channel: usize, number: u64, id: &str, rng: &mut Rng) {
        let slot = self.channels.iter().position(|of| *of == channel);
        if let Some(received) = slot.and_then(|slot| self.received.get_mut(slot)) {
            *received = (*received).max(number);
        }
        if rng.u8(0..REMEMBERED_OF) == 0 {
            self.ids.truncate(IDS_MAX - 1);
            self.ids.push_front(Given { id: id.to_owned(), begun: self.received.clone() });
        }
    }

    /// The client received a gap event, which excuses all that was sent so far on a channel: an id
    /// that it receives later may come after that.
    pub fn gap(&mut self, channel: usize, begun: u64) {
        let slot = self.channels.iter().position(|of| *of == channel);
        if let Some(received) = slot.and_then(|slot| self.received.get_mut(slot)) {
            *received = (*received).max(begun);
        }
    }

    /// Chooses an id, and the numbers after which the client then begins, by slot; `None` is now.
    pub fn choose(&self, ledger: &Ledger, rng: &mut Rng) -> Option<Given> {
        match rng.u8(0..4) {
            0 => None,
            1 => rng.choice(self.ids.iter()).cloned(),
            _ => {
                let Given { id, begun } = ledger.receipt(rng)?;
                let of_client = |channel: &usize| begun.get(*channel).copied().unwrap_or(0);
                Some(Given { id, begun: self.channels.iter().map(of_client).collect() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Kind, Route};

    #[test]
    fn a_start_remembers_how_far_the_client_was() {
        let ledger = Ledger::new(["a", "b"].map(|name| (name.to_owned(), Kind::Durable)));
        for channel in [0, 0, 1] {
            let number = ledger.begin(channel, Route::Post);
            ledger.acknowledge(channel, number, Some(&format!("e-{channel}{number}")));
        }
        let mut rng = Rng::with_seed(1);
        let mut starts = Starts::new(&[1]);
        starts.begin(&[5]);
        starts.gap(1, 7);
        starts.gap(0, 1_000);
        for number in 8..100 {
            starts.receive(1, number, &format!("id-{number}"), &mut rng);
        }
        let mut seen = [false; 3];
        for _ in 0..200 {
            let Some(Given { id, begun }) = starts.choose(&ledger, &mut rng) else {
                seen[0] = true;
                continue;
            };
            if let Some(number) = id.strip_prefix("id-") {
                seen[1] = true;
                assert_eq!(begun, [number.parse::<u64>().unwrap()]);
            } else {
                seen[2] = true;
                // Of the channel to which the client subscribes.
                assert_eq!(begun, [u64::from(id == "e-11")], "{id}");
            }
        }
        assert_eq!(seen, [true; 3]);
    }
}
