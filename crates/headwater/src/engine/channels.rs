//! A shard's index from channels to streams; does no IO. Look here for how a frame finds its
//! streams without hashing.

use super::stream::{Membership, Memberships};
use headwater_core::Channel;
use headwater_core::transport::ChannelSlot;

/// The channels of a shard, indexed by the slots that messages name.
#[derive(Default)]
pub(super) struct Channels {
    table: Vec<Option<Entry>>,
}

/// A channel and its streams.
pub(super) struct Entry {
    channel: Channel,
    /// The keys of the streams. The order changes when a stream leaves.
    pub(super) streams: Vec<u32>,
}

impl Channels {
    pub(super) fn get(&self, slot: u32) -> Option<&Entry> {
        self.table.get(slot as usize)?.as_ref()
    }

    /// The name of a channel.
    pub(super) fn name(&self, slot: u32) -> Option<&Channel> {
        self.get(slot).map(|entry| &entry.channel)
    }

    /// A copy of the keys of a channel's streams, which stays valid while streams leave.
    pub(super) fn streams_on(&self, slot: u32) -> Vec<usize> {
        let streams = self.get(slot).map(|entry| entry.streams.as_slice()).unwrap_or_default();
        streams.iter().map(|key| *key as usize).collect()
    }

    /// Adds a stream to channels.
    pub(super) fn join(&mut self, stream: u32, joined: Box<[ChannelSlot]>) -> Memberships {
        let mut memberships = joined.into_iter().map(|joined| self.join_one(stream, joined));
        if memberships.len() == 1
            && let Some(one) = memberships.next()
        {
            return Memberships::One(one);
        }
        Memberships::Many(memberships.collect())
    }

    fn join_one(&mut self, stream: u32, joined: ChannelSlot) -> Membership {
        let ChannelSlot { channel, slot } = joined;
        let at = slot as usize;
        if at >= self.table.len() {
            self.table.resize_with(at + 1, || None);
        }
        let entry = self.table[at].get_or_insert_with(|| Entry {
            channel,
            // Most channels have either one stream or many.
            streams: Vec::with_capacity(1),
        });
        let index = u32::try_from(entry.streams.len()).unwrap_or(u32::MAX);
        entry.streams.push(stream);
        Membership { slot, index }
    }

    /// Removes a stream from a channel. Returns the channel's name, and the stream that was moved
    /// to the freed index, if any.
    pub(super) fn leave(&mut self, left: Membership) -> Option<(Channel, Option<u32>)> {
        let entry_slot = self.table.get_mut(left.slot as usize)?;
        let entry = entry_slot.as_mut()?;
        entry.streams.swap_remove(left.index as usize);
        let moved = entry.streams.get(left.index as usize).copied();
        let channel = entry.channel.clone();
        if entry.streams.is_empty() {
            *entry_slot = None;
        } else if entry.streams.capacity() > 64
            && entry.streams.len() < entry.streams.capacity() / 4
        {
            entry.streams.shrink_to_fit();
        }
        Some((channel, moved))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(slot: u32) -> ChannelSlot {
        let channel = Channel::new(format!("c{slot}")).unwrap();
        ChannelSlot { channel, slot }
    }

    #[test]
    fn indexes_stay_correct_when_streams_leave() {
        let mut channels = Channels::default();
        let first = channels.join(10, [joined(4)].into());
        let second = channels.join(11, [joined(4), joined(0)].into());
        channels.join(12, [joined(4)].into());
        assert_eq!(channels.get(4).unwrap().streams, [10, 11, 12]);
        let (channel, moved) = channels.leave(first.as_slice()[0]).unwrap();
        assert_eq!((channel.as_str(), moved), ("c4", Some(12)));
        assert_eq!(channels.get(4).unwrap().streams, [12, 11]);
        for left in second.as_slice() {
            channels.leave(*left).unwrap();
        }
        assert!(channels.get(0).is_none());
        assert_eq!(channels.get(4).unwrap().streams, [12]);
    }
}
