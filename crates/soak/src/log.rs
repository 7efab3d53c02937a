//! The log of one client: what it did and received, line by line. Look here for the format of a log
//! file.

use std::fmt;

/// The protocol of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 over a raw socket.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// An entry of a client's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A stream opened: its first bytes have arrived.
    Opened {
        /// The node.
        node: usize,
        /// The last event id that the client sent.
        resumed_from: Option<String>,
        /// The highest number assigned in each of the client's channels at that moment.
        begun: Vec<u64>,
    },
    /// An event of the checker.
    Event {
        /// The channel, by index.
        channel: usize,
        /// The event's number in the channel.
        number: u64,
        /// The event's id.
        id: String,
    },
    /// A gap event: events are missing.
    Gap {
        /// The channel, by index.
        channel: usize,
        /// The reason in the gap event.
        reason: String,
    },
    /// The client dropped the connection.
    Dropped,
    /// The server ended the stream, or the connection broke.
    Ended(&'static str),
    /// A stream was rejected with this status.
    Rejected(u16),
    /// Something that does not belong on the stream.
    Alien(String),
}

/// An entry and its time.
#[derive(Debug, Clone)]
pub struct Line {
    /// Milliseconds since the start of the round.
    pub at_ms: u32,
    /// The entry.
    pub entry: Entry,
}

/// The whole log of a client.
#[derive(Debug, Clone)]
pub struct ClientLog {
    /// The client's name in reports.
    pub name: String,
    /// The channels that the client subscribes to, by index.
    pub channels: Vec<usize>,
    /// The lines, in order.
    pub lines: Vec<Line>,
    /// Whether the client left for good before the end: nothing must arrive after its last event.
    pub left: bool,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        })
    }
}

impl Line {
    /// The line as text.
    pub fn shown(&self, names: &dyn Fn(usize) -> String) -> String {
        let what = match &self.entry {
            Entry::Opened { node, resumed_from: None, begun } => {
                format!("open   on node {node}, live (highest numbers: {})", listed(begun))
            }
            Entry::Opened { node, resumed_from: Some(id), .. } => {
                format!("open   on node {node}, resuming from {id}")
            }
            Entry::Event { channel, number, id } => {
                format!("event  {} {number}  id {id}", names(*channel))
            }
            Entry::Gap { channel, reason } => format!("GAP    {} ({reason})", names(*channel)),
            Entry::Dropped => "drop   by the client".to_owned(),
            Entry::Ended(how) => format!("end    {how}"),
            Entry::Rejected(status) => format!("REJECTED with {status}"),
            Entry::Alien(what) => format!("ALIEN  {what}"),
        };
        format!("{:>7} ms  {what}", self.at_ms)
    }
}

fn listed(numbers: &[u64]) -> String {
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}
