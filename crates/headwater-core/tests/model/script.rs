//! A broker driven by a script: what it delivers, retains, trims, and misses, and when its log is
//! reset. Look here for how the tests assume that a broker behaves.

use std::collections::{HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard};

use headwater_core::broker::{
    Baseline, Broker, BrokerFuture, BrokerStatus, History, LoggedEvent, ReadRange, Sink,
};
use headwater_core::clock::now_ms;
use headwater_core::log::{Epoch, Position};
use headwater_core::{Channel, Error, ErrorKind, Event, Publish, Receipt, limits};

/// One action of the script. Channels are numbers.
#[derive(Debug, Clone)]
pub(super) enum Action {
    /// Publishes events. A large one does not fit into a ring.
    Publish { channel: usize, count: usize, large: bool },
    /// Publishes an ephemeral event, which is in no log.
    Ephemeral { channel: usize },
    /// Trims the history of a channel to its newest `keep` events.
    Trim { channel: usize, keep: usize },
    /// Publishes events while the node is disconnected from the log. The history of one channel may
    /// be trimmed before the node catches up.
    CatchUp { channels: Vec<usize>, trim: Option<usize> },
    /// Resets the log to a new epoch. Events of these channels are published before the node
    /// notices.
    NewEpoch { unseen: Vec<usize> },
    /// Restores an older copy of the log, which ends at this offset. The next event is far ahead.
    RestoreCopy { to: u64 },
    /// Fails this many reads of history.
    FailReads(u32),
}

/// A published event. Its data is its index in the list of all records.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) channel: usize,
    /// The offset in the log; `None` for an ephemeral event.
    pub(super) offset: Option<u64>,
    /// The number of the log's epoch, from 0.
    pub(super) epoch_number: usize,
    /// Whether the node received it, if it is ephemeral.
    pub(super) received: bool,
    previous: u64,
    large: bool,
}

/// The broker, with the log behind it.
#[derive(Clone)]
pub(super) struct Script(Arc<Mutex<ScriptedLog>>);

struct ScriptedLog {
    sink: Option<Sink>,
    all: Vec<Record>,
    epoch: Epoch,
    epoch_number: usize,
    /// For each epoch, its number and how many events were published before it.
    epochs: HashMap<u64, (usize, usize)>,
    last: u64,
    /// The last offset of each channel.
    lasts: HashMap<usize, u64>,
    /// For each channel, the offset up to which the history was trimmed.
    trimmed: HashMap<usize, u64>,
    /// The channels that the hub subscribes to, and whether their events arrive.
    subscribed: HashMap<Channel, bool>,
    /// Offsets that the log lost when an older copy was restored.
    lost: RangeInclusive<u64>,
    failing_reads: u32,
    /// Actions to run during reads of history: one before the broker reads, one after it.
    during_reads: VecDeque<Action>,
}

pub(super) fn channel(number: usize) -> Channel {
    Channel::new(format!("c{number}")).unwrap()
}

fn newest(mut records: Vec<&Record>, count: usize) -> Vec<&Record> {
    records.drain(..records.len().saturating_sub(count));
    records
}

fn number(channel: &Channel) -> usize {
    channel.as_str()[1..].parse().unwrap()
}

impl Script {
    pub(super) fn new() -> Self {
        let epoch = Epoch::random();
        Self(Arc::new(Mutex::new(ScriptedLog {
            sink: None,
            all: Vec::new(),
            epoch,
            epoch_number: 0,
            epochs: HashMap::from([(epoch.to_bits(), (0, 0))]),
            last: 0,
            lasts: HashMap::new(),
            trimmed: HashMap::new(),
            subscribed: HashMap::new(),
            lost: RangeInclusive::new(1, 0),
            failing_reads: 0,
            during_reads: VecDeque::new(),
        })))
    }

    fn log(&self) -> MutexGuard<'_, ScriptedLog> {
        self.0.lock().unwrap()
    }

    pub(super) fn run(&self, action: &Action) {
        self.log().run(action);
    }

    /// Runs an action during the next read of history.
    pub(super) fn run_during_read(&self, action: Action) {
        self.log().during_reads.push_back(action);
    }

    /// How many events were published.
    pub(super) fn count(&self) -> usize {
        self.log().all.len()
    }

    pub(super) fn record(&self, index: usize) -> Record {
        self.log().all[index].clone()
    }

    /// Whether the node received an ephemeral event of a channel before an index.
    pub(super) fn received_ephemeral(&self, channel: usize, before: usize) -> bool {
        let log = self.log();
        log.all[..before].iter().any(|record| record.channel == channel && record.received)
    }

    /// The position of an offset in the current epoch.
    pub(super) fn position(&self, offset: u64) -> Position {
        Position::new(self.log().epoch, offset)
    }

    pub(super) fn epoch_number(&self) -> usize {
        self.log().epoch_number
    }

    /// How many events were published up to a position; `None` if the position is not the log's.
    pub(super) fn count_up_to(&self, position: Position) -> Option<usize> {
        let log = self.log();
        let (epoch_number, begin) = *log.epochs.get(&position.epoch().to_bits())?;
        let is_at = |record: &Record| {
            (record.epoch_number, record.offset) == (epoch_number, Some(position.offset()))
        };
        Some(log.all.iter().position(is_at).map_or(begin, |index| index + 1))
    }
}

impl ScriptedLog {
    fn run(&mut self, action: &Action) {
        match action {
            Action::Publish { channel, count, large } => {
                for _ in 0..*count {
                    let record = self.append(*channel, *large);
                    self.deliver(&record);
                }
            }
            Action::Ephemeral { channel: number } => {
                let received = self.subscribed.get(&channel(*number)) == Some(&true);
                let data = self.all.len().to_string();
                self.all.push(Record {
                    channel: *number,
                    offset: None,
                    epoch_number: self.epoch_number,
                    received,
                    previous: 0,
                    large: false,
                });
                if received {
                    self.sink().ephemeral(&channel(*number), &Event::new(data));
                }
            }
            Action::Trim { channel, keep } => self.trim(*channel, *keep),
            Action::CatchUp { channels, trim } => self.catch_up(channels, *trim),
            Action::NewEpoch { unseen } => {
                self.epoch = Epoch::random();
                self.epoch_number += 1;
                self.epochs.insert(self.epoch.to_bits(), (self.epoch_number, self.all.len()));
                self.last = 0;
                self.lasts.clear();
                self.trimmed.clear();
                for channel in unseen {
                    self.append(*channel, false);
                }
                self.sink().log(self.epoch, self.last);
            }
            Action::RestoreCopy { to } => self.lost = to + 1..=self.last,
            Action::FailReads(times) => self.failing_reads += times,
        }
    }

    fn sink(&self) -> Sink {
        self.sink.clone().unwrap()
    }

    fn append(&mut self, channel: usize, large: bool) -> Record {
        // Further ahead than the number of events that a restored log can have lost.
        self.last += if self.lost.contains(&self.last) { 1_000 } else { 1 };
        let previous = self.lasts.insert(channel, self.last).unwrap_or(0);
        let (offset, epoch_number) = (Some(self.last), self.epoch_number);
        let record = Record { channel, offset, epoch_number, received: false, previous, large };
        self.all.push(record.clone());
        record
    }

    fn trim(&mut self, channel: usize, keep: usize) {
        let records = self.all.iter().rev().filter(|record| record.channel == channel);
        let records = records.filter(|record| record.epoch_number == self.epoch_number);
        if let Some(newest) = records.filter_map(|record| record.offset).nth(keep) {
            self.trimmed.insert(channel, newest);
        }
    }

    /// Acts like a session that lost its connection, and then reports what its channels have.
    fn catch_up(&mut self, channels: &[usize], trim: Option<usize>) {
        for channel in channels {
            self.append(*channel, false);
        }
        if let Some(channel) = trim {
            self.trim(channel, 1);
        }
        let sink = self.sink();
        for (channel, _) in self.subscribed.iter().filter(|(_, arrives)| **arrives) {
            sink.baseline(channel, self.baseline(number(channel)));
        }
        sink.log(self.epoch, self.last);
    }

    fn baseline(&self, number: usize) -> Baseline {
        let last = self.lasts.get(&number).copied().unwrap_or(0);
        let ephemeral = self.all.iter().any(|record| record.channel == number && record.received);
        Baseline::new(last).with_ephemeral(ephemeral)
    }

    fn event(&self, record: &Record) -> (Event, Position) {
        let at = |other: &Record| {
            (other.epoch_number, other.offset) == (record.epoch_number, record.offset)
        };
        let mut data = self.all.iter().position(at).unwrap().to_string();
        if record.large {
            data.push_str(&" ".repeat(limits::RING_BYTES_MAX));
        }
        (Event::new(data), Position::new(self.epoch, record.offset.unwrap()))
    }

    fn deliver(&self, record: &Record) {
        let to = channel(record.channel);
        if self.subscribed.get(&to) != Some(&true) {
            return;
        }
        let (event, position) = self.event(record);
        self.sink().event(LoggedEvent::new(&to, &event, position, record.previous, now_ms()));
    }

    fn history(&self, of: &Channel, range: ReadRange) -> History {
        let number = number(of);
        let trimmed = self.trimmed.get(&number).copied().unwrap_or(0);
        let retained = self.all.iter().filter(|record| {
            record.channel == number
                && record.epoch_number == self.epoch_number
                && record
                    .offset
                    .is_some_and(|offset| offset > trimmed && !self.lost.contains(&offset))
        });
        let is_before = |record: &&Record, end: u64| record.offset.unwrap() < end;
        let records: Vec<&Record> = match range {
            ReadRange::After { offset, count } => {
                retained.filter(|record| !is_before(record, offset + 1)).take(count).collect()
            }
            ReadRange::Newest { count } => newest(retained.collect(), count),
            ReadRange::Before { offset, count } => {
                newest(retained.filter(|record| is_before(record, offset)).collect(), count)
            }
            other => panic!("the script does not support {other:?}"),
        };
        let is_restored = self.lost.contains(&self.last);
        let log_last = if is_restored { self.lost.start() - 1 } else { self.last };
        let mut history = History::new(log_last);
        for record in records {
            let (event, position) = self.event(record);
            history.push(LoggedEvent::new(of, &event, position, record.previous, now_ms()));
        }
        history
    }
}

impl Broker for Script {
    fn start(&mut self, sink: Sink) {
        self.log().sink = Some(sink);
    }

    fn publish(&self, _: Vec<Publish>) -> BrokerFuture<'_, Result<Vec<Receipt>, Error>> {
        unreachable!("only the script publishes")
    }

    fn subscribe(&self, channel: &Channel) {
        self.log().subscribed.insert(channel.clone(), false);
    }

    fn unsubscribe(&self, channel: &Channel) {
        self.log().subscribed.remove(channel);
    }

    fn subscribed<'a>(&'a self, channel: &'a Channel) -> BrokerFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let mut log = self.log();
            if log.subscribed.insert(channel.clone(), true) == Some(false) {
                log.sink().log(log.epoch, log.last);
                log.sink().baseline(channel, log.baseline(number(channel)));
            }
            Ok(())
        })
    }

    fn read<'a>(
        &'a self,
        channel: &'a Channel,
        range: ReadRange,
    ) -> BrokerFuture<'a, Result<History, Error>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let history = {
                let mut log = self.log();
                if let Some(action) = log.during_reads.pop_front() {
                    log.run(&action);
                }
                if log.failing_reads > 0 {
                    log.failing_reads -= 1;
                    return Err(Error::new(ErrorKind::Unavailable, "scripted failure"));
                }
                log.history(channel, range)
            };
            tokio::task::yield_now().await;
            let mut log = self.log();
            if let Some(action) = log.during_reads.pop_front() {
                log.run(&action);
            }
            Ok(history)
        })
    }

    fn status(&self) -> BrokerStatus {
        BrokerStatus::default()
    }
}
