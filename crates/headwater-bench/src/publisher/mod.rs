//! Publishes numbered events, over HTTP or with Redis `PUBLISH`, at a rate or as fast as the server
//! responds. Look here for when an event is sent, and which time its stamp has.

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

/// The server that events are published to. No `Debug`: it may hold a password.
#[derive(Clone)]
pub enum PublishTarget {
    /// With `POST`, each event in flight on its own connection.
    Http(HttpTarget),
    /// With `PUBLISH`, pipelined on one connection.
    Redis(RedisTarget),
}

impl PublishTarget {
    /// The address, and whether it is HTTP.
    fn address(&self) -> (SocketAddr, bool) {
        match self {
            Self::Http(target) => (target.addresses[0], true),
            Self::Redis(target) => (target.address, false),
        }
    }
}

/// A load to publish.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// The rate.
    pub pace: Pace,
    /// The duration or number of events.
    pub amount: Amount,
    /// Bytes of data per event.
    pub event_bytes: usize,
    /// Events in flight, at most.
    pub in_flight: usize,
}

/// The rate of publishing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// This many events per second, over all channels.
    PerSecond(f64),
    /// As fast as the server responds.
    AsAnswered,
}

/// The duration or number of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// For this long.
    Time(Duration),
    /// This many events, over all channels.
    Events(u64),
}

/// The outcome of a load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Events that were sent, rejected ones included.
    pub events: u64,
    /// Events that the server rejected.
    pub rejected: u64,
    /// Why the first of them was rejected.
    pub why: Option<String>,
    /// The time from the first event to the last response.
    pub took: Duration,
    /// When the first event was sent.
    pub(crate) began_at_ns: u64,
}

/// Publishes to the channels in turn.
pub struct Publisher {
    target: PublishTarget,
    channels: usize,
    /// Events of all loads so far, from which the next one's channel and number are derived.
    published: u64,
}

impl Publisher {
    /// A publisher to this many channels.
    pub fn new(target: PublishTarget, channels: usize) -> Self {
        Self { target, channels, published: 0 }
    }

    /// Events published so far, over all channels.
    pub fn published(&self) -> u64 {
        self.published
    }

    /// Publishes a load, and periodically reports the number of events sent.
    ///
    /// # Errors
    /// When the server cannot be reached, closes the connection or does not respond.
    pub fn publish(
        &mut self,
        load: &Load,
        mut progress: impl FnMut(u64) -> Result<(), Error>,
    ) -> Result<Published, Error> {
        let unreachable = self.unreachable();
        let mut run = Run::start(self, load).context(unreachable)?;
        let mut reported_at = Instant::now();
        while !run.is_over() {
            run.turn().context("publishing failed, the server may be gone")?;
            if reported_at.elapsed() >= PROGRESS_INTERVAL {
                reported_at = Instant::now();
                progress(run.sent)?;
            }
            if run.answered_at.elapsed() > ANSWER_TIMEOUT {
                let why = format!("no response to a publish for {} s", ANSWER_TIMEOUT.as_secs());
                return Err(Error::Failed(why));
            }
        }
        let answered = run.answered;
        Ok(Published {
            events: run.sent,
            rejected: answered.rejected,
            why: answered.why,
            took: run.started.elapsed(),
            began_at_ns: run.began_at_ns,
        })
    }

    fn unreachable(&self) -> String {
        match &self.target {
            PublishTarget::Http(target) => {
                format!("cannot connect to {} to publish", target.addresses[0])
            }
            PublishTarget::Redis(target) => {
                format!("cannot connect to Redis at {}", target.address)
            }
        }
    }
}

/// A load in progress.
struct Run<'a> {
    publisher: &'a mut Publisher,
    load: &'a Load,
    poll: Poll,
    events: Events,
    lanes: Vec<Lane>,
    /// Lanes without an event in flight, for HTTP.
    idle: Vec<usize>,
    data: Vec<u8>,
    buffer: Vec<u8>,
    started: Instant,
    began_at_ns: u64,
    sent: u64,
    answered: Answered,
    answered_at: Instant,
    /// No lane was free when an event was due, so its stamp has the time when it was due.
    was_full: bool,
}

impl<'a> Run<'a> {
    fn start(publisher: &'a mut Publisher, load: &'a Load) -> Result<Self, Error> {
        let poll = Poll::new().context("cannot create a poll")?;
        let (address, is_http) = publisher.target.address();
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

    /// Authenticates to Redis, if required, and waits for the reply before the first event.
    fn log_in(&mut self) -> Result<(), Error> {
        let PublishTarget::Redis(RedisTarget { login: Some((user, password)), .. }) =
            &self.publisher.target
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
        self.lanes[0].queue(&[command.as_bytes()]);
        while self.lanes[0].in_flight > 0 {
            self.read_answers(Some(ANSWER_TIMEOUT)).context("AUTH")?;
            if self.answered_at.elapsed() > ANSWER_TIMEOUT {
                return Err(Error::failed("no reply to AUTH"));
            }
        }
        match std::mem::take(&mut self.answered) {
            Answered { rejected: 0, .. } => Ok(()),
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
                // What was due is sent even if no lane was free in time.
                Pace::PerSecond(rate) => self.sent >= events_due(rate, time),
            },
        }
    }

    /// Sends what is due, and waits for responses or until the next event is due.
    fn turn(&mut self) -> io::Result<()> {
        let now = self.started.elapsed();
        let due = match self.load.pace {
            Pace::AsAnswered => u64::MAX,
            Pace::PerSecond(rate) => events_due(rate, now),
        };
        while self.sent < due && !self.is_all_sent() {
            let Some(lane) = self.free_lane() else {
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
        self.read_answers(Some(timeout.min(PROGRESS_INTERVAL)))
    }

    fn free_lane(&mut self) -> Option<usize> {
        match self.publisher.target {
            PublishTarget::Http(_) => self.idle.pop(),
            PublishTarget::Redis(_) => (self.lanes[0].in_flight < self.load.in_flight).then_some(0),
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
        let head = match &self.publisher.target {
            PublishTarget::Http(target) => format!(
                "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: text/plain\r\n\
                 Content-Length: {}\r\n\r\n",
                path_of(&target.publish_path, channel),
                target.host,
                self.data.len(),
            ),
            PublishTarget::Redis(_) => {
                let name = format!("{CHANNEL_PREFIX}{channel}");
                let (name_bytes, data_bytes) = (name.len(), self.data.len());
                format!("*3\r\n$7\r\nPUBLISH\r\n${name_bytes}\r\n{name}\r\n${data_bytes}\r\n")
            }
        };
        let end: &[u8] =
            if matches!(self.publisher.target, PublishTarget::Redis(_)) { b"\r\n" } else { b"" };
        self.lanes[lane].queue(&[head.as_bytes(), &self.data, end]);
        if self.all_in_flight() == 1 {
            self.answered_at = Instant::now();
        }
        self.publisher.published += 1;
        self.sent += 1;
    }

    fn all_in_flight(&self) -> usize {
        match self.publisher.target {
            PublishTarget::Http(_) => self.lanes.len() - self.idle.len(),
            PublishTarget::Redis(_) => self.lanes[0].in_flight,
        }
    }

    fn read_answers(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        for lane in &mut self.lanes {
            lane.flush()?;
        }
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        let (address, is_http) = self.publisher.target.address();
        for event in &self.events {
            let index = event.token().0;
            let lane = &mut self.lanes[index];
            if event.is_writable() {
                lane.flush()?;
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                let before = lane.in_flight;
                match lane.read(&mut self.buffer, &mut self.answered) {
                    // Servers close idle connections.
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

/// The number of events that are due after a time: the first one after one interval.
fn events_due(rate: f64, after: Duration) -> u64 {
    // The tolerance makes 0.3 s at 10 per second three events in spite of rounding.
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
