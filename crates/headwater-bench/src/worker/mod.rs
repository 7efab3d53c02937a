//! A generator process: holds the streams that it is told to, counts what comes, and tells. Look here for how it
//! is told, and how it ends.

mod streams;

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use mio::net::UnixStream;
use mio::{Events, Interest, Poll, Token};

use self::streams::Streams;
use crate::control::{Answer, Order};
use crate::error::{Context as _, Error};
use crate::limits::{OPEN_TIMEOUT, POLL_EVENTS_MAX, PROGRESS_INTERVAL, SETTLE};

/// The socket to the benchmark; streams have the numbers below.
const CONTROL: Token = Token(usize::MAX);

/// Does what the benchmark says, until it closes its end of the socket that is our standard input.
///
/// # Errors
/// When standard input is no socket, or the poll fails. The benchmark sees that the process has ended.
pub fn run() -> Result<(), Error> {
    let input = io::stdin().as_fd().try_clone_to_owned().context("standard input")?;
    let socket = std::os::unix::net::UnixStream::from(input);
    socket
        .set_nonblocking(true)
        .context("a generator process is started by `headwater bench` only")?;
    Worker::new(UnixStream::from_std(socket)).and_then(Worker::run).context("the generator process")
}

struct Worker {
    poll: Poll,
    control: UnixStream,
    /// The beginning of an order that has not come whole.
    line: Vec<u8>,
    streams: Streams,
    task: Task,
    told_at: Instant,
    told: u64,
}

/// What it was told to do, and has not answered yet.
enum Task {
    None,
    Open { until: Instant },
    Drain { published: u64, expected: u64, until: Instant, settled: Option<Instant> },
}

impl Worker {
    fn new(mut control: UnixStream) -> io::Result<Self> {
        let poll = Poll::new()?;
        poll.registry().register(&mut control, CONTROL, Interest::READABLE)?;
        Ok(Self {
            poll,
            control,
            line: Vec::new(),
            streams: Streams::new(),
            task: Task::None,
            told_at: Instant::now(),
            told: 0,
        })
    }

    fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(POLL_EVENTS_MAX);
        loop {
            let timeout = match self.task {
                Task::None => PROGRESS_INTERVAL,
                Task::Open { .. } | Task::Drain { .. } => SETTLE,
            };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            for event in &events {
                if event.token() == CONTROL {
                    if !self.hear()? {
                        return Ok(());
                    }
                } else {
                    self.streams.ready(event);
                }
            }
            self.go_on()?;
        }
    }

    /// Takes the orders that came. `false` when there will be no more.
    fn hear(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 4096];
        loop {
            match self.control.read(&mut bytes) {
                Ok(0) => return Ok(false),
                Ok(count) => self.line.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        while let Some(at) = self.line.iter().position(|byte| *byte == b'\n') {
            let order = serde_json::from_slice(&self.line[..at])?;
            self.line.drain(..=at);
            self.obey(order)?;
        }
        Ok(true)
    }

    fn obey(&mut self, order: Order) -> io::Result<()> {
        match order {
            Order::Open(opening) => {
                self.streams.open(opening);
                self.task = Task::Open { until: Instant::now() + OPEN_TIMEOUT };
            }
            Order::Record => self.streams.forget_latencies(),
            Order::Drain { published, timeout_ms } => {
                let until = Instant::now() + Duration::from_millis(timeout_ms);
                let expected = self.streams.expected(published);
                self.task = Task::Drain { published, expected, until, settled: None };
            }
            Order::Close => {
                self.streams.close();
                self.tell(&Answer::Closed)?;
            }
        }
        Ok(())
    }

    /// Does what is next, answers what is done, and tells how far it is.
    fn go_on(&mut self) -> io::Result<()> {
        let now = Instant::now();
        match self.task {
            Task::Open { until } => {
                let all = self.streams.go_on(self.poll.registry());
                if !all && now >= until {
                    self.streams.give_up();
                }
                if all || now >= until {
                    self.task = Task::None;
                    let Streams { open, failed, .. } = self.streams;
                    let why = self.streams.why.take();
                    self.tell(&Answer::Opened { open, failed, why })?;
                }
            }
            Task::Drain { published, expected, until, settled } => {
                let all = self.streams.received() >= expected;
                let settled = settled.or_else(|| all.then_some(now + SETTLE));
                self.task = Task::Drain { published, expected, until, settled };
                // Nothing more can come when all are cut.
                let is_over = now >= until || self.streams.open == 0;
                if is_over || settled.is_some_and(|settled| now >= settled) {
                    self.task = Task::None;
                    let counted = self.streams.counted(published);
                    self.tell(&Answer::Counted(counted))?;
                }
            }
            Task::None => {}
        }
        let sum = self.streams.received() + self.streams.open as u64 + self.streams.cut() as u64;
        if sum != self.told && now >= self.told_at + PROGRESS_INTERVAL {
            (self.told, self.told_at) = (sum, now);
            let (open, received) = (self.streams.open, self.streams.received());
            self.tell(&Answer::Progress { open, received, cut: self.streams.cut() })?;
        }
        Ok(())
    }

    /// Says something. The other side reads all the time, but may be late, so the socket blocks meanwhile.
    fn tell(&mut self, answer: &Answer) -> io::Result<()> {
        let mut line = serde_json::to_vec(answer)?;
        line.push(b'\n');
        let mut rest = line.as_slice();
        while !rest.is_empty() {
            match self.control.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
