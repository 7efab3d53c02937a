//! Publishes numbered events, over HTTP or with Redis' `PUBLISH`, at a rate or as fast as they are answered.
//! Look here for when an event is sent, and which time its stamp has.

mod lane;

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use self::lane::{Answered, Lane};
use crate::error::{Context as _, Error};
use crate::limits::{ANSWER_TIMEOUT, PROGRESS_INTERVAL, READ_BYTES};
use crate::stamp::{Stamp, now_ns};
use crate::target::{CHANNEL_PREFIX, HttpTarget, RedisTarget, path_of};

/// Where events are published. No `Debug`: it may hold a password.
#[derive(Clone)]
pub enum Road {
    /// With `POST`, each event in flight on a connection of its own.
    Http(HttpTarget),
    /// With `PUBLISH`, pipelined on one connection.
    Redis(RedisTarget),
}

impl Road {
    /// Where it goes, and whether that is HTTP.
    fn address(&self) -> (SocketAddr, bool) {
        match self {
            Self::Http(target) => (target.addresses[0], true),
            Self::Redis(target) => (target.address, false),
        }
    }
}

/// What is published.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// How fast.
    pub pace: Pace,
    /// For how long.
    pub amount: Amount,
    /// Bytes of the data of each event.
    pub event_bytes: usize,
    /// Most events without an answer.
    pub in_flight: usize,
}

/// How fast events are published.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// So many in a second, on all channels together.
    PerSecond(f64),
    /// As fast as they are answered.
    AsAnswered,
}

/// How much is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// For this long.
    Time(Duration),
    /// So many events, on all channels together.
    Events(u64),
}

/// What was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Events that were sent, refused ones included.
    pub events: u64,
    /// Events that the other side did not take.
    pub refused: u64,
    /// Why it did not take the first of them.
    pub why: Option<String>,
    /// From the first event to the last answer.
    pub took: Duration,
    /// When the first event was sent.
    pub(crate) began_at_ns: u64,
}

/// Publishes to the channels in turn.
pub struct Publisher {
    road: Road,
    channels: usize,
    /// Events of all loads up to here; the next one's channel and number come from it.
    published: u64,
}

impl Publisher {
    /// A publisher to so many channels.
    pub fn new(road: Road, channels: usize) -> Self {
        Self { road, channels, published: 0 }
    }

    /// Events that were published up to here, on all channels together.
    pub fn published(&self) -> u64 {
        self.published
    }

    /// Publishes, and tells now and then how many events it has sent.
    ///
    /// # Errors
    /// When the other side cannot be reached, goes away or does not answer.
    pub fn publish(
        &mut self,
        load: &Load,
        mut progress: impl FnMut(u64) -> Result<(), Error>,
    ) -> Result<Published, Error> {
        let unreachable = self.unreachable();
        let mut run = Run::start(self, load).context(unreachable)?;
        let mut told_at = Instant::now();
        while !run.is_over() {
            run.turn().context("publishing has failed, the other side may be gone")?;
            if told_at.elapsed() >= PROGRESS_INTERVAL {
                told_at = Instant::now();
                progress(run.sent)?;
            }
            if run.answered_at.elapsed() > ANSWER_TIMEOUT {
                let why = format!("publishing was not answered for {} s", ANSWER_TIMEOUT.as_secs());
                return Err(Error::Failed(why));
            }
        }
        let answered = run.answered;
        Ok(Published {
            events: run.sent,
            refused: answered.refused,
            why: answered.why,
            took: run.started.elapsed(),
            began_at_ns: run.began_at_ns,
        })
    }

    fn unreachable(&self) -> String {
        match &self.road {
            Road::Http(target) => format!("cannot connect to {} to publish", target.addresses[0]),
            Road::Redis(target) => format!("cannot connect to Redis at {}", target.address),
        }
    }
}

/// One load under way.
struct Run<'a> {
    publisher: &'a mut Publisher,
    load: &'a Load,
    poll: Poll,
    events: Events,
    lanes: Vec<Lane>,
    /// Lanes with room for one event more, where HTTP is concerned.
    idle: Vec<usize>,
    data: Vec<u8>,
    buffer: Vec<u8>,
    started: Instant,
    began_at_ns: u64,
    sent: u64,
    answered: Answered,
    answered_at: Instant,
    /// There was no room when an event was due, so its time began before it was sent.
    was_full: bool,
}

impl<'a> Run<'a> {
    fn start(publisher: &'a mut Publisher, load: &'a Load) -> Result<Self, Error> {
        let poll = Poll::new().context("a poll")?;
        let (address, is_http) = publisher.road.address();
        let count = if is_http { load.in_flight } else { 1 };
        let connect = |index| Lane::connect(address, is_http, Token(index), poll.registry());
        let lanes = (0..count).map(connect).collect::<io::Result<Vec<_>>>();
        let mut run = Self {
            lanes: lanes.context("no connection")?,
            idle: (0..count).rev().collect(),
            publisher,
            load,
            poll,
            events: Events::with_capacity(count.max(16)),
            data: vec![b'.'; load.event_bytes],
            buffer: vec![0; READ_BYTES],
            started: Instant::now(),
            began_at_ns: now_ns(),
            sent: 0,
            answered: Answered::default(),
            answered_at: Instant::now(),
            was_full: false,
        };
        run.log_in()?;
        run.started = Instant::now();
        run.began_at_ns = now_ns();
        Ok(run)
    }

    /// Redis may want a password. Its answer is awaited before the first event.
    fn log_in(&mut self) -> Result<(), Error> {
        let Road::Redis(RedisTarget { login: Some((user, password)), .. }) = &self.publisher.road
        else {
            return Ok(());
        };
        let words: Vec<&str> = match user.as_str() {
            "" => vec!["AUTH", password],
            user => vec!["AUTH", user, password],
        };
        let mut command = format!("*{}\r\n", words.len());
        for word in words {
            command += &format!("${}\r\n{word}\r\n", word.len());
        }
        self.lanes[0].put(&[command.as_bytes()]);
        while self.lanes[0].in_flight > 0 {
            self.turn_of_answers(Some(ANSWER_TIMEOUT)).context("logging in")?;
            if self.answered_at.elapsed() > ANSWER_TIMEOUT {
                return Err(Error::failed("no answer to AUTH"));
            }
        }
        match std::mem::take(&mut self.answered) {
            Answered { refused: 0, .. } => Ok(()),
            answered => Err(Error::Failed(answered.why.unwrap_or_default())),
        }
    }

    fn is_over(&self) -> bool {
        self.is_all_sent() && self.lanes.iter().all(|lane| lane.in_flight == 0)
    }

    fn is_all_sent(&self) -> bool {
        match self.load.amount {
            Amount::Events(events) => self.sent >= events,
            Amount::Time(time) => match self.load.pace {
                Pace::AsAnswered => self.started.elapsed() >= time,
                // What was due is sent, also when there was no room for it in time.
                Pace::PerSecond(rate) => self.sent >= events_due(rate, time),
            },
        }
    }

    /// Sends what is due, and waits for answers or for the next that is due.
    fn turn(&mut self) -> io::Result<()> {
        let now = self.started.elapsed();
        let due = match self.load.pace {
            Pace::AsAnswered => u64::MAX,
            Pace::PerSecond(rate) => events_due(rate, now),
        };
        while self.sent < due && !self.is_all_sent() {
            let Some(lane) = self.lane_with_room() else {
                self.was_full = true;
                break;
            };
            self.send(lane);
        }
        if self.sent >= due {
            self.was_full = false;
        }
        // Several events for one lane go out with one call.
        for lane in &mut self.lanes {
            lane.flush()?;
        }
        let timeout = match self.load.pace {
            Pace::PerSecond(rate) if !self.was_full => {
                let at = Duration::from_secs_f64((self.sent + 1) as f64 / rate);
                at.saturating_sub(self.started.elapsed())
            }
            _ => PROGRESS_INTERVAL,
        };
        self.turn_of_answers(Some(timeout.min(PROGRESS_INTERVAL)))
    }

    fn lane_with_room(&mut self) -> Option<usize> {
        match self.publisher.road {
            Road::Http(_) => self.idle.pop(),
            Road::Redis(_) => (self.lanes[0].in_flight < self.load.in_flight).then_some(0),
        }
    }

    fn send(&mut self, lane: usize) {
        let channels = self.publisher.channels as u64;
        let channel = usize::try_from(self.publisher.published % channels).expect("a channel");
        let mut sent_at_ns = now_ns();
        if let Pace::PerSecond(rate) = self.load.pace
            && self.was_full
        {
            let due_ns = (self.sent + 1) as f64 * 1e9 / rate;
            sent_at_ns = sent_at_ns.min(self.began_at_ns + due_ns as u64);
        }
        let sequence = self.publisher.published / channels;
        Stamp { sequence, sent_at_ns }.write(&mut self.data);
        let head = match &self.publisher.road {
            Road::Http(target) => format!(
                "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
                path_of(&target.publish_path, channel),
                target.host,
                self.data.len(),
            ),
            Road::Redis(_) => {
                let name = format!("{CHANNEL_PREFIX}{channel}");
                let (name_bytes, data_bytes) = (name.len(), self.data.len());
                format!("*3\r\n$7\r\nPUBLISH\r\n${name_bytes}\r\n{name}\r\n${data_bytes}\r\n")
            }
        };
        let end: &[u8] = if matches!(self.publisher.road, Road::Redis(_)) { b"\r\n" } else { b"" };
        self.lanes[lane].put(&[head.as_bytes(), &self.data, end]);
        if self.all_in_flight() == 1 {
            self.answered_at = Instant::now();
        }
        self.publisher.published += 1;
        self.sent += 1;
    }

    fn all_in_flight(&self) -> usize {
        match self.publisher.road {
            Road::Http(_) => self.lanes.len() - self.idle.len(),
            Road::Redis(_) => self.lanes[0].in_flight,
        }
    }

    fn turn_of_answers(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        for lane in &mut self.lanes {
            lane.flush()?;
        }
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        let (address, is_http) = self.publisher.road.address();
        for event in &self.events {
            let index = event.token().0;
            let lane = &mut self.lanes[index];
            if event.is_writable() {
                lane.flush()?;
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                let before = lane.in_flight;
                match lane.read(&mut self.buffer, &mut self.answered) {
                    // Servers close connections that had nothing to do for a while.
                    Err(_) if before == 0 && is_http => {
                        *lane = Lane::connect(address, true, Token(index), self.poll.registry())?;
                    }
                    result => result?,
                }
                if lane.in_flight < before {
                    self.answered_at = Instant::now();
                    self.idle.push(index);
                }
            }
        }
        if self.lanes.iter().all(|lane| lane.in_flight == 0) {
            self.answered_at = Instant::now();
        }
        Ok(())
    }
}

/// Events that are due after a time: the first one after one interval.
fn events_due(rate: f64, after: Duration) -> u64 {
    // A little more than nothing, so that 0.3 s at 10 in a second are three in spite of rounding.
    (rate * after.as_secs_f64() + 1e-6) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_due_at_equal_intervals() {
        let check = |rate: f64, ms: u64, due: u64| {
            assert_eq!(events_due(rate, Duration::from_millis(ms)), due, "{rate} {ms}");
        };
        check(10.0, 99, 0);
        check(10.0, 100, 1);
        check(10.0, 300, 3);
        check(10.0, 5_000, 50);
        check(0.5, 3_999, 1);
        check(20_000.0, 1_000, 20_000);
    }
}
