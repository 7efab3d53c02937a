//! Headwater pushes events to browsers: a program publishes to a channel, and every client that listens to
//! that channel over Server-Sent Events gets the event. For [axum], over Redis Pub/Sub or, on one node,
//! over a broker in the process.
//!
//! ```no_run
//! use axum::{Router, extract::State, routing::get, routing::post};
//! use headwater::{Channel, Event, EventSourceResponse, Hub, Problem};
//!
//! async fn events(State(hub): State<Hub>) -> Result<EventSourceResponse, Problem> {
//!     Ok(EventSourceResponse::new(hub.subscribe([Channel::new("news")?])?))
//! }
//!
//! async fn publish(State(hub): State<Hub>, data: String) -> Result<(), Problem> {
//!     hub.publish(&Channel::new("news")?, Event::new(data)).await?;
//!     Ok(())
//! }
//!
//! #[tokio::main]
//! async fn main() -> std::io::Result<()> {
//!     let app = Router::new().route("/events", get(events)).route("/publish", post(publish));
//!     let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8000".into());
//!     let listener = tokio::net::TcpListener::bind(address).await?;
//!     headwater::serve(listener, app.with_state(Hub::in_memory())).await
//! }
//! ```
//! In a page, `new EventSource("/events").onmessage = ({ data }) => console.log(data)` is the other side.
//!
//! With Redis, the hub is made of a [`RedisBroker`]; nothing else changes, and a plain `PUBLISH news hello`
//! from any program reaches the browsers too:
//!
//! ```no_run
//! # #[cfg(feature = "redis")]
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), headwater::Error> {
//! use headwater::{Hub, RedisBroker};
//!
//! let hub = Hub::new(RedisBroker::connect("redis://127.0.0.1:6379")?);
//! # Ok(()) }
//! # #[cfg(not(feature = "redis"))] fn main() {}
//! ```
//!
//! # Words
//!
//! Each has one meaning, here and in the logs.
//!
//! - **channel**: a name to publish to and to listen on; a [`Channel`].
//! - **event**: what a publisher sends: data, and optionally a name, an id, a retry; an [`Event`].
//! - **frame**: an event encoded once, immutable, shared by every stream that gets it; a [`Frame`].
//! - **position**: the place of an event in a log, epoch and offset; a [`Position`]. Clients see it as the
//!   event's id.
//! - **gap**: events that a stream should have had and cannot get; a [`Gap`].
//! - **stream**: one client's open response, an [`EventSourceResponse`]. **subscription**: a stream's
//!   interest in channels, a [`Subscription`].
//! - **broker**: carries events between nodes; a [`Broker`]. **node**: one process. **hub**: the fan-out
//!   in a node, a [`Hub`].
//! - **shard**: a thread of the engine that owns the sockets of its share of the streams. **outbox**: what a
//!   socket has not taken yet. **mailbox**: what the hub tells a shard.
//! - **linger**: how long a channel stays subscribed in the broker after its last listener left.
//! - **drain**: ending all streams in an orderly way; [`Hub::drain`].
//! - **closed**: why a stream ended; a [`CloseReason`].
//!
//! # The road of an event
//!
//! There is one, also on one node and without Redis: [`Hub::publish`] gives the event to the broker, the
//! broker gives it to the hub of every node that listens to the channel, the hub encodes it once and puts
//! the frame into the queue of each subscription, or one message into the mailbox of each shard of the
//! engine. Queues and outboxes are bounded: a client that does not keep up loses its stream, with
//! [`CloseReason::Overflow`] or [`CloseReason::Stalled`], and costs the others nothing. On channels of
//! [`HubBuilder::latest_only`] it gets the newest event instead.
//!
//! # Coming back
//!
//! Brokers keep a history of every channel, within its [retention](RetentionRules). A stream begins now; or
//! after the event that a client got last, with [`Subscription::after`]; or earlier, with
//! [`Subscription::rewind`]. What it missed comes first, in order, then what is live, with no gap and no
//! duplicate where they meet. What is kept no more is announced by a frame with a [`Gap`].
//!
//! ```
//! # use axum::extract::State;
//! use headwater::{Channel, EventSourceResponse, Hub, LastEventId, Problem, Rewind};
//!
//! async fn events(
//!     State(hub): State<Hub>,
//!     LastEventId(last_event_id): LastEventId,
//! ) -> Result<EventSourceResponse, Problem> {
//!     let subscription = hub.subscribe([Channel::new("news")?])?;
//!     let mut subscription = match last_event_id {
//!         None => subscription.rewind(Rewind::Events(10)),
//!         id => subscription.after(id),
//!     };
//!     subscription.ready().await; // if the channel has ended, the answer is 204
//!     Ok(EventSourceResponse::new(subscription))
//! }
//! ```
//!
//! A publisher ends a channel with [`Publish::end`], and repeats itself safely with [`Publish::key`].
//!
//! # Map
//!
//! | look for | in |
//! |---|---|
//! | names, data and their rules | [`Channel`], [`Event`], [`EventName`], [`EventId`] |
//! | reading a stream | [`Decoder`], [`Item`], [`Message`] |
//! | publishing, subscribing, counts, drain | [`Hub`], [`HubBuilder`], [`Subscription`], [`HubStats`] |
//! | what carries events | [`Broker`] and its contract, [`MemoryBroker`], [`RedisBroker`] |
//! | the response, heartbeats, timeouts, `on_close` | [`EventSourceResponse`], [`Heartbeat`], [`Problem`] |
//! | where a client left off, beginning earlier | [`LastEventId`], [`Position`], [`Rewind`] |
//! | what is missing | [`Gap`], [`GapReason`], [`GAP_EVENT`] |
//! | ends, idempotency keys | [`Publish`], [`IdempotencyKey`] |
//! | how much is kept; sets of channels | [`Retention`], [`RetentionRules`], [`ChannelPatterns`] |
//! | serving with limits that streams need | [`serve()`], [`ShardStats`] |
//! | every bound, with its reason | [`limits`] |
//! | who may do what, ending streams of others | [`Authorize`], [`AccessRequest`], [`Decision`], [`Hub::revoke`] |
//! | tests of your own handlers | [`testing`] |
//!
//! [`EventSourceResponse`] works under any server for axum. [`serve()`] does what `axum::serve` does, bounds
//! connections, headers and writes that make no progress, and has an engine for streams over HTTP/1.1: a
//! few threads own all their sockets.
//!
//! # Features
//!
//! | feature | default | what it brings |
//! |---|---|---|
//! | `redis` | yes | [`RedisBroker`]: Redis 6.2 or newer, or Valkey |
//! | `tls` | no | [`Serve::tls`], for rustls 0.23 with any crypto provider |
//! | `testing` | no | [`testing`]: a strict client for any axum router, without a network |
//!
//! # Cancel safety
//!
//! A future of this crate may be dropped at any time. [`Subscription::next`], [`Subscription::ready`]
//! and [`Hub::drained`] lose nothing by it. A [`Hub::publish`] that is dropped before it resolves has published
//! the event or has not, and a [`Hub::publish_all`] all of its events, a part of them, or none.
//! Dropping a [`Subscription`] or a response unsubscribes.
//!
//! # What it does not do
//!
//! - It keeps no events for ever: a history is bounded by count, age and bytes. What must be there next
//!   year belongs into a database.
//! - It gives no place in the log to what other programs publish with a plain `PUBLISH`. Each node numbers
//!   such events for itself; a client that comes back to another node cannot resume from them.
//! - It does not know who may listen or publish: an [`Authorize`] of yours does, and handlers that ask
//!   none are open.
//! - It reads no certificates: TLS takes a configuration of rustls, made by you.
//! - Carriage returns do not survive: the format has only lines, and a client gets LF for CR and CRLF.
//!   Data that is not text must be encoded, for example with [`Event::json`].
//!
//! [axum]: axum

pub mod limits;
#[doc(hidden)]
pub mod quantity;

mod authorize;
mod broker;
mod channel;
mod close;
mod error;
mod event;
mod frame;
mod gap;
mod hub;
mod last_event_id;
mod pattern;
mod position;
mod problem;
mod publish;
mod response;
mod retention;
mod revocation;
mod serve;
#[cfg(feature = "testing")]
pub mod testing;

pub use authorize::{AccessRequest, Action, Authorize, Decision, Denied, Grant};
#[cfg(feature = "redis")]
pub use broker::RedisBroker;
pub use broker::{
    Baseline, Broker, BrokerFuture, BrokerStatus, History, LoggedEvent, MemoryBroker, ReadRange,
    Receipt, Sink,
};
pub use channel::Channel;
pub use close::CloseReason;
pub use error::{Error, ErrorKind};
pub use event::{Decoder, Event, EventId, EventName, Item, Message};
pub use frame::Frame;
pub use gap::{GAP_EVENT, Gap, GapReason};
pub use hub::{EndedStreams, Gaps, Hub, HubBuilder, HubStats, Rewind, ShardStats, Subscription};
pub use last_event_id::LastEventId;
pub use pattern::{ChannelPattern, ChannelPatterns};
pub use position::{Epoch, Position};
pub use problem::Problem;
pub use publish::{IdempotencyKey, Publish};
/// The Redis client of [`RedisBroker::connection`], so that handlers use the same version.
#[cfg(feature = "redis")]
pub use redis;
pub use response::{BoxError, EventSourceResponse, Heartbeat, StreamItem};
pub use retention::{Retention, RetentionRules};
pub use revocation::Revocation;
// For its fuzz target.
#[doc(hidden)]
pub use serve::{ProxyHeader, ProxyHeaderError, ProxyHeaderProgress};
pub use serve::{Serve, ServeCounts, serve};
