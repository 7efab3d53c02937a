//! What one client did and got, line by line. Look here for what a log file says.

use std::fmt;

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 over a socket of its own.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// Something that happened to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A stream opened: its first bytes are there.
    Opened {
        /// On which node.
        node: usize,
        /// The last id that the client had, which it sent.
        resumed_from: Option<String>,
        /// The highest number begun in each of the client's channels at that moment.
        begun: Vec<u64>,
    },
    /// An event of the checker.
    Event {
        /// Which of the world's channels.
        channel: usize,
        /// Its number there.
        number: u64,
        /// The id that it came with.
        id: String,
    },
    /// The announcement that events are missing.
    Gap {
        /// In which of the world's channels.
        channel: usize,
        /// The reason that it gives.
        reason: String,
    },
    /// The client dropped the connection.
    Dropped,
    /// The server ended the stream, or the connection broke.
    Ended(&'static str),
    /// A stream was refused with this status.
    Refused(u16),
    /// Something that has no place on the stream.
    Alien(String),
}

/// What happened, and when.
#[derive(Debug, Clone)]
pub struct Line {
    /// In milliseconds since the beginning of the round.
    pub at_ms: u32,
    /// What.
    pub entry: Entry,
}

/// All that happened to a client.
#[derive(Debug, Clone)]
pub struct ClientLog {
    /// What it is called in reports.
    pub name: String,
    /// Which of the world's channels it listens to.
    pub channels: Vec<usize>,
    /// What happened, in order.
    pub lines: Vec<Line>,
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
    /// The line as a person reads it.
    pub fn shown(&self, names: &dyn Fn(usize) -> String) -> String {
        let what = match &self.entry {
            Entry::Opened { node, resumed_from: None, begun } => {
                format!("open   on node {node}, from now on (begun: {begun:?})")
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
            Entry::Refused(status) => format!("REFUSED with {status}"),
            Entry::Alien(what) => format!("ALIEN  {what}"),
        };
        format!("{:>7} ms  {what}", self.at_ms)
    }
}
