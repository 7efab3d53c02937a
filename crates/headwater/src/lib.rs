//! Headwater pushes events to browsers: a program publishes to a channel, and every client that is
//! subscribed to it over Server-Sent Events receives the event. For [axum], over Redis Pub/Sub or,
//! on a single node, over an embedded broker.
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
//! In a page, subscribe with
//! `new EventSource("/events").onmessage = ({ data }) => console.log(data)`.
//!
//! With Redis (feature `redis`), the hub uses a `RedisBroker`. Nothing else changes, and a plain
//! `PUBLISH news hello` from any program reaches browsers too:
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
//! The words of this documentation are defined in the crate `headwater_core`, which holds
//! everything that needs no HTTP: see its [glossary](headwater_core#glossary).
//!
//! # Resuming
//!
//! Brokers retain a history of every channel, within its [retention](log::RetentionRules). A stream
//! starts now; or after the last event that a client received, with [`Subscription::after`]; or
//! earlier, with [`Subscription::rewind`]. Missed events come first, in order, then live ones,
//! without a gap or a duplicate in between. What is no longer retained is reported by a frame with
//! a [`Gap`](stream::Gap).
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
//!     subscription.ready().await; // if the channel has ended, the response is 204
//!     Ok(EventSourceResponse::new(subscription))
//! }
//! ```
//!
//! A publisher ends a channel with [`Publish::with_end`], and repeats a publish safely with
//! [`Publish::with_key`].
//!
//! # Map
//!
//! The names that most programs use are at the root; everything else is in a module.
//!
//! | to | see |
//! |---|---|
//! | publish and subscribe | [`Hub`], [`HubBuilder`], [`Subscription`], [`Publish`], [`Receipt`] |
//! | build and decode events | [`Channel`], [`Event`], [`event`], [`channel`] |
//! | answer a request with a stream | [`EventSourceResponse`], [`response`] |
//! | resume and rewind | [`LastEventId`], [`Rewind`], [`log`] |
//! | read frames, gaps and close reasons | [`stream`] |
//! | serve with limits that streams need | [`serve()`], [`mod@serve`] |
//! | return errors | [`Problem`], [`Error`], [`ErrorKind`] |
//! | authorize clients, revoke access | [`access`] |
//! | count | [`hub`] |
//! | carry events in another way | [`broker`], and `testing::suite` |
//! | know a bound | [`limits`] |
//! | test handlers | `testing` |
//!
//! [`EventSourceResponse`] works under any server for axum. [`serve()`] does what `axum::serve`
//! does, bounds connections, headers and writes that make no progress, and has an engine for
//! streams over HTTP/1.1: a few threads own all their sockets.
//!
//! # Features
//!
//! | feature | default | contents |
//! |---|---|---|
//! | `serve` | yes | [`serve()`] and its engine |
//! | `tls` | no | `Serve::tls`, for rustls 0.23 with any crypto provider |
//! | `redis` | no | `RedisBroker`: Redis 6.2 or newer, or Valkey |
//! | `redis-tls` | no | `rediss://`, with rustls' default crypto provider |
//! | `testing` | no | `testing`: a strict client for any axum router, and the contract suite for brokers |
//!
//! # Cancel safety
//!
//! Every future of this crate may be dropped at any time; `headwater_core` documents the effect.
//!
//! # What it does not do
//!
//! - It does not retain events indefinitely: a history is bounded by count, age and bytes. Store in
//!   a database what must be there next year.
//! - It assigns no position in the log to what other programs publish with a plain `PUBLISH`. Each
//!   node numbers such events itself; a client that reconnects to another node cannot resume from
//!   them.
//! - It does not know who may subscribe or publish: your [`Authorize`](access::Authorize) does, and
//!   handlers that do not call it are open.
//! - It reads no certificates: TLS takes a rustls configuration that you build.
//! - Carriage returns do not survive: the format has only lines, and clients receive LF for CR and
//!   CRLF. Encode data that is not text, for example with [`Event::json`].
//!
//! [axum]: https://docs.rs/axum

pub mod access;
pub mod limits;
pub mod response;
#[cfg(feature = "serve")]
pub mod serve;
#[cfg(feature = "testing")]
pub mod testing;

#[cfg(feature = "serve")]
mod engine;
mod last_event_id;
mod problem;
#[cfg(feature = "serve")]
mod throttled_log;

/// Carrying events between nodes: the contract, and the embedded broker.
pub mod broker {
    pub use headwater_core::broker::{
        Baseline, Broker, BrokerFuture, BrokerStatus, History, LoggedEvent, Part, ReadRange, Sink,
    };
    pub use headwater_core::memory::MemoryBroker;
}

/// The memory that a node may keep, and its shares.
pub mod budget {
    pub use headwater_core::budget::{Account, Budget, Share, Taken};
}

/// Names to publish and subscribe to, and sets of them.
pub mod channel {
    pub use headwater_core::channel::Channel;
    pub use headwater_core::pattern::{ChannelPattern, ChannelPatterns};
}

/// Events and their checked parts; decoding a stream.
pub mod event {
    pub use headwater_core::event::{Event, EventId, EventName};
    pub use headwater_core::publish::IdempotencyKey;
    pub use headwater_core::sse::{Decoder, Item, Message};
}

/// The fan-out, and what it counts.
pub mod hub {
    pub use headwater_core::hub::{EndedStreams, Gaps, Hub, HubBuilder, HubStats, ShardStats};
}

/// The event log: positions and retention.
pub mod log {
    pub use headwater_core::log::{Epoch, Position, Retention, RetentionRules};
}

/// The broker over Redis.
#[cfg(feature = "redis")]
pub mod redis {
    pub use headwater_redis::{RedisBroker, RedisConnection, client, limits};
}

/// What a stream delivers, and why it closes.
pub mod stream {
    pub use headwater_core::Started;
    pub use headwater_core::close::CloseReason;
    pub use headwater_core::frame::Frame;
    pub use headwater_core::gap::{GAP_EVENT, Gap, GapReason};
}

pub use headwater_core::{
    Channel, Error, ErrorKind, Event, Hub, HubBuilder, Publish, Receipt, Rewind, Subscription,
};
#[doc(hidden)]
pub use headwater_core::{private_file, quantity};
#[cfg(feature = "redis")]
pub use headwater_redis::RedisBroker;
pub use last_event_id::LastEventId;
pub use problem::Problem;
pub use response::EventSourceResponse;
#[cfg(feature = "serve")]
pub use serve::serve;
