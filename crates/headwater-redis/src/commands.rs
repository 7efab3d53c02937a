//! The connection for commands: one at a time, replaced when it fails. Look here for what a command
//! waits for, for when it is sent a second time, and for how a failover is followed.
//!
//! A task keeps one connection open. It is replaced when it is closed, when it sends nothing while
//! an answer is expected, and when Redis answers that it is a replica; each time the name of Redis
//! is resolved again. What was surely not sent is sent once more on the next connection; what may
//! have been sent is not repeated here.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use headwater_core::{Error, ErrorKind};
use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::connect::{Address, Backoff, Purpose};
use crate::errors;
use crate::limits::{COMMANDS_WAITING_MAX, RETIRED_CONNECTIONS_MAX};
use crate::link::{Cause, Deadlines, Driver, Failure, Link, Request};

/// The connection for commands of a [`RedisBroker`](crate::RedisBroker). All clones share one
/// pipelined connection, which reconnects by itself.
///
/// It implements redis' [`ConnectionLike`], so commands, pipelines and scripts of the crate
/// [`redis`](crate::client) use it like any other connection:
///
/// ```no_run
/// # use headwater::{RedisBroker, redis::client};
/// # async fn f(broker: RedisBroker) -> Result<(), client::RedisError> {
/// let mut redis = broker.connection();
/// let visits: u64 = client::cmd("INCR").arg("visits").query_async(&mut redis).await?;
/// # Ok(()) }
/// ```
///
/// While Redis cannot be reached, commands fail at once. An answer may take as long as bytes keep
/// arriving, 30 s at most; a connection that sends nothing for 3 s is replaced. A command that may
/// have been sent is never repeated. Answers are in RESP2.
///
/// Cancel safe: a dropped command may or may not be executed, and other commands are not affected.
#[derive(Clone)]
pub struct Commands {
    shared: Arc<Shared>,
    /// Ends the task that keeps the connection open, with the last clone.
    _task: Arc<AbortOnDrop>,
}

struct Shared {
    state: watch::Sender<State>,
    /// Room for commands that wait for an answer.
    room: Semaphore,
    deadlines: Deadlines,
    database: i64,
}

/// The state of the connection, as commands see it.
#[derive(Clone)]
struct State {
    phase: Phase,
    /// The number of connections so far.
    generation: u64,
}

#[derive(Clone)]
enum Phase {
    /// A connection is being opened: commands wait for it.
    Connecting,
    Open(Arc<Link>),
    /// The last attempt failed: commands fail.
    Down(Arc<Error>),
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Commands {
    /// Opens a connection in the background.
    pub(crate) fn open(address: Address, runtime: &Handle, deadlines: Deadlines) -> Self {
        let state = State { phase: Phase::Connecting, generation: 0 };
        let shared = Arc::new(Shared {
            state: watch::Sender::new(state),
            room: Semaphore::new(COMMANDS_WAITING_MAX),
            deadlines,
            database: address.database(),
        });
        let keeper = Keeper { address, shared: Arc::clone(&shared), retired: VecDeque::new() };
        let task = runtime.spawn(keeper.run()).abort_handle();
        Self { shared, _task: Arc::new(AbortOnDrop(task)) }
    }

    /// For tests: opens a connection to the Redis at a URL.
    #[cfg(test)]
    pub(crate) fn to(url: &str, deadlines: Deadlines) -> Self {
        let address = Address::parse(url).expect("a Redis URL");
        Self::open(address, &Handle::current(), deadlines)
    }

    /// The number of connections that were opened so far: it changes when Redis, or the server
    /// behind its name, may be another one.
    pub(crate) fn generation(&self) -> u64 {
        self.shared.state.borrow().generation
    }

    /// Waits until the connection with this generation was replaced by an open one; returns the new
    /// generation. Cancel safe.
    pub(crate) async fn replaced(&self, generation: u64) -> u64 {
        let mut states = self.shared.state.subscribe();
        let changed = states.wait_for(|state| state.generation != generation).await;
        // The sender lives as long as `self`.
        changed.map_or(generation, |state| state.generation)
    }

    /// Replaces the connection, for a reason of those who use it. The name of Redis is resolved
    /// again. Does nothing while there is no connection, or if it was opened only just now.
    pub(crate) fn reset(&self, reason: &'static str) {
        if let Phase::Open(link) = &self.shared.state.borrow().phase {
            link.replace(Cause::Reset(reason));
        }
    }

    async fn request(&self, request: Request<'_>) -> RedisResult<Vec<Value>> {
        let started = Instant::now();
        let deadline = started + self.shared.deadlines.silence;
        let Some((_room, now)) = self.room(started, deadline).await else {
            return Err(unavailable("too many commands wait for an answer"));
        };
        let (mut link, now) = self.link(now, deadline).await?;
        let mut answers = link.exchange(request, now).await;
        if let Err(Failure::NotSent) = answers {
            let (next, now) = self.link(Instant::now(), deadline).await?;
            answers = next.exchange(request, now).await;
            link = next;
        }
        let answers = answers.map_err(|failure| match failure {
            Failure::NotSent => unavailable("the connection was closed twice"),
            Failure::Other(error) => error,
        });
        if let Some(code) = errors::needs_other_connection(&answers) {
            link.replace(Cause::Answer(code));
        }
        answers
    }

    /// Room for a command, and the time then.
    async fn room(
        &self,
        now: Instant,
        deadline: Instant,
    ) -> Option<(SemaphorePermit<'_>, Instant)> {
        if let Ok(room) = self.shared.room.try_acquire() {
            return Some((room, now));
        }
        let room = timeout_at(deadline, self.shared.room.acquire()).await.ok()?.ok()?;
        Some((room, Instant::now()))
    }

    /// The open connection, or the one that is being opened, and the time then.
    async fn link(&self, now: Instant, deadline: Instant) -> RedisResult<(Arc<Link>, Instant)> {
        let usable = self.shared.state.borrow().usable(now);
        match usable {
            Some(Ok(link)) => return Ok((link, now)),
            Some(Err(error)) => {
                // A caller that repeats at once must not keep the connection from being opened.
                tokio::task::yield_now().await;
                return Err(error);
            }
            None => {}
        }
        let mut states = self.shared.state.subscribe();
        let usable = async {
            loop {
                let now = Instant::now();
                if let Some(link) = states.borrow_and_update().usable(now) {
                    return Ok((link?, now));
                }
                if states.changed().await.is_err() {
                    return Err(unavailable("the broker was dropped"));
                }
            }
        };
        match timeout_at(deadline, usable).await {
            Ok(link) => link,
            Err(_) => Err(unavailable("no connection in time")),
        }
    }
}

impl State {
    /// What a command can use or learn now; `None` if it must wait.
    fn usable(&self, now: Instant) -> Option<RedisResult<Arc<Link>>> {
        match &self.phase {
            Phase::Open(link) if link.is_usable(now) => Some(Ok(Arc::clone(link))),
            Phase::Down(error) => Some(Err(errors::not_sent(Arc::clone(error)))),
            Phase::Open(_) | Phase::Connecting => None,
        }
    }
}

fn unavailable(why: &'static str) -> RedisError {
    errors::not_sent(Arc::new(Error::new(ErrorKind::Unavailable, why)))
}

impl ConnectionLike for Commands {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let mut answers = self.request(Request::Command(command)).await?;
            Ok(answers.pop().unwrap_or(Value::Nil))
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(self.request(Request::Pipeline { pipeline, offset, count }))
    }

    fn get_db(&self) -> i64 {
        self.shared.database
    }
}

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state.borrow();
        f.debug_struct("RedisConnection")
            .field("is_open", &matches!(state.phase, Phase::Open(_)))
            .field("generation", &state.generation)
            .finish_non_exhaustive()
    }
}

/// Keeps one connection open, until its task is aborted.
struct Keeper {
    address: Address,
    shared: Arc<Shared>,
    /// Connections that were replaced while commands waited for their answers.
    retired: VecDeque<AbortOnDrop>,
}

impl Keeper {
    async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut last_cause = None;
        loop {
            match self.connect().await {
                Ok((link, driver)) => {
                    let link = Arc::new(link);
                    self.shared.state.send_modify(|state| {
                        state.generation += 1;
                        state.phase = Phase::Open(Arc::clone(&link));
                    });
                    let cause = self.serve(&link, driver).await;
                    self.log(cause, last_cause.replace(cause));
                    self.shared.state.send_modify(|state| state.phase = Phase::Connecting);
                    if link.has_answered() {
                        backoff = Backoff::default();
                    }
                    if cause != Cause::Lost {
                        // The wait was before: see `serve`.
                        continue;
                    }
                }
                Err(error) => {
                    tracing::debug!(address = %self.address, "Redis, for commands: {error}");
                    let phase = Phase::Down(Arc::new(error));
                    self.shared.state.send_modify(|state| state.phase = phase);
                }
            }
            sleep(backoff.next_wait()).await;
        }
    }

    async fn connect(&self) -> Result<(Link, Driver), Error> {
        let deadlines = self.shared.deadlines;
        let connection = self.address.open_for(Purpose::Commands, deadlines.silence).await?;
        Link::new(connection, deadlines).await.map_err(|error| {
            Error::new(ErrorKind::Unavailable, "the connection was lost").with_source(error)
        })
    }

    /// Drives a connection until it must be replaced.
    async fn serve(&mut self, link: &Link, mut driver: Driver) -> Cause {
        let cause = tokio::select! {
            () = &mut driver => return Cause::Lost,
            cause = link.replaced() => cause,
        };
        // One that leads to the wrong server still serves reads until then, and its answers say
        // what is wrong.
        let until = link.opened_at + self.shared.deadlines.replace;
        if matches!(cause, Cause::Answer(_) | Cause::Reset(_)) {
            tokio::select! {
                () = &mut driver => return Cause::Lost,
                () = sleep_until(until) => {}
            }
        }
        self.retire(driver);
        cause
    }

    /// Lets commands that wait for an answer have it, if it arrives.
    fn retire(&mut self, driver: Driver) {
        if self.retired.len() == RETIRED_CONNECTIONS_MAX {
            self.retired.pop_front();
        }
        let rest = timeout(self.shared.deadlines.command, driver);
        let task = tokio::spawn(async move { drop(rest.await) });
        self.retired.push_back(AbortOnDrop(task.abort_handle()));
    }

    /// A cause is logged as a warning once, not each time it recurs. The subscriber logs a lost
    /// connection.
    fn log(&self, cause: Cause, last_cause: Option<Cause>) {
        let (address, is_repeated) = (&self.address, last_cause == Some(cause));
        let what = match cause {
            Cause::Lost => "the connection for commands was lost".into(),
            Cause::Silent => "nothing arrives on the connection for commands".into(),
            Cause::Answer(code) => format!("it refuses commands ({code})"),
            Cause::Reset(reason) => reason.to_owned(),
        };
        if is_repeated || cause == Cause::Lost {
            tracing::debug!(%address, "Redis: {what}: connecting again");
        } else {
            tracing::warn!(%address, "Redis: {what}: connecting again");
        }
    }
}

#[cfg(test)]
mod tests;
