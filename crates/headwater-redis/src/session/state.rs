//! A session's state: what was asked on the connection and not answered, and what the input waits for.

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
use crate::envelope::Place;
use crate::history::LogState;
use crate::library::LogMode;
use crate::node::{Known, Node};
use crate::probe::Probe;

/// What one read takes at most, and what the buffer keeps between messages.
pub(super) const READ_BYTES: usize = 64 << 10;

/// A subscriber connection and what is known about it.
pub(crate) struct Session<'a> {
    pub(super) reader: ReadHalf<Box<dyn Connection>>,
    pub(super) writer: WriteHalf<Box<dyn Connection>>,
    pub(super) node: &'a Node,
    pub(super) known: &'a mut Known,
    pub(super) input: BytesMut,
    pub(super) output: BytesMut,
    /// Channels to bring in line with what is wanted, in batches that fit one command.
    pub(super) todo: VecDeque<Vec<Channel>>,
    /// Channels that Redis was asked for. Each has one command on its way at most, so that a
    /// confirmation can only be for that one.
    pub(super) asked: HashMap<Channel, Phase>,
    pub(super) unconfirmed: VecDeque<PendingCommand>,
    /// Redis channels of the node's own that were asked for and not answered, in their order.
    pub(super) own_unanswered: VecDeque<NodeChannel>,
    /// Questions where the log is, in the order of their markers.
    pub(super) queries: VecDeque<BaselineQuery>,
    pub(super) query_count: u64,
    /// Whether what was missed before this session is still to be read; nothing of the log is given
    /// until then.
    pub(super) is_behind: bool,
    /// What the input waits for.
    pub(super) work: Option<Pin<Box<dyn Future<Output = Done> + Send>>>,
    /// The note on its way to Redis that channels get plain events, and how many of `Known::unnoted` it
    /// is for.
    pub(super) noting: Option<(usize, Noting)>,
    /// A note failed; the next one goes out with the next probe.
    pub(super) note_rests: bool,
    pub(super) probe: Probe,
}

pub(super) type Noting = Pin<Box<dyn Future<Output = RedisResult<()>> + Send>>;

/// Where a channel is between asked for and ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Subscribing,
    /// Redis sends its messages, and it is not known yet from where on.
    Subscribed,
    /// Its messages go to the hub.
    Synced,
    Unsubscribing,
}

/// A Redis channel of the node's own.
pub(super) enum NodeChannel {
    Probe,
    Revocations,
}

/// A SUBSCRIBE or UNSUBSCRIBE that is not wholly confirmed.
pub(super) struct PendingCommand {
    /// Empty for a Redis channel of the node's own.
    pub(super) channels: Vec<Channel>,
    pub(super) is_subscribe: bool,
    pub(super) confirmations_left: usize,
}

/// A question where the log is.
pub(super) struct BaselineQuery {
    pub(super) marker: String,
    pub(super) channels: Vec<Channel>,
    pub(super) answer: Option<oneshot::Receiver<RedisResult<LogState>>>,
    pub(super) state: Option<LogState>,
}

/// What the input waited for.
pub(super) enum Done {
    Answered(Vec<Channel>, RedisResult<LogState>),
    CaughtUp(LogState, RedisResult<CatchUp>),
    Healed { channel: Channel, event: Event, place: Place, missed: RedisResult<CatchUp> },
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
        let is_behind = known.epoch.is_some() && node.wanted.log_mode() != LogMode::Denied;
        Self {
            reader,
            writer,
            node,
            known,
            input: BytesMut::with_capacity(READ_BYTES),
            output: BytesMut::new(),
            todo: VecDeque::new(),
            asked: HashMap::new(),
            unconfirmed: VecDeque::new(),
            own_unanswered: VecDeque::new(),
            queries: VecDeque::new(),
            query_count: 0,
            is_behind,
            work: None,
            noting: None,
            note_rests: false,
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
