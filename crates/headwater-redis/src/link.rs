//! One pipelined connection for commands, and the signs of its life. Look here for when a
//! connection counts as dead, and for how it is known that a command was not sent.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisConnectionInfo, RedisError, Value};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::connect::Connection;
use crate::errors;
use crate::limits::{
    COMMAND_WAIT_MAX, COMMANDS_WAITING_MAX, REDIS_RESPONSE_TIMEOUT, REPLACE_INTERVAL,
};

/// The deadlines of command connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    /// How long Redis may send nothing while an answer is expected.
    pub(crate) silence: Duration,
    /// How long a command may wait for its answer.
    pub(crate) command: Duration,
    /// The shortest time between two connections if the first leads to the wrong server.
    pub(crate) replace: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            silence: REDIS_RESPONSE_TIMEOUT,
            command: COMMAND_WAIT_MAX,
            replace: REPLACE_INTERVAL,
        }
    }
}

/// Why a command connection is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It was closed, or an error occurred.
    Lost,
    /// It sent nothing in time although an answer was expected.
    Silent,
    /// Redis answered with this code: the connection leads to the wrong server.
    Answer(&'static str),
    /// One of those who use it requested it.
    Reset(&'static str),
}

/// A command, or several in one round trip.
#[derive(Clone, Copy)]
pub(crate) enum Request<'a> {
    Command(&'a Cmd),
    Pipeline { pipeline: &'a Pipeline, offset: usize, count: usize },
}

/// Why a request has no answer.
pub(crate) enum Failure {
    /// It was surely not sent, so it can be sent again.
    NotSent,
    Other(RedisError),
}

/// What drives a connection; it ends when the connection is closed.
pub(crate) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An open connection.
pub(crate) struct Link {
    connection: MultiplexedConnection,
    vitals: Arc<Vitals>,
    deadlines: Deadlines,
    pub(crate) opened_at: Instant,
    /// Notified once for each request to replace it.
    replace: Notify,
    cause: std::sync::Mutex<Option<Cause>>,
}

impl Link {
    /// Sends commands over a connection that is logged in. The driver must be polled.
    pub(crate) async fn new(
        connection: Box<dyn Connection>,
        deadlines: Deadlines,
    ) -> Result<(Self, Driver), RedisError> {
        let vitals = Arc::new(Vitals::new());
        let stream = Stream { connection, vitals: Arc::clone(&vitals), is_blocked: false };
        // The connection is set up already: this sends nothing.
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_connection_timeout(None)
            .set_pipeline_buffer_size(COMMANDS_WAITING_MAX);
        let (connection, driver) =
            MultiplexedConnection::new_with_config(&info, stream, config).await?;
        let (driven, closed) = (driver, Arc::clone(&vitals));
        let driver = async move {
            driven.await;
            closed.on_closed();
        };
        let link = Self {
            connection,
            vitals,
            deadlines,
            opened_at: Instant::now(),
            replace: Notify::new(),
            cause: std::sync::Mutex::default(),
        };
        Ok((link, Box::pin(driver)))
    }

    /// Whether a request can be sent on it. If it has been silent for too long, it is replaced.
    pub(crate) fn is_usable(&self, now: Instant) -> bool {
        if self.vitals.is_closed.load(Ordering::Acquire) {
            return false;
        }
        let is_silent = self.silent_at().is_some_and(|at| at <= now);
        if is_silent {
            self.replace(Cause::Silent);
        }
        !is_silent
    }

    /// Whether it has carried any answer.
    pub(crate) fn has_answered(&self) -> bool {
        self.vitals.has_heard.load(Ordering::Relaxed)
    }

    /// Requests that this connection be replaced. Commands that wait for an answer keep waiting.
    pub(crate) fn replace(&self, cause: Cause) {
        self.lock_cause().get_or_insert(cause);
        self.replace.notify_one();
    }

    /// Waits until another connection is requested; returns why. Cancel safe.
    pub(crate) async fn replaced(&self) -> Cause {
        self.replace.notified().await;
        self.lock_cause().unwrap_or(Cause::Lost)
    }

    fn lock_cause(&self) -> std::sync::MutexGuard<'_, Option<Cause>> {
        self.cause.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// When this connection counts as dead, unless bytes arrive. `None` if none are expected.
    fn silent_at(&self) -> Option<Instant> {
        Some(self.vitals.expected_since()? + self.deadlines.silence)
    }

    /// Sends a request and waits for its answers. Cancel safe: the request may have been sent.
    /// `started` is now: reading the clock is a good part of a command's cost.
    pub(crate) async fn exchange(
        &self,
        request: Request<'_>,
        started: Instant,
    ) -> Result<Vec<Value>, Failure> {
        let written_before = self.vitals.written.load(Ordering::Acquire);
        if request.has_answer() {
            self.vitals.expect(started);
        }
        let mut connection = self.connection.clone();
        let mut answers = std::pin::pin!(request.send(&mut connection));
        let mut due = std::pin::pin!(sleep_until(self.next_look(started, started)));
        loop {
            tokio::select! {
                biased;
                answers = &mut answers => {
                    return answers.map_err(|error| self.failure(error, written_before));
                }
                () = &mut due => {}
            }
            let now = Instant::now();
            let heard = self.vitals.heard_at().max(started);
            if self.silent_at().unwrap_or(heard + self.deadlines.silence) <= now {
                self.replace(Cause::Silent);
            }
            if self.gives_up_at(started) <= now {
                let waited = now - started;
                return Err(Failure::Other(errors::not_answered(waited)));
            }
            due.as_mut().reset(self.next_look(started, now));
        }
    }

    /// When a request that was sent at `started` gives up, unless bytes arrive before.
    fn gives_up_at(&self, started: Instant) -> Instant {
        let heard = self.vitals.heard_at().max(started);
        (heard + self.deadlines.silence).min(started + self.deadlines.command)
    }

    fn next_look(&self, started: Instant, now: Instant) -> Instant {
        let gives_up = self.gives_up_at(started);
        match self.silent_at() {
            // Later than now, or else it was looked at.
            Some(silent) if silent > now => silent.min(gives_up),
            _ => gives_up,
        }
    }

    fn failure(&self, error: RedisError, written_before: u64) -> Failure {
        let is_written = self.vitals.written.load(Ordering::Acquire) != written_before;
        if errors::is_connection_failure(&error) && !is_written {
            return Failure::NotSent;
        }
        Failure::Other(error)
    }
}

impl Request<'_> {
    fn has_answer(&self) -> bool {
        !matches!(self, Self::Command(command) if command.is_no_response())
    }

    async fn send(self, connection: &mut MultiplexedConnection) -> Result<Vec<Value>, RedisError> {
        match self {
            Self::Command(command) => {
                connection.send_packed_command(command).await.map(|answer| vec![answer])
            }
            Self::Pipeline { pipeline, offset, count } => {
                connection.send_packed_commands(pipeline, offset, count).await
            }
        }
    }
}

/// The signs of a connection's life. Times are in microseconds since it was opened, plus 1.
#[derive(Debug)]
struct Vitals {
    opened_at: Instant,
    /// When bytes arrived, or the peer acknowledged bytes that had waited.
    heard: AtomicU64,
    /// Since when bytes are expected; 0 if none are.
    expected: AtomicU64,
    written: AtomicU64,
    has_heard: AtomicBool,
    is_closed: AtomicBool,
}

impl Vitals {
    fn new() -> Self {
        Self {
            opened_at: Instant::now(),
            heard: AtomicU64::new(1),
            expected: AtomicU64::new(0),
            written: AtomicU64::new(0),
            has_heard: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
        }
    }

    fn micros(&self, at: Instant) -> u64 {
        let micros = at.saturating_duration_since(self.opened_at).as_micros();
        u64::try_from(micros).unwrap_or(u64::MAX - 1) + 1
    }

    fn instant(&self, micros: u64) -> Instant {
        self.opened_at + Duration::from_micros(micros.saturating_sub(1))
    }

    fn heard_at(&self) -> Instant {
        self.instant(self.heard.load(Ordering::Relaxed))
    }

    /// Since when bytes are expected and none arrived. It does not depend on who waits for them, so
    /// callers that give up early do not keep a dead connection in use.
    fn expected_since(&self) -> Option<Instant> {
        let expected = self.expected.load(Ordering::Relaxed);
        (expected != 0).then(|| self.instant(expected))
    }

    fn expect(&self, now: Instant) {
        let now = self.micros(now);
        let _ = self.expected.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn on_read(&self) {
        self.heard.store(self.micros(Instant::now()), Ordering::Relaxed);
        self.has_heard.store(true, Ordering::Relaxed);
        // Requests that still wait have a deadline of their own.
        self.expected.store(0, Ordering::Relaxed);
    }

    /// The peer made room for bytes that had to wait: it is alive, and answers are still expected.
    fn on_acknowledged(&self) {
        let now = self.micros(Instant::now());
        self.heard.store(now, Ordering::Relaxed);
        if self.expected.load(Ordering::Relaxed) != 0 {
            self.expected.store(now, Ordering::Relaxed);
        }
    }

    fn on_closed(&self) {
        self.is_closed.store(true, Ordering::Release);
    }
}

/// A connection that notes signs of life.
struct Stream {
    connection: Box<dyn Connection>,
    vitals: Arc<Vitals>,
    /// Whether the last write had to wait.
    is_blocked: bool,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let filled = buffer.filled().len();
        let read = Pin::new(&mut *self.connection).poll_read(context, buffer);
        match &read {
            Poll::Ready(Ok(())) if buffer.filled().len() > filled => self.vitals.on_read(),
            Poll::Ready(_) => self.vitals.on_closed(),
            Poll::Pending => {}
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.connection).poll_write(context, bytes);
        match &written {
            Poll::Ready(Ok(count)) => {
                self.vitals.written.fetch_add(*count as u64, Ordering::AcqRel);
                if std::mem::take(&mut self.is_blocked) {
                    self.vitals.on_acknowledged();
                }
            }
            Poll::Ready(Err(_)) => self.vitals.on_closed(),
            Poll::Pending => self.is_blocked = true,
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.connection).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.connection).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_slowly_is_alive() {
        let (near, mut far) = duplex(1024);
        let (link, driver) = Link::new(Box::new(near), Deadlines::default()).await.unwrap();
        tokio::spawn(driver);
        let server = tokio::spawn(async move {
            // 16 KiB at 1 KiB per second: longer than the silence that is allowed.
            let mut buffer = [0; 1024];
            for _ in 0..16 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                far.read_exact(&mut buffer).await.unwrap();
            }
            far.write_all(b"+OK\r\n").await.unwrap();
            far
        });
        let mut command = redis::cmd("SET");
        command.arg("key").arg("x".repeat(16 << 10));
        assert!(link.exchange(Request::Command(&command), Instant::now()).await.is_ok());
        assert!(link.is_usable(Instant::now()));
        drop(server.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_stops_answering_between_two_answers_is_replaced() {
        let (near, mut far) = duplex(1024);
        let (link, driver) = Link::new(Box::new(near), Deadlines::default()).await.unwrap();
        tokio::spawn(driver);
        let ping = redis::cmd("PING");
        let answers = async {
            let mut buffer = [0; 1024];
            assert!(far.read(&mut buffer).await.unwrap() > 0);
            far.write_all(b"+PONG\r\n").await.unwrap();
        };
        let (first, second) = (Request::Command(&ping), Request::Command(&ping));
        let now = Instant::now();
        let (first, second, ()) =
            tokio::join!(link.exchange(first, now), link.exchange(second, now), answers);
        assert!(first.is_ok());
        assert!(matches!(second, Err(Failure::Other(error)) if error.is_timeout()));
        assert_eq!(link.replaced().await, Cause::Silent);
    }
}
