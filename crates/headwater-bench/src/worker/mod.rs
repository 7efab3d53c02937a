//! A generator process: holds the streams that it is asked to open, counts what arrives, and
//! reports. Look here for how requests are received, and how the process ends.

mod streams;

use std::io::{self, Write as _};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token, Waker};

use self::streams::Streams;
use crate::control::{Reply, Request};
use crate::error::{Context as _, Error};
use crate::limits::{OPEN_TIMEOUT, POLL_EVENTS_MAX, PROGRESS_INTERVAL, SETTLE};

/// Requests have arrived; streams have the smaller tokens.
const CONTROL: Token = Token(usize::MAX);

/// Executes the requests on standard input until it is closed, and replies on standard output.
///
/// # Errors
/// When a request cannot be understood, or the poll fails. The benchmark sees that the process has
/// exited.
pub fn run() -> Result<(), Error> {
    Worker::new().and_then(Worker::run).context("the generator process")
}

struct Worker {
    poll: Poll,
    requests: Receiver<io::Result<Request>>,
    streams: Streams,
    task: Task,
    reported_at: Instant,
    /// The sum of the counts in the last report of progress.
    reported: u64,
}

/// The request that is not answered yet.
enum Task {
    None,
    Open { until: Instant },
    Drain { published: u64, expected: u64, until: Instant, settled: Option<Instant> },
}

impl Worker {
    fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), CONTROL)?;
        let (sender, requests) = mpsc::channel();
        std::thread::spawn(move || {
            read_requests(&sender, &waker);
            // The worker sees that there will be no more.
            drop(sender);
            let _ = waker.wake();
        });
        Ok(Self {
            poll,
            requests,
            streams: Streams::new(),
            task: Task::None,
            reported_at: Instant::now(),
            reported: 0,
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
                    if !self.receive()? {
                        return Ok(());
                    }
                } else {
                    self.streams.ready(event);
                }
            }
            self.advance()?;
        }
    }

    /// Executes the requests that have arrived. `false` when there will be no more.
    fn receive(&mut self) -> io::Result<bool> {
        loop {
            match self.requests.try_recv() {
                Ok(request) => self.execute(request?)?,
                Err(TryRecvError::Empty) => return Ok(true),
                Err(TryRecvError::Disconnected) => return Ok(false),
            }
        }
    }

    fn execute(&mut self, request: Request) -> io::Result<()> {
        match request {
            Request::Open(opening) => {
                self.streams.open(opening);
                self.task = Task::Open { until: Instant::now() + OPEN_TIMEOUT };
            }
            Request::Record => self.streams.reset_latencies(),
            Request::Drain { published, timeout_ms } => {
                let until = Instant::now() + Duration::from_millis(timeout_ms);
                let expected = self.streams.expected(published);
                self.task = Task::Drain { published, expected, until, settled: None };
            }
            Request::Close => {
                self.streams.close();
                reply(&Reply::Closed)?;
            }
        }
        Ok(())
    }

    /// Continues the task, replies when it is done, and reports progress.
    fn advance(&mut self) -> io::Result<()> {
        let now = Instant::now();
        match self.task {
            Task::Open { until } => {
                let all = self.streams.connect_more(self.poll.registry());
                if !all && now >= until {
                    self.streams.give_up();
                }
                if all || now >= until {
                    self.task = Task::None;
                    let Streams { open, failed, .. } = self.streams;
                    let why = self.streams.why.take();
                    reply(&Reply::Opened { open, failed, why })?;
                }
            }
            Task::Drain { published, expected, until, settled } => {
                let all = self.streams.received() >= expected;
                let settled = settled.or_else(|| all.then_some(now + SETTLE));
                self.task = Task::Drain { published, expected, until, settled };
                // Nothing more can arrive when all streams are cut.
                let is_over = now >= until || self.streams.open == 0;
                if is_over || settled.is_some_and(|settled| now >= settled) {
                    self.task = Task::None;
                    let counted = self.streams.counted(published);
                    reply(&Reply::Counted(counted))?;
                }
            }
            Task::None => {}
        }
        let sum = self.streams.received() + self.streams.open as u64 + self.streams.cut() as u64;
        if sum != self.reported && now >= self.reported_at + PROGRESS_INTERVAL {
            (self.reported, self.reported_at) = (sum, now);
            let (open, received) = (self.streams.open, self.streams.received());
            reply(&Reply::Progress { open, received, cut: self.streams.cut() })?;
        }
        Ok(())
    }
}

/// The benchmark reads all the time, so writing hardly ever blocks.
fn reply(reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    let mut output = io::stdout().lock();
    output.write_all(&line)?;
    output.flush()
}

fn read_requests(sender: &mpsc::Sender<io::Result<Request>>, waker: &Waker) {
    for line in io::stdin().lines() {
        let request = line
            .and_then(|line| serde_json::from_str(&line).map_err(|error| not_a_request(&error)));
        if sender.send(request).is_err() || waker.wake().is_err() {
            return;
        }
    }
}

fn not_a_request(error: &serde_json::Error) -> io::Error {
    let why = format!("{error}: only `headwater bench` starts a generator process");
    io::Error::other(why)
}
