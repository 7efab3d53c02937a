//! The state of a session. Look here for the phases of a channel, and for what the session waits
//! for.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;

use bytes::BytesMut;
use headwater_core::broker::Baseline;
use headwater_core::log::Epoch;
use headwater_core::{Channel, Error};
use redis::RedisResult;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::query::{Answer, Queries};
use crate::connect::Connection;
use crate::keys;
use crate::limits::SESSION_TICK;
use crate::node::{Carried, Node};

/// The size of one read, and of the buffer that is retained between messages.
pub(super) const READ_BYTES: usize = 64 << 10;

/// A subscriber connection and its state.
pub(crate) struct Session<'a> {
    pub(super) reader: ReadHalf<Box<dyn Connection>>,
    pub(super) writer: WriteHalf<Box<dyn Connection>>,
    pub(super) node: &'a Node,
    pub(super) carried: &'a mut Carried,
    pub(super) input: BytesMut,
    pub(super) output: BytesMut,
    /// When bytes arrived last: any of them show that the connection works.
    pub(super) last_input: Instant,
    /// Channels to subscribe or unsubscribe, as the hub wants then, in batches that fit one
    /// command.
    pub(super) pending_batches: VecDeque<Vec<Channel>>,
    /// Channels for which a SUBSCRIBE was sent. At most one command per channel is in flight, so
    /// that a confirmation is unambiguous.
    pub(super) subscriptions: HashMap<Channel, Phase>,
    pub(super) unconfirmed: VecDeque<PendingCommand>,
    /// The node's own Redis channels whose SUBSCRIBE is not answered yet, in order.
    pub(super) unanswered_node_channels: VecDeque<NodeChannel>,
    /// What Redis has refused in this session.
    pub(super) refused: Refused,
    /// The Redis channel on which this session sends markers to itself.
    pub(super) marker_channel: String,
    /// Queries for the position of the log.
    pub(super) queries: Queries,
    pub(super) answers: mpsc::UnboundedReceiver<(u64, RedisResult<Answer>)>,
    /// The last events of channels that have no baseline in this session yet, which were not passed
    /// on.
    pub(super) held: HashMap<Channel, Held>,
    /// Set until the channels that the hub knows are restored.
    pub(super) restore: Option<Restore>,
    /// The epoch of what arrived last.
    pub(super) epoch: Option<Epoch>,
    /// The epoch in which all known channels with ephemeral events were noted.
    pub(super) noted_in: Option<Epoch>,
    /// The command in flight that notes channels with ephemeral events, and these channels.
    pub(super) note: Option<(Vec<Channel>, NoteFuture)>,
    /// Whether a note failed; the next one waits for the next tick.
    pub(super) note_paused: bool,
    /// Whether the last note failed.
    pub(super) note_failed: bool,
    /// Whether a probe for those that wait for the log failed; the next waits for the next tick.
    pub(super) waiters_paused: bool,
    pub(super) ticks: Interval,
    pub(super) ticked_at: Instant,
    /// When the last probe was sent.
    pub(super) probed_at: Option<Instant>,
    /// When the newest probe that has returned was sent.
    pub(super) returned_probe_at: Option<Instant>,
}

pub(super) type NoteFuture = Pin<Box<dyn Future<Output = RedisResult<()>> + Send>>;

/// The phase of a channel's subscription.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Subscribing,
    /// Redis sends its messages; the point of the log at which they start is not known yet.
    Subscribed,
    /// Its messages are delivered, and the hub needs a new baseline: it removed the channel and
    /// added it again, or the log was reset.
    Renewed,
    /// The hub has its baseline, and its messages are delivered.
    Synced,
    Unsubscribing,
}

/// An event that was not passed on.
#[derive(Clone, Copy)]
pub(super) struct Held {
    pub(super) epoch: Epoch,
    pub(super) offset: u64,
    pub(super) end: bool,
}

/// Subscriptions that Redis has refused. They are tried again: its ACL may change, and a script
/// that blocks it ends.
#[derive(Default)]
pub(super) struct Refused {
    pub(super) channels: HashSet<Channel>,
    pub(super) node_channels: Vec<NodeChannel>,
    /// When they were tried last.
    pub(super) tried_at: Option<Instant>,
}

/// A Redis channel that belongs to the node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum NodeChannel {
    Markers,
    Revocations,
}

/// A SUBSCRIBE or UNSUBSCRIBE that is not fully confirmed.
pub(super) struct PendingCommand {
    /// Empty for a Redis channel that belongs to the node.
    pub(super) channels: Vec<Channel>,
    pub(super) is_subscribe: bool,
    pub(super) confirmations_left: usize,
    pub(super) sent_at: Instant,
}

/// A restore that is not finished.
pub(super) struct Restore {
    /// Counts the attempts, so that late answers of an earlier one are ignored.
    pub(super) number: u64,
    /// The channels that Redis has neither confirmed nor denied.
    pub(super) unconfirmed: HashSet<Channel>,
    pub(super) channels: Vec<Channel>,
    pub(super) baselines: Vec<(Channel, Baseline)>,
    /// The epoch of these baselines.
    pub(super) epoch: Option<Epoch>,
    /// The queries that are not complete; `None` if they are not sent.
    pub(super) queries_left: Option<usize>,
    /// Whether the log was reset shortly before the connection was lost.
    pub(super) may_lack_notes: bool,
}

/// Why a session ended.
#[derive(Debug)]
pub(crate) enum SessionEnd {
    Closed,
    Io(io::Error),
    Protocol(Error),
    /// A marker was published, or a confirmation was due, and did not arrive, and nothing else did.
    Silent,
    /// Probes return, and a command that was sent before them is not confirmed.
    Unconfirmed,
    /// A marker was published and reached no subscriber.
    Unsubscribed,
    /// The permissions of the Redis user changed.
    LogMode,
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        connection: Box<dyn Connection>,
        node: &'a Node,
        carried: &'a mut Carried,
    ) -> Self {
        let (reader, writer) = tokio::io::split(connection);
        let (queries, answers) = Queries::new();
        let mut ticks = interval(SESSION_TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            reader,
            writer,
            node,
            carried,
            input: BytesMut::with_capacity(READ_BYTES),
            output: BytesMut::new(),
            last_input: Instant::now(),
            pending_batches: VecDeque::new(),
            subscriptions: HashMap::new(),
            unconfirmed: VecDeque::new(),
            unanswered_node_channels: VecDeque::new(),
            refused: Refused::default(),
            marker_channel: keys::probe(fastrand::u64(..)),
            queries,
            answers,
            held: HashMap::new(),
            restore: None,
            epoch: None,
            noted_in: None,
            note: None,
            note_paused: false,
            note_failed: false,
            waiters_paused: false,
            ticks,
            ticked_at: Instant::now(),
            probed_at: None,
            returned_probe_at: None,
        }
    }
}

impl fmt::Display for SessionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("Redis closed it"),
            Self::Io(error) => write!(f, "{error}"),
            Self::Protocol(error) => write!(f, "{error}"),
            Self::Silent => f.write_str("nothing arrives, although an answer or a probe is due"),
            Self::Unconfirmed => f.write_str("Redis does not receive what is sent over it"),
            Self::Unsubscribed => f.write_str("Redis no longer knows this subscriber"),
            Self::LogMode => f.write_str("the permissions of the Redis user changed"),
        }
    }
}
