//! The state of a session. Look here for the phases of a channel, and for what the session waits
//! for.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;

use bytes::BytesMut;
use headwater_core::{Channel, Error, Event};
use redis::{RedisError, RedisResult};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::oneshot;

use crate::catch_up::CatchUp;
use crate::connect::Connection;
use crate::envelope::LogHeaders;
use crate::history::LogState;
use crate::library::LogMode;
use crate::node::{Known, Node};
use crate::probe::Probe;

/// The size of one read, and of the buffer that is retained between messages.
pub(super) const READ_BYTES: usize = 64 << 10;

/// A subscriber connection and its state.
pub(crate) struct Session<'a> {
    pub(super) reader: ReadHalf<Box<dyn Connection>>,
    pub(super) writer: WriteHalf<Box<dyn Connection>>,
    pub(super) node: &'a Node,
    pub(super) known: &'a mut Known,
    pub(super) input: BytesMut,
    pub(super) output: BytesMut,
    /// Channels to subscribe or unsubscribe, as the hub wants then, in batches that fit one
    /// command.
    pub(super) pending_batches: VecDeque<Vec<Channel>>,
    /// Channels for which a SUBSCRIBE was sent. At most one command per channel is in flight, so
    /// that a confirmation is unambiguous.
    pub(super) subscriptions: HashMap<Channel, Phase>,
    pub(super) unconfirmed: VecDeque<PendingCommand>,
    /// The node's own Redis channels whose SUBSCRIBE is not answered yet, in order.
    pub(super) unanswered_node_channels: VecDeque<NodeChannel>,
    /// Queries for the position of the log, in the order of their markers.
    pub(super) queries: VecDeque<BaselineQuery>,
    pub(super) query_count: u64,
    /// Whether events that were missed before this session must still be read. Until then no event
    /// of the log is delivered.
    pub(super) needs_catch_up: bool,
    /// A read of the log that must finish before more input is handled.
    pub(super) task: Option<Pin<Box<dyn Future<Output = TaskResult> + Send>>>,
    /// The command in flight that notes channels with ephemeral events, and the number of channels
    /// of `Known::unnoted` that it covers.
    pub(super) note: Option<(usize, NoteFuture)>,
    /// Whether a note failed; the next one waits for the next probe.
    pub(super) note_paused: bool,
    pub(super) probe: Probe,
}

pub(super) type NoteFuture = Pin<Box<dyn Future<Output = RedisResult<()>> + Send>>;

/// The phase of a channel's subscription.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Subscribing,
    /// Redis sends its messages; the point of the log at which they start is not known yet.
    Subscribed,
    /// The hub has its baseline, and its messages are delivered.
    Synced,
    Unsubscribing,
}

/// A Redis channel that belongs to the node.
pub(super) enum NodeChannel {
    Probe,
    Revocations,
}

/// A SUBSCRIBE or UNSUBSCRIBE that is not fully confirmed.
pub(super) struct PendingCommand {
    /// Empty for a Redis channel that belongs to the node.
    pub(super) channels: Vec<Channel>,
    pub(super) is_subscribe: bool,
    pub(super) confirmations_left: usize,
}

/// A query for the position of the log and the baselines of channels.
pub(super) struct BaselineQuery {
    pub(super) marker: String,
    pub(super) channels: Vec<Channel>,
    pub(super) answer: Option<oneshot::Receiver<RedisResult<LogState>>>,
    pub(super) state: Option<LogState>,
}

/// The result of the read that the input waited for.
pub(super) enum TaskResult {
    Answered(Vec<Channel>, RedisResult<LogState>),
    CaughtUp(LogState, RedisResult<CatchUp>),
    Healed { channel: Channel, event: Event, headers: LogHeaders, missed: RedisResult<CatchUp> },
}

/// Why a session ended.
pub(crate) enum SessionEnd {
    Closed,
    Io(io::Error),
    Protocol(Error),
    ProbeTimeout(&'static str),
    Log(RedisError),
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        connection: Box<dyn Connection>,
        node: &'a Node,
        known: &'a mut Known,
    ) -> Self {
        let (reader, writer) = tokio::io::split(connection);
        let needs_catch_up = known.epoch.is_some() && node.wanted.log_mode() != LogMode::Denied;
        Self {
            reader,
            writer,
            node,
            known,
            input: BytesMut::with_capacity(READ_BYTES),
            output: BytesMut::new(),
            pending_batches: VecDeque::new(),
            subscriptions: HashMap::new(),
            unconfirmed: VecDeque::new(),
            unanswered_node_channels: VecDeque::new(),
            queries: VecDeque::new(),
            query_count: 0,
            needs_catch_up,
            task: None,
            note: None,
            note_paused: false,
            probe: Probe::new(node.commands.clone()),
        }
    }
}

impl fmt::Display for SessionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("Redis closed it"),
            Self::Io(error) => write!(f, "{error}"),
            Self::Protocol(error) => write!(f, "{error}"),
            Self::ProbeTimeout(why) => f.write_str(why),
            Self::Log(error) => write!(f, "missed events cannot be read: {error}"),
        }
    }
}
