//! One log and several nodes, each with a connection that can lag, break and be restored. Look here
//! for how the tests assume that a networked broker behaves.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use headwater_core::broker::{
    Baseline, Broker, BrokerFuture, BrokerStatus, History, LoggedEvent, ReadRange, Sink,
};
use headwater_core::clock::now_ms;
use headwater_core::log::{Epoch, Position};
use headwater_core::{Channel, Error, Event, Publish, Receipt, limits};
use tokio::sync::oneshot;

use super::CHANNELS;

/// A published event. Its data is its index in the list of all records.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) channel: usize,
    /// The offset in the log; `None` for an ephemeral event.
    pub(super) offset: Option<u64>,
    /// Whether the log still has the event.
    pub(super) retained: bool,
    /// Whether the channel was known to receive ephemeral events when it was published. The first
    /// ones leave no trace if no node receives them at once.
    pub(super) leaves_trace: bool,
    pub(super) epoch: Epoch,
    pub(super) end: bool,
    previous: u64,
    large: bool,
}

/// What arrives over a node's connection.
enum Arrival {
    Record(usize),
    /// The answer to a query of this moment, at its marker.
    Answer {
        epoch: Epoch,
        last: u64,
        baselines: Vec<(Channel, Baseline)>,
        done: oneshot::Sender<()>,
    },
}

#[derive(Default)]
struct Node {
    sink: Option<Sink>,
    /// Channels that the hub wants, and whether it has their baseline.
    wanted: HashMap<Channel, bool>,
    is_lost: bool,
    is_lagging: bool,
    in_flight: VecDeque<Arrival>,
    epoch: Option<Epoch>,
    /// Queries that wait for the connection: the channels, and who waits.
    queries: Vec<(Vec<Channel>, oneshot::Sender<()>)>,
}

/// The log and its nodes.
#[derive(Clone)]
pub(super) struct Cluster(Arc<Mutex<State>>);

struct State {
    all: Vec<Record>,
    epoch: Epoch,
    last: u64,
    lasts: HashMap<usize, u64>,
    ended: HashSet<usize>,
    /// Channels that are noted to receive ephemeral events.
    noted: HashSet<usize>,
    nodes: Vec<Node>,
}

/// The broker of one node.
pub(super) struct Link {
    cluster: Cluster,
    node: usize,
}

pub(super) fn channel(number: usize) -> Channel {
    Channel::new(format!("c{number}")).unwrap()
}

pub(super) fn number(channel: &Channel) -> usize {
    channel.as_str()[1..].parse().unwrap()
}

/// The ID that the publisher of some events of the log sets.
fn publisher_id(index: usize) -> Option<String> {
    (index % 4 == 3).then(|| format!("own-{index}"))
}

impl Cluster {
    pub(super) fn new(nodes: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            all: Vec::new(),
            epoch: Epoch::random(),
            last: 0,
            lasts: HashMap::new(),
            ended: HashSet::new(),
            noted: HashSet::new(),
            nodes: (0..nodes).map(|_| Node::default()).collect(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(super) fn link(&self, node: usize) -> Link {
        Link { cluster: self.clone(), node }
    }

    pub(super) fn count(&self) -> usize {
        self.state().all.len()
    }

    pub(super) fn record(&self, index: usize) -> Record {
        self.state().all[index].clone()
    }

    /// The index of the first record after a position of the log.
    pub(super) fn index_after(&self, position: Position) -> usize {
        let state = self.state();
        let is_after = |record: &Record| {
            record.epoch == position.epoch()
                && record.offset.is_some_and(|offset| offset > position.offset())
        };
        let in_epoch = |record: &Record| record.epoch == position.epoch();
        let begin = state.all.iter().position(in_epoch).unwrap_or(state.all.len());
        let is_at = |record: &Record| in_epoch(record) && record.offset == Some(position.offset());
        match state.all.iter().position(is_at) {
            Some(at) => at + 1,
            None => state.all.iter().position(is_after).unwrap_or(begin),
        }
    }

    /// The position that an ID stands for, of an event or of a publisher.
    pub(super) fn position_of(&self, id: &str) -> Position {
        match id.strip_prefix("own-") {
            Some(index) => {
                let record = self.record(index.parse().unwrap());
                Position::new(record.epoch, record.offset.unwrap())
            }
            None => id.parse().unwrap(),
        }
    }

    /// The position of the newest event of the log.
    pub(super) fn head(&self) -> Position {
        let state = self.state();
        Position::new(state.epoch, state.last)
    }

    pub(super) fn is_ended(&self, channel: usize) -> bool {
        self.state().ended.contains(&channel)
    }

    /// Whether the channel ended in any epoch.
    pub(super) fn was_ended(&self, channel: usize) -> bool {
        self.state().all.iter().any(|record| record.channel == channel && record.end)
    }

    pub(super) fn publish(&self, channel: usize, large: bool, end: bool, is_announced: bool) {
        let mut state = self.state();
        if state.ended.contains(&channel) {
            return;
        }
        state.last += 1;
        let (offset, epoch) = (state.last, state.epoch);
        let previous = state.lasts.insert(channel, offset).unwrap_or(0);
        if end {
            state.ended.insert(channel);
        }
        state.all.push(Record {
            channel,
            offset: Some(offset),
            retained: true,
            leaves_trace: false,
            epoch,
            end,
            previous,
            large,
        });
        if is_announced {
            let index = state.all.len() - 1;
            state.announce(index);
        }
    }

    /// Publishes an event that no node is notified of, then others. A node whose connection is lost
    /// at the same time could not distinguish that from what it has missed.
    pub(super) fn publish_silently(&self, channel: usize, others: usize) {
        if self.state().nodes.iter().any(|node| node.is_lost) {
            return;
        }
        self.publish(channel, false, false, false);
        (0..others).for_each(|_| self.publish((channel + 1) % CHANNELS, false, false, true));
        self.publish(channel, false, false, true);
    }

    /// The newest event of a channel in the log arrives once more.
    pub(super) fn repeat(&self, channel: usize) {
        let mut state = self.state();
        let epoch = state.epoch;
        let is_newest = |record: &Record| {
            record.channel == channel && record.epoch == epoch && record.offset.is_some()
        };
        if let Some(index) = state.all.iter().rposition(is_newest) {
            state.announce(index);
        }
    }

    pub(super) fn publish_ephemeral(&self, channel: usize) {
        let mut state = self.state();
        let epoch = state.epoch;
        state.all.push(Record {
            channel,
            offset: None,
            retained: false,
            leaves_trace: false,
            epoch,
            end: false,
            previous: 0,
            large: false,
        });
        let index = state.all.len() - 1;
        state.announce(index);
        state.all[index].leaves_trace = state.noted.contains(&channel);
    }

    /// Removes events of a channel from the log: the oldest, all but `keep`, or one in the middle.
    pub(super) fn trim(&self, channel: usize, keep: usize) {
        let mut state = self.state();
        let epoch = state.epoch;
        let retained =
            state.all.iter_mut().rev().filter(|record| {
                record.channel == channel && record.epoch == epoch && record.retained
            });
        retained.skip(keep).for_each(|record| record.retained = false);
    }

    pub(super) fn remove_one(&self, channel: usize, at: usize) {
        let mut state = self.state();
        let epoch = state.epoch;
        let mut retained =
            state.all.iter_mut().rev().filter(|record| {
                record.channel == channel && record.epoch == epoch && record.retained
            });
        if let Some(record) = retained.nth(at) {
            record.retained = false;
        }
    }

    /// The log loses its data.
    pub(super) fn reset(&self) {
        let mut state = self.state();
        state.epoch = Epoch::random();
        state.last = 0;
        state.lasts.clear();
        state.ended.clear();
        state.noted.clear();
    }

    pub(super) fn lose(&self, node: usize) {
        let mut state = self.state();
        let node = &mut state.nodes[node];
        node.is_lost = true;
        // A query without an answer is repeated.
        for arrival in node.in_flight.drain(..) {
            if let Arrival::Answer { baselines, done, .. } = arrival {
                node.queries.push((baselines.into_iter().map(|(of, _)| of).collect(), done));
            }
        }
    }

    /// Restores a node's connection, as the contract of `Sink` says.
    pub(super) fn restore(&self, node: usize) {
        let mut state = self.state();
        if !std::mem::replace(&mut state.nodes[node].is_lost, false) {
            return;
        }
        let had: Vec<Channel> = state.nodes[node]
            .wanted
            .iter()
            .filter(|(_, has_baseline)| **has_baseline)
            .map(|(channel, _)| channel.clone())
            .collect();
        let sink = state.nodes[node].sink.clone().unwrap();
        let epoch = state.epoch;
        if state.nodes[node].epoch.replace(epoch) != Some(epoch) {
            sink.log(state.epoch, state.last);
        }
        for channel in &had {
            sink.baseline(channel, state.baseline(number(channel)));
        }
        sink.log(state.epoch, state.last);
        for (channels, done) in std::mem::take(&mut state.nodes[node].queries) {
            state.query(node, channels, done);
        }
    }

    pub(super) fn lag(&self, node: usize) {
        self.state().nodes[node].is_lagging = true;
    }

    /// Delivers everything that is in flight.
    pub(super) fn flush(&self, node: usize) {
        let mut state = self.state();
        state.nodes[node].is_lagging = false;
        state.deliver(node);
    }
}

impl State {
    fn announce(&mut self, index: usize) {
        let channel = channel(self.all[index].channel);
        for node in 0..self.nodes.len() {
            if !self.nodes[node].is_lost && self.nodes[node].wanted.contains_key(&channel) {
                self.nodes[node].in_flight.push_back(Arrival::Record(index));
                if !self.nodes[node].is_lagging {
                    self.deliver(node);
                }
            }
        }
    }

    fn query(&mut self, node: usize, channels: Vec<Channel>, done: oneshot::Sender<()>) {
        if self.nodes[node].is_lost {
            self.nodes[node].queries.push((channels, done));
            return;
        }
        let baselines = channels.into_iter().map(|channel| {
            let baseline = self.baseline(number(&channel));
            (channel, baseline)
        });
        let (epoch, last, baselines) = (self.epoch, self.last, baselines.collect());
        self.nodes[node].in_flight.push_back(Arrival::Answer { epoch, last, baselines, done });
        if !self.nodes[node].is_lagging {
            self.deliver(node);
        }
    }

    fn deliver(&mut self, node: usize) {
        let sink = self.nodes[node].sink.clone().unwrap();
        while let Some(arrival) = self.nodes[node].in_flight.pop_front() {
            match arrival {
                Arrival::Record(index) => self.deliver_record(node, &sink, index),
                Arrival::Answer { epoch, last, baselines, done } => {
                    self.nodes[node].epoch = Some(epoch);
                    sink.log(epoch, last);
                    let mut wanted = Vec::new();
                    for (channel, baseline) in baselines {
                        if let Some(has_baseline) = self.nodes[node].wanted.get_mut(&channel) {
                            *has_baseline = true;
                            wanted.push((channel, baseline));
                        }
                    }
                    sink.baselines(&wanted);
                    // The receiver may be gone.
                    let _ = done.send(());
                }
            }
        }
    }

    fn deliver_record(&mut self, node: usize, sink: &Sink, index: usize) {
        let to = channel(self.all[index].channel);
        // Before its baseline, a channel's events are in what the baseline says.
        if self.nodes[node].wanted.get(&to) != Some(&true) {
            return;
        }
        let (event, record) = (self.event(index), &self.all[index]);
        if let Some(offset) = record.offset {
            self.nodes[node].epoch = Some(record.epoch);
            let position = Position::new(record.epoch, offset);
            let logged = LoggedEvent::new(&to, &event, position, record.previous, now_ms());
            sink.event(logged.with_end(record.end));
        } else {
            self.noted.insert(record.channel);
            sink.ephemeral(&to, &event);
        }
    }

    fn event(&self, index: usize) -> Event {
        let mut data = index.to_string();
        if self.all[index].large {
            data.push_str(&" ".repeat(limits::RING_BYTES_MAX));
        }
        match publisher_id(index) {
            Some(id) if self.all[index].offset.is_some() => Event::new(data).with_id(id).unwrap(),
            _ => Event::new(data),
        }
    }

    fn baseline(&self, number: usize) -> Baseline {
        let last = self.lasts.get(&number).copied().unwrap_or(0);
        let baseline = Baseline::new(last).with_end(self.ended.contains(&number));
        baseline.with_ephemeral(self.noted.contains(&number))
    }

    fn history(&self, of: &Channel, range: ReadRange) -> History {
        let number = number(of);
        let records = self.all.iter().enumerate().filter(|(_, record)| {
            record.channel == number && record.epoch == self.epoch && record.retained
        });
        let records: Vec<(usize, &Record)> = records.collect();
        let offsets: Vec<u64> = records.iter().filter_map(|(_, record)| record.offset).collect();
        let selected: HashSet<u64> = range.select(&offsets).collect();
        let mut history = History::new(self.last);
        for (index, record) in records {
            let Some(offset) = record.offset.filter(|offset| selected.contains(offset)) else {
                continue;
            };
            let (event, position) = (self.event(index), Position::new(self.epoch, offset));
            let logged = LoggedEvent::new(of, &event, position, record.previous, now_ms());
            history.push(logged.with_end(record.end));
        }
        history
    }
}

impl Broker for Link {
    fn start(&mut self, sink: Sink) {
        self.cluster.state().nodes[self.node].sink = Some(sink);
    }

    fn publish(&self, _: Vec<Publish>) -> BrokerFuture<'_, Result<Vec<Receipt>, Error>> {
        unreachable!("only the test publishes")
    }

    fn subscribe(&self, channel: &Channel) {
        self.cluster.state().nodes[self.node].wanted.insert(channel.clone(), false);
    }

    fn unsubscribe(&self, channel: &Channel) {
        let mut state = self.cluster.state();
        // Answers that are in flight are not for the channel's next subscription.
        for (channels, _) in &mut state.nodes[self.node].queries {
            channels.retain(|of| of != channel);
        }
        for arrival in &mut state.nodes[self.node].in_flight {
            if let Arrival::Answer { baselines, .. } = arrival {
                baselines.retain(|(of, _)| of != channel);
            }
        }
        state.nodes[self.node].wanted.remove(channel);
    }

    fn subscribed<'a>(&'a self, channel: &'a Channel) -> BrokerFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            loop {
                let answered = {
                    let mut state = self.cluster.state();
                    let is_lost = state.nodes[self.node].is_lost;
                    if state.nodes[self.node].wanted.get(channel) == Some(&true) && !is_lost {
                        return Ok(());
                    }
                    let (done, answered) = oneshot::channel();
                    state.query(self.node, vec![channel.clone()], done);
                    answered
                };
                let _ = answered.await;
            }
        })
    }

    fn read<'a>(
        &'a self,
        channel: &'a Channel,
        range: ReadRange,
    ) -> BrokerFuture<'a, Result<History, Error>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let history = self.cluster.state().history(channel, range);
            tokio::task::yield_now().await;
            Ok(history)
        })
    }

    fn head(&self) -> BrokerFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let (done, answered) = oneshot::channel();
            self.cluster.state().query(self.node, Vec::new(), done);
            let _ = answered.await;
            Ok(())
        })
    }

    fn status(&self) -> BrokerStatus {
        BrokerStatus::default()
    }
}
