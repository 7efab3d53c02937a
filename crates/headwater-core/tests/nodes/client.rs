//! A client that moves between nodes, and the reference: what it must have received. Look here for
//! the assertions.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use headwater_core::frame::Frame;
use headwater_core::{Hub, Subscription};

use super::CHANNELS;
use super::cluster::{Cluster, channel, number};

/// Longer than several retries. Time is paused, so it costs nothing.
const QUIET: Duration = Duration::from_secs(10);

/// What a client with some id has: for each channel, every event of the log before an index, and
/// the ephemeral events that it received or that were reported as missing.
#[derive(Clone, Default)]
struct Has {
    before: [usize; CHANNELS],
    /// For each channel, the index before which an event would be a duplicate.
    seen: [usize; CHANNELS],
    /// Ephemeral events before this index are settled.
    ephemeral_before: [usize; CHANNELS],
    ephemeral: BTreeSet<usize>,
    /// Those of them that may arrive again: they were published after the event of the ID with
    /// which the client connected, and its first node happened to deliver them before that.
    repeatable: BTreeSet<usize>,
    /// Channels with a gap since their last event.
    gaps: HashSet<usize>,
    /// Channels that have ended for the client.
    ended: HashSet<usize>,
}

pub(super) struct Client {
    subscription: Option<Subscription>,
    channels: Vec<usize>,
    has: Has,
    /// All ids that the client was ever given, with what it had then.
    ids: Vec<(String, Vec<usize>, Has)>,
}

impl Client {
    pub(super) fn new() -> Self {
        Self { subscription: None, channels: Vec::new(), has: Has::default(), ids: Vec::new() }
    }

    pub(super) fn disconnect(&mut self) {
        self.subscription = None;
    }

    /// Connects to a node with the id before the last `back` ones, or without one.
    pub(super) async fn connect(
        &mut self,
        hub: &Hub,
        cluster: &Cluster,
        channels: Vec<usize>,
        back: usize,
    ) {
        self.disconnect();
        let names = channels.iter().copied().map(channel);
        let subscription = hub.subscribe(names).unwrap();
        let chosen = self.ids.len().checked_sub(back + 1).map(|at| self.ids[at].clone());
        self.channels.clone_from(&channels);
        match chosen {
            Some((id, had, has)) => {
                self.has = has;
                if id.starts_with("own-") {
                    // It does not say which ephemeral events the client has.
                    self.has.ephemeral_before = [cluster.count(); CHANNELS];
                }
                let position = cluster.position_of(&id);
                if position.is_durable() {
                    let after = cluster.index_after(position);
                    self.has.repeatable = self.has.ephemeral.split_off(&after);
                    self.has.ephemeral.extend(&self.has.repeatable);
                }
                for channel in channels.iter().filter(|it| !had.contains(it)) {
                    self.begin(cluster, *channel, cluster.index_after(position));
                }
                self.subscription = Some(subscription.after(id));
            }
            None => self.connect_now(subscription, cluster).await,
        }
    }

    /// Connects with the id of a receipt, of an event of any channel.
    pub(super) fn connect_at(&mut self, hub: &Hub, cluster: &Cluster, channels: Vec<usize>) {
        self.disconnect();
        let head = cluster.head();
        let names = channels.iter().copied().map(channel);
        self.subscription = Some(hub.subscribe(names).unwrap().after(head.to_string()));
        self.channels = channels;
        self.has = Has::default();
        for channel in 0..CHANNELS {
            self.begin(cluster, channel, cluster.index_after(head));
        }
    }

    async fn connect_now(&mut self, mut subscription: Subscription, cluster: &Cluster) {
        self.has = Has::default();
        for channel in 0..CHANNELS {
            self.begin(cluster, channel, cluster.count());
        }
        // A stream without an id may start earlier.
        self.has.seen = [0; CHANNELS];
        subscription.ready().await;
        self.subscription = Some(subscription);
    }

    /// The client follows a channel from an index on. It does not know of earlier ephemeral events.
    fn begin(&mut self, cluster: &Cluster, channel: usize, index: usize) {
        self.has.before[channel] = index;
        self.has.seen[channel] = index;
        self.has.ephemeral_before[channel] = cluster.count();
        // Nor does an id of other channels say which of them the client had received.
        self.has.ephemeral.retain(|index| cluster.record(*index).channel != channel);
        self.has.gaps.remove(&channel);
        self.has.ended.remove(&channel);
    }

    /// Reads `count` frames, or as many as there are. Then nothing may be missing.
    pub(super) async fn read(&mut self, cluster: &Cluster, count: usize, is_settled: bool) {
        for _ in 0..count {
            let Some(subscription) = &mut self.subscription else { return };
            let next = std::future::poll_fn(|context| subscription.poll_frame(context));
            match tokio::time::timeout(QUIET, next).await {
                Ok(Some(frame)) => self.take(cluster, &frame),
                // The queue overflowed, or all channels ended.
                Ok(None) => {
                    let closed = subscription.closed();
                    if closed == Some(headwater_core::close::CloseReason::Finished) {
                        self.check_finished(cluster);
                    }
                    return self.disconnect();
                }
                Err(_) if is_settled => return self.check_all(cluster),
                Err(_) => return,
            }
        }
    }

    fn take(&mut self, cluster: &Cluster, frame: &Frame) {
        if let Some(gap) = frame.gap() {
            let channel = number(&gap.channel);
            assert!(self.channels.contains(&channel), "a gap of channel {channel}");
            self.has.gaps.insert(channel);
            // Any ephemeral event so far may be missing.
            self.has.ephemeral_before[channel] = cluster.count();
        } else if !frame.is_marker() {
            self.take_event(cluster, frame.event().data().trim_end().parse().unwrap());
        }
        let event = frame.event();
        let publisher_id = event.id().map(|id| id.as_str().to_owned());
        let id = publisher_id
            .filter(|_| !frame.is_marker())
            .or_else(|| frame.position().map(|it| it.to_string()));
        if let Some(id) = id {
            let snapshot = (id, self.channels.clone(), self.has.clone());
            self.ids.push(snapshot);
        }
    }

    fn take_event(&mut self, cluster: &Cluster, index: usize) {
        let record = cluster.record(index);
        let channel = record.channel;
        assert!(self.channels.contains(&channel), "{index} is of channel {channel}");
        if record.offset.is_none() {
            let is_new = self.has.ephemeral.insert(index) || self.has.repeatable.remove(&index);
            assert!(is_new, "{index} is a duplicate");
            return;
        }
        let seen = self.has.seen[channel];
        assert!(index >= seen, "{index} is a duplicate or late: all before {seen} is there");
        if !self.has.gaps.remove(&channel) {
            self.check_log(cluster, channel, index);
        }
        self.has.seen[channel] = index + 1;
        self.has.before[channel] = self.has.before[channel].max(index + 1);
        if record.end {
            self.has.ended.insert(channel);
        }
    }

    fn check_log(&self, cluster: &Cluster, channel: usize, until: usize) {
        for index in self.has.before[channel]..until {
            let record = cluster.record(index);
            assert!(
                record.channel != channel || record.offset.is_none(),
                "{index} of channel {channel} is missing, and no gap was reported"
            );
        }
    }

    /// Nothing is in flight any more: the client has everything, or gaps were reported.
    fn check_all(&self, cluster: &Cluster) {
        let count = cluster.count();
        for &channel in &self.channels {
            if !self.has.gaps.contains(&channel) {
                self.check_log(cluster, channel, count);
            }
            for index in self.has.ephemeral_before[channel]..count {
                let record = cluster.record(index);
                let is_missing = record.channel == channel
                    && record.offset.is_none()
                    && !self.has.ephemeral.contains(&index);
                assert!(
                    !is_missing || !record.leaves_trace,
                    "ephemeral event {index} of channel {channel} is missing without a gap"
                );
            }
        }
    }

    fn check_finished(&self, cluster: &Cluster) {
        for &channel in &self.channels {
            assert!(cluster.was_ended(channel), "channel {channel} has not ended");
        }
    }

    /// Whether the stream should have ended, since all its channels have.
    pub(super) fn is_open(&self) -> bool {
        self.subscription.is_some()
    }

    pub(super) fn channels(&self) -> &[usize] {
        &self.channels
    }
}
