//! The interface between the hub and a transport: everything that is public but not meant for
//! users. **Exempt from semantic versioning**: only the crate `headwater` of the same version uses
//! it.

pub use crate::counter::Counter;
pub use crate::frame::Published;
pub use crate::hub::shard_port::{HubRef, ShardPort};
pub use crate::log::{Cursor, Key};
pub use crate::sse::encode;
pub use crate::stream::mailbox::{
    Attachment, ChannelSlot, Counts, Joined, Mailbox, Message, Missed, Progress, ReplayFrom,
    Revoked, StartReplay, StreamStart,
};
pub use crate::stream::slow_client::{WaitingBounds, replaced};
