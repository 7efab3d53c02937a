//! The generator from the benchmark's side: any number of streams, on as many processes as they
//! need. Look here for how streams are spread over processes and addresses.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::control::{Counted, Opening, Reply, Request};
use crate::error::{Context as _, Error};
use crate::limits::{OPEN_TIMEOUT, STREAMS_PER_PROCESS_MAX, WORKER_TIMEOUT};
use crate::target::HttpTarget;

/// How a generator process is started: a program that calls [`worker::run`](crate::worker::run)
/// when it is started with these arguments.
#[derive(Debug, Clone)]
pub struct WorkerCommand {
    /// The program.
    pub program: PathBuf,
    /// The arguments.
    pub arguments: Vec<String>,
}

impl WorkerCommand {
    /// The running program itself, with arguments.
    ///
    /// # Errors
    /// When its path is unknown.
    pub fn this_program(arguments: &[&str]) -> Result<Self, Error> {
        let program = std::env::current_exe().context("cannot find the running program")?;
        Ok(Self { program, arguments: arguments.iter().map(ToString::to_string).collect() })
    }
}

/// The streams of a benchmark.
pub struct Generator {
    workers: Vec<Worker>,
    target: HttpTarget,
    streams: usize,
    channels: usize,
    /// How often streams were opened: each time uses other source addresses.
    openings: u8,
}

/// The outcome of opening the streams.
#[derive(Debug, Clone, PartialEq)]
pub struct Opened {
    /// Streams that are open.
    pub open: usize,
    /// Streams that could not be opened.
    pub failed: usize,
    /// Why the first of them failed.
    pub why: Option<String>,
    /// How long it took.
    pub took: Duration,
}

/// The progress of all processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Open streams.
    pub open: usize,
    /// Deliveries.
    pub received: u64,
    /// Streams that were cut.
    pub cut: usize,
}

impl Generator {
    /// Starts the processes for this many streams, which subscribe to the channels in turn.
    ///
    /// # Errors
    /// When a process does not start.
    pub fn start(
        command: &WorkerCommand,
        target: &HttpTarget,
        streams: usize,
        channels: usize,
    ) -> Result<Self, Error> {
        let count = streams.div_ceil(STREAMS_PER_PROCESS_MAX).max(target.addresses.len()).max(1);
        let workers = (0..count).map(|_| Worker::start(command)).collect::<Result<_, _>>()?;
        Ok(Self { workers, target: target.clone(), streams, channels, openings: 0 })
    }

    /// Opens all streams, after `published` events.
    ///
    /// # Errors
    /// When a process has exited. Streams that cannot be opened are counted.
    pub fn open(&mut self, published: u64) -> Result<Opened, Error> {
        let started = Instant::now();
        self.openings = self.openings.wrapping_add(1);
        let count = self.workers.len();
        for index in 0..count {
            let first = self.streams * index / count;
            let opening = Opening {
                address: self.target.addresses[index % self.target.addresses.len()],
                source: self.source(index),
                host: self.target.host.clone(),
                path: self.target.stream_path.clone(),
                first,
                count: self.streams * (index + 1) / count - first,
                channels: self.channels,
                published,
            };
            self.workers[index].send(&Request::Open(opening))?;
        }
        let mut opened = Opened { open: 0, failed: 0, why: None, took: Duration::ZERO };
        for worker in &mut self.workers {
            match worker.reply(OPEN_TIMEOUT)? {
                Reply::Opened { open, failed, why } => {
                    opened.open += open;
                    opened.failed += failed;
                    opened.why = opened.why.or(why);
                }
                reply => return Err(unexpected(&reply)),
            }
        }
        opened.took = started.elapsed();
        Ok(opened)
    }

    /// A loopback address for each process and each opening: the ports of one address suffice for
    /// 28,000 connections, recently closed ones included.
    fn source(&self, worker: usize) -> Option<Ipv4Addr> {
        let address = self.target.addresses[worker % self.target.addresses.len()];
        let worker = u8::try_from(worker).ok()?;
        // Only Linux routes all of 127.0.0.0/8 to the loopback interface.
        let many = cfg!(target_os = "linux") && address.is_ipv4() && address.ip().is_loopback();
        many.then(|| Ipv4Addr::new(127, 1, self.openings, 1 + worker))
    }

    /// The processes that hold the streams.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.workers.iter().map(|worker| worker.process.id()).collect()
    }

    /// Resets the recorded latencies.
    ///
    /// # Errors
    /// When a process has exited.
    pub fn record(&mut self) -> Result<(), Error> {
        self.workers.iter_mut().try_for_each(|worker| worker.send(&Request::Record))
    }

    /// The progress as last reported. Does not wait.
    ///
    /// # Errors
    /// When a process has exited.
    pub fn progress(&mut self) -> Result<Progress, Error> {
        let mut sum = Progress::default();
        for worker in &mut self.workers {
            worker.receive(Duration::ZERO)?;
            sum.open += worker.progress.open;
            sum.received += worker.progress.received;
            sum.cut += worker.progress.cut;
        }
        Ok(sum)
    }

    /// Waits until everything that was published has arrived, and counts.
    ///
    /// # Errors
    /// When a process has exited. What does not arrive in time is counted as missing.
    pub(crate) fn drain(&mut self, published: u64, within: Duration) -> Result<Counted, Error> {
        let timeout_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        for worker in &mut self.workers {
            worker.send(&Request::Drain { published, timeout_ms })?;
        }
        let mut sum = Counted::default();
        for worker in &mut self.workers {
            match worker.reply(within)? {
                Reply::Counted(counted) => {
                    sum.expected += counted.expected;
                    sum.received += counted.received;
                    sum.duplicates += counted.duplicates;
                    sum.foreign += counted.foreign;
                    sum.cut += counted.cut;
                    sum.last_at_ns = sum.last_at_ns.max(counted.last_at_ns);
                    sum.latencies.extend(counted.latencies);
                }
                reply => return Err(unexpected(&reply)),
            }
        }
        Ok(sum)
    }

    /// Closes all streams.
    ///
    /// # Errors
    /// When a process has exited.
    pub fn close(&mut self) -> Result<(), Error> {
        for worker in &mut self.workers {
            worker.send(&Request::Close)?;
        }
        for worker in &mut self.workers {
            match worker.reply(Duration::ZERO)? {
                Reply::Closed => {}
                reply => return Err(unexpected(&reply)),
            }
        }
        Ok(())
    }
}

fn unexpected(reply: &Reply) -> Error {
    let name = reply.name();
    Error::failed(format!("a generator process sent an unexpected reply: {name}"))
}

/// One process; killed when dropped.
struct Worker {
    process: Child,
    requests: ChildStdin,
    replies: Receiver<io::Result<Reply>>,
    progress: Progress,
}

impl Worker {
    fn start(command: &WorkerCommand) -> Result<Self, Error> {
        let mut process = Command::new(&command.program)
            .args(&command.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a generator process")?;
        let requests = process.stdin.take().expect("it is piped");
        let output = process.stdout.take().expect("it is piped");
        let (sender, replies) = mpsc::channel();
        // The thread ends with the process.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let reply = line.and_then(|line| Ok(serde_json::from_str(&line)?));
                if sender.send(reply).is_err() {
                    return;
                }
            }
        });
        Ok(Self { process, requests, replies, progress: Progress::default() })
    }

    fn send(&mut self, request: &Request) -> Result<(), Error> {
        let mut line = serde_json::to_vec(request).context("a request")?;
        line.push(b'\n');
        self.requests.write_all(&line).context("a generator process has exited")
    }

    /// The reply to the last request, which may take this long.
    fn reply(&mut self, within: Duration) -> Result<Reply, Error> {
        let deadline = Instant::now() + within + WORKER_TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Some(reply) = self.receive(left)? {
                return Ok(reply);
            }
            if left.is_zero() {
                return Err(Error::failed(
                    "a generator process does not respond: the machine is too busy",
                ));
            }
        }
    }

    /// Processes progress, and returns the first reply that is something else. Waits for at most
    /// this long.
    fn receive(&mut self, within: Duration) -> Result<Option<Reply>, Error> {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.replies.recv_timeout(left) {
                Ok(reply) => match reply.context("a generator process")? {
                    Reply::Progress { open, received, cut } => {
                        self.progress = Progress { open, received, cut };
                    }
                    reply => return Ok(Some(reply)),
                },
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::failed("a generator process has exited"));
                }
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It would exit by itself when its standard input closes, but not while it is busy.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
