//! The groups of measures, and which contenders take part. Look here to add one; `scene` has the
//! work.

use crate::contender::Contender;

/// The measures taken on one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Group {
    /// Many streams on one channel, published to over HTTP: opening, delivering, flooding
    Fanout,
    /// The same, published with Redis PUBLISH
    Redis,
    /// Many channels with one stream each, through Redis
    Channels,
    /// Memory of streams on one channel, and on a channel each
    Memory,
    /// Several processes on one Redis
    Nodes,
    /// Closing and reopening all streams repeatedly
    Reopen,
}

impl Group {
    /// The name on the command line and in the results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fanout => "fanout",
            Self::Redis => "redis",
            Self::Channels => "channels",
            Self::Memory => "memory",
            Self::Nodes => "nodes",
            Self::Reopen => "reopen",
        }
    }

    /// Rounds, at most. The last two groups take long, and show whether it works more than what it
    /// costs.
    pub(crate) fn rounds_max(self) -> u16 {
        match self {
            Self::Fanout | Self::Redis | Self::Channels | Self::Memory => u16::MAX,
            Self::Nodes => 1,
            Self::Reopen => 2,
        }
    }

    /// Whether a contender takes part.
    pub(crate) fn has(self, contender: Contender) -> bool {
        use Contender::{Axum, Fastapi, Floor, Headwater, Nchan};
        match self {
            Self::Fanout => true,
            // nchan and axum do not receive a plain PUBLISH.
            Self::Redis => matches!(contender, Floor | Headwater | Fastapi),
            Self::Channels => matches!(contender, Floor | Headwater),
            // The FastAPI pattern cannot hold as many streams: each takes two descriptors.
            Self::Memory => matches!(contender, Floor | Headwater | Nchan | Axum),
            Self::Nodes => matches!(contender, Headwater),
            Self::Reopen => matches!(contender, Floor | Headwater),
        }
    }
}
