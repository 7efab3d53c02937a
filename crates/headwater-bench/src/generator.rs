//! The generator as the benchmark sees it: as many streams as wanted, on as many processes as they need. Look
//! here for how streams are spread over processes and addresses.

use std::io::{self, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::control::{Answer, Counted, Opening, Order};
use crate::error::{Context as _, Error};
use crate::limits::{OPEN_TIMEOUT, STREAMS_PER_PROCESS_MAX, WORKER_TIMEOUT};
use crate::target::HttpTarget;

/// How a generator process is started: a program that calls [`worker::run`](crate::worker::run) when it gets
/// these arguments.
#[derive(Debug, Clone)]
pub struct WorkerCommand {
    /// The program.
    pub program: PathBuf,
    /// What it is called with.
    pub arguments: Vec<String>,
}

impl WorkerCommand {
    /// The running program itself, with arguments.
    ///
    /// # Errors
    /// When the system does not tell which it is.
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
    /// How often streams were opened: each time comes from other addresses.
    openings: u8,
}

/// How the opening of the streams went.
#[derive(Debug, Clone, PartialEq)]
pub struct Opened {
    /// Streams that are open.
    pub open: usize,
    /// Streams that could not be opened.
    pub failed: usize,
    /// Why the first of them could not.
    pub why: Option<String>,
    /// How long it took.
    pub took: Duration,
}

/// How far all processes are.
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
    /// Starts the processes for so many streams, which listen to the channels in turn.
    ///
    /// # Errors
    /// When they do not start.
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

    /// Opens all streams. So many events were published before.
    ///
    /// # Errors
    /// When a process ended. Streams that cannot be opened are counted.
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
            self.workers[index].tell(&Order::Open(opening))?;
        }
        let mut opened = Opened { open: 0, failed: 0, why: None, took: Duration::ZERO };
        for worker in &mut self.workers {
            match worker.answer(OPEN_TIMEOUT)? {
                Answer::Opened { open, failed, why } => {
                    opened.open += open;
                    opened.failed += failed;
                    opened.why = opened.why.or(why);
                }
                answer => return Err(unexpected(&answer)),
            }
        }
        opened.took = started.elapsed();
        Ok(opened)
    }

    /// An address of the loopback for each process and each opening: the ports of one address last for 28,000
    /// connections, those that were closed a moment ago included.
    fn source(&self, worker: usize) -> Option<Ipv4Addr> {
        let address = self.target.addresses[worker % self.target.addresses.len()];
        let worker = u8::try_from(worker).ok()?;
        // Other systems than Linux have only 127.0.0.1.
        let many = cfg!(target_os = "linux") && address.is_ipv4() && address.ip().is_loopback();
        many.then(|| Ipv4Addr::new(127, 1, self.openings, 1 + worker))
    }

    /// The processes that hold the streams.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.workers.iter().map(|worker| worker.process.id()).collect()
    }

    /// Forgets the latencies up to here.
    ///
    /// # Errors
    /// When a process ended.
    pub fn record(&mut self) -> Result<(), Error> {
        self.workers.iter_mut().try_for_each(|worker| worker.tell(&Order::Record))
    }

    /// How far all are, by what they said last. Does not wait.
    ///
    /// # Errors
    /// When a process ended.
    pub fn progress(&mut self) -> Result<Progress, Error> {
        let mut sum = Progress::default();
        for worker in &mut self.workers {
            worker.listen(Duration::ZERO)?;
            sum.open += worker.progress.open;
            sum.received += worker.progress.received;
            sum.cut += worker.progress.cut;
        }
        Ok(sum)
    }

    /// Waits until everything that was published has come, and counts.
    ///
    /// # Errors
    /// When a process ended. What did not come in time is counted.
    pub(crate) fn drain(&mut self, published: u64, within: Duration) -> Result<Counted, Error> {
        let timeout_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        for worker in &mut self.workers {
            worker.tell(&Order::Drain { published, timeout_ms })?;
        }
        let mut sum = Counted::default();
        for worker in &mut self.workers {
            match worker.answer(within)? {
                Answer::Counted(counted) => {
                    sum.expected += counted.expected;
                    sum.received += counted.received;
                    sum.duplicates += counted.duplicates;
                    sum.foreign += counted.foreign;
                    sum.cut += counted.cut;
                    sum.last_at_ns = sum.last_at_ns.max(counted.last_at_ns);
                    sum.latencies.extend(counted.latencies);
                }
                answer => return Err(unexpected(&answer)),
            }
        }
        Ok(sum)
    }

    /// Closes all streams.
    ///
    /// # Errors
    /// When a process ended.
    pub fn close(&mut self) -> Result<(), Error> {
        for worker in &mut self.workers {
            worker.tell(&Order::Close)?;
        }
        for worker in &mut self.workers {
            match worker.answer(Duration::ZERO)? {
                Answer::Closed => {}
                answer => return Err(unexpected(&answer)),
            }
        }
        Ok(())
    }
}

fn unexpected(answer: &Answer) -> Error {
    Error::failed(format!("a generator process said {answer:?} where something else was due"))
}

/// One process. It ends when this is dropped.
struct Worker {
    process: Child,
    control: UnixStream,
    line: Vec<u8>,
    progress: Progress,
}

impl Worker {
    fn start(command: &WorkerCommand) -> Result<Self, Error> {
        let pair = || -> io::Result<_> {
            let (ours, theirs) = UnixStream::pair()?;
            let process = Command::new(&command.program)
                .args(&command.arguments)
                .stdin(Stdio::from(OwnedFd::from(theirs)))
                .stdout(Stdio::null())
                .spawn()?;
            Ok((process, ours))
        };
        let (process, control) = pair().context("cannot start a generator process")?;
        Ok(Self { process, control, line: Vec::new(), progress: Progress::default() })
    }

    fn tell(&mut self, order: &Order) -> Result<(), Error> {
        let mut line = serde_json::to_vec(order).context("an order")?;
        line.push(b'\n');
        self.control.write_all(&line).context("a generator process has ended")
    }

    /// What it says to the last order, which may take so long.
    fn answer(&mut self, within: Duration) -> Result<Answer, Error> {
        let deadline = Instant::now() + within + WORKER_TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Some(answer) = self.listen(left)? {
                return Ok(answer);
            }
            if left.is_zero() {
                return Err(Error::failed(
                    "a generator process does not answer: the machine is too busy",
                ));
            }
        }
    }

    /// Takes what it said; returns the first that is more than progress. Waits for something at most this long.
    fn listen(&mut self, within: Duration) -> Result<Option<Answer>, Error> {
        loop {
            while let Some(at) = self.line.iter().position(|byte| *byte == b'\n') {
                let answer =
                    serde_json::from_slice(&self.line[..at]).context("a generator process")?;
                self.line.drain(..=at);
                match answer {
                    Answer::Progress { open, received, cut } => {
                        self.progress = Progress { open, received, cut };
                    }
                    answer => return Ok(Some(answer)),
                }
            }
            if !self.receive(within).context("a generator process")? {
                return Ok(None);
            }
        }
    }

    /// `false` when nothing came.
    fn receive(&mut self, within: Duration) -> io::Result<bool> {
        self.control.set_nonblocking(within.is_zero())?;
        if !within.is_zero() {
            self.control.set_read_timeout(Some(within))?;
        }
        let mut bytes = [0; 16 << 10];
        let result = self.control.read(&mut bytes);
        self.control.set_nonblocking(false)?;
        match result {
            Ok(0) => Err(io::Error::other("it ended before its work was done")),
            Ok(count) => {
                self.line.extend_from_slice(&bytes[..count]);
                Ok(true)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock
                | io::ErrorKind::TimedOut
                | io::ErrorKind::Interrupted => Ok(false),
                _ => Err(error),
            },
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It would end by itself when our end of the socket closes, but not while it is busy.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
