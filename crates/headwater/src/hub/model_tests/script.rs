//! A broker that does what a test says: what is delivered, kept, forgotten, missed, and when its log
//! begins anew. Look here for what the tests take a broker to do.

use std::collections::{HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::broker::{
    Baseline, Broker, BrokerFuture, BrokerStatus, History, LoggedEvent, ReadRange, Receipt, Sink,
};
use crate::channel::Channel;
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::frame::{Frame, Published, now_ms};
use crate::gap::GapReason;
use crate::position::{Epoch, Position};
use crate::publish::Publish;

/// What happens in the log. Channels are numbers.
#[derive(Debug, Clone)]
pub(super) enum Happening {
    /// Events are published; large ones fit no ring.
    Publish { channel: usize, count: usize, large: bool },
    /// An event that is in no log.
    Ephemeral { channel: usize },
    /// The history keeps only the newest so many.
    Trim { channel: usize, keep: usize },
    /// Events are published while the node's connection is lost, and some are trimmed before they are
    /// read again.
    CatchUp { channels: Vec<usize>, trim: Option<usize> },
    /// The log loses its data; so many events are published before the node sees it.
    NewEpoch { unseen: Vec<usize> },
    /// The log is put back to an older copy of itself, and jumps ahead at the next event.
    PutBack { to: u64 },
    /// Reading history fails so many times.
    FailReads(u32),
}

/// An event as it was published, in the order of publishing: its data is its place in the list.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) channel: usize,
    /// The offset in the log; `None` for what is in no log.
    pub(super) offset: Option<u64>,
    /// Which life of the log.
    pub(super) life: usize,
    /// Whether the node received it, if it is in no log.
    pub(super) received: bool,
    previous: u64,
    large: bool,
}

/// A broker and the log behind it.
#[derive(Clone)]
pub(super) struct Script(Arc<Mutex<World>>);

struct World {
    sink: Option<Sink>,
    all: Vec<Record>,
    epoch: Epoch,
    life: usize,
    /// The lives of the log by their epoch, and how many events there were before each.
    begins: HashMap<u64, (usize, usize)>,
    last: u64,
    /// The last offset of each channel.
    lasts: HashMap<usize, u64>,
    /// Events up to here are no longer in the history.
    trimmed: HashMap<usize, u64>,
    /// Channels that the hub listens to, and whether their events arrive.
    listening: HashMap<Channel, bool>,
    /// Offsets that the log lost when it was put back.
    lost: RangeInclusive<u64>,
    failing_reads: u32,
    /// What happens while history is being read: before the broker looks, and after it.
    while_reading: VecDeque<Happening>,
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
        Self(Arc::new(Mutex::new(World {
            sink: None,
            all: Vec::new(),
            epoch,
            life: 0,
            begins: HashMap::from([(epoch.to_bits(), (0, 0))]),
            last: 0,
            lasts: HashMap::new(),
            trimmed: HashMap::new(),
            listening: HashMap::new(),
            lost: RangeInclusive::new(1, 0),
            failing_reads: 0,
            while_reading: VecDeque::new(),
        })))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    pub(super) fn happen(&self, happening: &Happening) {
        self.world().happen(happening);
    }

    /// Lets it happen at the next read of history.
    pub(super) fn happen_while_reading(&self, happening: Happening) {
        self.world().while_reading.push_back(happening);
    }

    /// How many events there were.
    pub(super) fn count(&self) -> usize {
        self.world().all.len()
    }

    pub(super) fn record(&self, index: usize) -> Record {
        self.world().all[index].clone()
    }

    /// Whether the node received an event in no log of a channel, before a place.
    pub(super) fn received_ephemeral(&self, channel: usize, before: usize) -> bool {
        let world = self.world();
        world.all[..before].iter().any(|record| record.channel == channel && record.received)
    }

    pub(super) fn life(&self) -> usize {
        self.world().life
    }

    /// How many events there are up to a position, if it is the log's.
    pub(super) fn count_up_to(&self, position: Position) -> Option<usize> {
        let world = self.world();
        let (life, begin) = *world.begins.get(&position.epoch().to_bits())?;
        let is_at =
            |record: &Record| (record.life, record.offset) == (life, Some(position.offset()));
        Some(world.all.iter().position(is_at).map_or(begin, |place| place + 1))
    }
}

impl World {
    fn happen(&mut self, happening: &Happening) {
        match happening {
            Happening::Publish { channel, count, large } => {
                for _ in 0..*count {
                    let record = self.append(*channel, *large);
                    self.deliver(&record);
                }
            }
            Happening::Ephemeral { channel: number } => {
                let received = self.listening.get(&channel(*number)) == Some(&true);
                let data = self.all.len().to_string();
                self.all.push(Record {
                    channel: *number,
                    offset: None,
                    life: self.life,
                    received,
                    previous: 0,
                    large: false,
                });
                if received {
                    self.sink().deliver_ephemeral(&channel(*number), &Event::new(data));
                }
            }
            Happening::Trim { channel, keep } => self.trim(*channel, *keep),
            Happening::CatchUp { channels, trim } => self.miss(channels, *trim),
            Happening::NewEpoch { unseen } => {
                self.epoch = Epoch::random();
                self.life += 1;
                self.begins.insert(self.epoch.to_bits(), (self.life, self.all.len()));
                self.last = 0;
                self.lasts.clear();
                self.trimmed.clear();
                for channel in unseen {
                    self.append(*channel, false);
                }
                self.sink().log(self.epoch, self.last);
            }
            Happening::PutBack { to } => self.lost = to + 1..=self.last,
            Happening::FailReads(times) => self.failing_reads += times,
        }
    }

    fn sink(&self) -> Sink {
        self.sink.clone().unwrap()
    }

    fn append(&mut self, channel: usize, large: bool) -> Record {
        // More than a log can have lost.
        self.last += if self.lost.contains(&self.last) { 1_000 } else { 1 };
        let previous = self.lasts.insert(channel, self.last).unwrap_or(0);
        let (offset, life) = (Some(self.last), self.life);
        let record = Record { channel, offset, life, received: false, previous, large };
        self.all.push(record.clone());
        record
    }

    fn trim(&mut self, channel: usize, keep: usize) {
        let kept = self.all.iter().rev().filter(|record| record.channel == channel);
        let kept = kept.filter(|record| record.life == self.life);
        if let Some(newest) = kept.filter_map(|record| record.offset).nth(keep) {
            self.trimmed.insert(channel, newest);
        }
    }

    /// As a session that lost its connection: what is left of the missed events is given in their order.
    fn miss(&mut self, channels: &[usize], trim: Option<usize>) {
        let before = self.all.len();
        for channel in channels {
            self.append(*channel, false);
        }
        if let Some(channel) = trim {
            self.trim(channel, 1);
        }
        let missed = self.all[before..].to_vec();
        let is_trimmed = |record: &Record| {
            let trimmed = self.trimmed.get(&record.channel);
            record.offset.unwrap() <= trimmed.copied().unwrap_or(0)
        };
        if let Some(number) = trim {
            let is_lost =
                missed.iter().any(|record| record.channel == number && is_trimmed(record));
            if is_lost && self.listening.get(&channel(number)) == Some(&true) {
                self.sink().gap(&channel(number), GapReason::Trimmed);
            }
        }
        for record in missed.iter().filter(|record| !is_trimmed(record)) {
            self.deliver(record);
        }
    }

    fn event(&self, record: &Record) -> (Event, Position) {
        let at = |other: &Record| (other.life, other.offset) == (record.life, record.offset);
        let mut data = self.all.iter().position(at).unwrap().to_string();
        if record.large {
            data.push_str(&" ".repeat(crate::limits::RING_BYTES_MAX));
        }
        (Event::new(data), Position::new(self.epoch, record.offset.unwrap()))
    }

    fn deliver(&self, record: &Record) {
        let to = channel(record.channel);
        if self.listening.get(&to) != Some(&true) {
            return;
        }
        let (event, position) = self.event(record);
        self.sink().deliver(LoggedEvent {
            channel: &to,
            event: &event,
            position,
            previous: record.previous,
            time_ms: now_ms(),
            end: false,
        });
    }

    fn history(&self, of: &Channel, range: ReadRange) -> History {
        let number = number(of);
        let trimmed = self.trimmed.get(&number).copied().unwrap_or(0);
        let kept = self.all.iter().filter(|record| {
            record.channel == number
                && record.life == self.life
                && record
                    .offset
                    .is_some_and(|offset| offset > trimmed && !self.lost.contains(&offset))
        });
        let is_before = |record: &&Record, end: u64| record.offset.unwrap() < end;
        let records: Vec<&Record> = match range {
            ReadRange::After { offset, count } => {
                kept.filter(|record| !is_before(record, offset + 1)).take(count).collect()
            }
            ReadRange::Newest { count } => newest(kept.collect(), count),
            ReadRange::Before { offset, count } => {
                newest(kept.filter(|record| is_before(record, offset)).collect(), count)
            }
        };
        let previous = records.first().map_or(0, |record| record.previous);
        let frames = records.into_iter().map(|record| {
            let (event, position) = self.event(record);
            let published = Published { position: Some(position), time_ms: now_ms(), end: false };
            Frame::of_channel(of, &event, published)
        });
        let is_put_back = self.lost.contains(&self.last);
        let log_last = if is_put_back { self.lost.start() - 1 } else { self.last };
        History { frames: frames.collect(), previous, log_last }
    }
}

impl Broker for Script {
    fn start(&mut self, sink: Sink) {
        self.world().sink = Some(sink);
    }

    fn publish(&self, _: Vec<Publish>) -> BrokerFuture<'_, Result<Vec<Receipt>, Error>> {
        unreachable!("the script publishes")
    }

    fn subscribe(&self, channel: &Channel) {
        self.world().listening.insert(channel.clone(), false);
    }

    fn unsubscribe(&self, channel: &Channel) {
        self.world().listening.remove(channel);
    }

    fn subscribed<'a>(&'a self, channel: &'a Channel) -> BrokerFuture<'a, ()> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let mut world = self.world();
            if world.listening.insert(channel.clone(), true) == Some(false) {
                let number = number(channel);
                let last = world.lasts.get(&number).copied().unwrap_or(0);
                let ephemeral =
                    world.all.iter().any(|record| record.channel == number && record.received);
                world.sink().log(world.epoch, world.last);
                world.sink().baseline(channel, Baseline { last, ended: false, ephemeral });
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
            let history = {
                let mut world = self.world();
                if let Some(happening) = world.while_reading.pop_front() {
                    world.happen(&happening);
                }
                if world.failing_reads > 0 {
                    world.failing_reads -= 1;
                    return Err(Error::new(ErrorKind::Unavailable, "the script says so"));
                }
                world.history(channel, range)
            };
            tokio::task::yield_now().await;
            let mut world = self.world();
            if let Some(happening) = world.while_reading.pop_front() {
                world.happen(&happening);
            }
            Ok(history)
        })
    }

    fn status(&self) -> BrokerStatus {
        BrokerStatus::default()
    }
}
