//! Headwater, the library.

pub mod limits;

mod broker;
mod channel;
mod closed;
mod error;
mod event;
mod frame;
mod hub;
mod last_event_id;
mod response;
mod serve;
#[cfg(feature = "testing")]
pub mod testing;

#[cfg(feature = "redis")]
pub use broker::RedisBroker;
pub use broker::{Broker, BrokerFuture, Health, MemoryBroker, Receipt, Sink};
pub use channel::Channel;
pub use closed::Closed;
pub use error::{Error, ErrorKind};
pub use event::{Decoder, Event, EventId, EventName, Item, Message};
pub use frame::Frame;
pub use hub::{EndedStreams, Hub, HubBuilder, HubStats, Subscription};
pub use last_event_id::LastEventId;
pub use response::{BoxError, ErrorResponse, EventSourceResponse, Heartbeat, StreamItem};
pub use serve::{Serve, serve};
