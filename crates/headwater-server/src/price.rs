//! What one request may cost, and the table of it in docs/limits.md. Look here for which bounds of
//! `limits.rs` make up a price; the routes have one each, in `router.rs`.

use std::fmt::Write as _;
use std::time::Duration;

use headwater::budget::Share;
use headwater::limits::{CONFIRM_TIMEOUT, PUBLISH_WAIT_MAX, QUEUE_BYTES_MAX};
use headwater::redis::limits::COMMAND_WAIT_MAX as REDIS_WAIT_MAX;

use crate::limits::{
    APPLICATION_ATTEMPTS_MAX, BATCH_EVENTS_MAX, BODY_COPIES_MAX, BODY_TIMEOUT, JWKS_TIMEOUT,
    PUBLISH_CPU_PER_MIB_MAX, REQUEST_CPU_MAX, REQUEST_MEMORY_BYTES_MAX, STREAM_CPU_MAX,
    TURN_WAIT_MAX,
};
use crate::settings::{show_bytes, show_duration};

/// What a request may cost at most. The order is always the same: cheap checks, authorisation, room
/// for the body, the body.
#[derive(Debug, Clone, Copy)]
pub struct Price {
    /// Memory beside the body and what it takes of a share, in bytes.
    pub memory_bytes: usize,
    /// The share of the memory of a node that it takes room in.
    pub share: Option<Share>,
    /// Memory for the body, as a multiple of its size; 0 if a body is not read.
    pub body_copies: usize,
    /// Time of one core, without that for the body.
    pub cpu: Duration,
    /// Time of one core for each MiB of the body.
    pub cpu_per_mib: Duration,
    /// Requests to the application.
    pub questions: usize,
    /// Commands to Redis.
    pub redis_commands: usize,
    /// What further commands are for, which read or write a bounded piece each.
    pub redis_pieces: Option<&'static str>,
    /// What it may wait for until it is answered, one after the other.
    pub waits: &'static [Wait],
}

/// Something that a request may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The rest of its own head.
    Head,
    /// The answer of the application, or a key set.
    Application,
    /// The answer to a command.
    Redis,
    /// Its own body.
    Body,
    /// The turn of a large batch, or of an event for many channels.
    Turn,
    /// The broker's confirmation of its channels.
    Confirmation,
    /// Shards and Redis, for each MiB that is published.
    Publish,
}

/// A request whose answer is known at once.
const LOCAL: Price = Price {
    memory_bytes: REQUEST_MEMORY_BYTES_MAX,
    share: None,
    body_copies: 0,
    cpu: REQUEST_CPU_MAX,
    cpu_per_mib: Duration::ZERO,
    questions: 0,
    redis_commands: 0,
    redis_pieces: None,
    waits: &[Wait::Head],
};

/// A file of the demo page, a redirect, health or metrics.
pub(crate) const READ: Price = LOCAL;

/// A stream: `GETDEL` for its ticket, its queue, and pages of what it missed.
pub(crate) const STREAM: Price = Price {
    memory_bytes: REQUEST_MEMORY_BYTES_MAX + QUEUE_BYTES_MAX,
    share: Some(Share::Replays),
    cpu: STREAM_CPU_MAX,
    questions: APPLICATION_ATTEMPTS_MAX,
    redis_commands: 1,
    redis_pieces: Some("128 events or 256 KiB that it missed, of one channel"),
    waits: &[Wait::Head, Wait::Application, Wait::Redis, Wait::Confirmation],
    ..LOCAL
};

/// An event to each of its channels, or a batch. One command publishes one event to one channel.
pub(crate) const PUBLISH: Price = Price {
    share: Some(Share::Bodies),
    body_copies: BODY_COPIES_MAX,
    cpu_per_mib: PUBLISH_CPU_PER_MIB_MAX,
    questions: APPLICATION_ATTEMPTS_MAX,
    redis_commands: BATCH_EVENTS_MAX,
    waits: &[Wait::Head, Wait::Application, Wait::Body, Wait::Turn, Wait::Publish],
    ..LOCAL
};

/// A ticket: `TIME` and `SET`.
pub(crate) const TICKET: Price = Price {
    share: Some(Share::Tickets),
    questions: APPLICATION_ATTEMPTS_MAX,
    redis_commands: 2,
    waits: &[Wait::Head, Wait::Application, Wait::Redis],
    ..LOCAL
};

/// A revocation: `TIME`, `PUBLISH`, and three that keep it for nodes that are disconnected.
pub(crate) const REVOKE: Price = Price {
    share: Some(Share::Revocations),
    questions: APPLICATION_ATTEMPTS_MAX,
    redis_commands: 5,
    waits: &[Wait::Head, Wait::Application, Wait::Redis],
    ..LOCAL
};

impl Price {
    /// Memory at most with a body of this size, in bytes.
    pub fn memory_with(&self, body_bytes: usize) -> usize {
        self.memory_bytes + self.body_copies * body_bytes
    }

    /// Time of one core at most with a body of this size.
    pub fn cpu_with(&self, body_bytes: usize) -> Duration {
        let mib = u32::try_from(body_bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX);
        self.cpu + self.cpu_per_mib * mib
    }
}

impl Wait {
    /// How long, as the table shows it.
    fn text(self) -> String {
        let of_body = |time: Duration, what: &str| format!("{} for {what}", show_duration(time));
        match self {
            Self::Head => "`header-timeout`".into(),
            Self::Application => {
                format!("`authorize-timeout` or {}", of_body(JWKS_TIMEOUT, "a key set"))
            }
            Self::Redis => of_body(REDIS_WAIT_MAX, "a command to Redis"),
            Self::Body => of_body(BODY_TIMEOUT, "the body"),
            Self::Turn => of_body(TURN_WAIT_MAX, "the turn of a large batch"),
            Self::Confirmation => of_body(CONFIRM_TIMEOUT, "the confirmation of channels"),
            Self::Publish => {
                of_body(PUBLISH_WAIT_MAX + REDIS_WAIT_MAX, "each MiB that is published")
            }
        }
    }
}

/// One row for each of these routes: method, path and price.
pub(crate) fn table<'a>(rows: impl Iterator<Item = (String, &'a Price)>) -> String {
    let mut text = "\
| request | memory | share | CPU | questions | Redis commands | may wait for |
|---|---|---|---|---|---|---|
"
    .to_owned();
    for (request, price) in rows {
        let Price { memory_bytes, body_copies, cpu, cpu_per_mib, questions, .. } = *price;
        let (mut memory, mut cpu) = (show_bytes(memory_bytes), show_duration(cpu));
        if body_copies > 0 {
            let _ = write!(memory, ", and {body_copies} times the body");
            let _ = write!(cpu, ", and {} for each MiB", show_duration(cpu_per_mib));
        }
        let share = price.share.map_or(String::new(), |share| format!("`{}`", share.as_str()));
        let mut commands = price.redis_commands.to_string();
        if let Some(piece) = price.redis_pieces {
            let _ = write!(commands, ", and one for each {piece}");
        }
        let waits: Vec<String> = price.waits.iter().map(|wait| wait.text()).collect();
        let waits = waits.join("; ");
        let _ = writeln!(
            text,
            "| {request} | {memory} | {share} | {cpu} | {questions} | {commands} | {waits} |"
        );
    }
    text
}
