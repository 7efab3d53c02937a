//! The interface between the hub and a transport: everything that is public but not meant for
//! users. **Exempt from semantic versioning**: only the crate `headwater` of the same version uses
//! it.

pub use crate::counter::Counter;
pub use crate::frame::Published;
pub use crate::hub::shard_port::{HubRef, ShardPort};
pub use crate::log::{Cursor, Key};
pub use crate::sse::encode;
pub use crate::stream::backlog::{Backlog, Offer};
pub use crate::stream::envelope::{Framing, opening};
pub use crate::stream::mailbox::{
    Attachment, ChannelSlot, Counts, Joined, Mailbox, Message, Missed, ReplayFrom, Revoked,
    StartReplay, StreamStart,
};
pub use crate::stream::pace::Pace;
pub use crate::stream::progress::Progress;
pub use crate::stream::schedule::{Due, Intervals, Tick, ticks};
pub use crate::stream::state::{Ending, StreamState};
pub use crate::stream::waiting::{Overflow, WaitingBounds};
