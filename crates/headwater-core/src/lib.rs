//! The core of [Headwater]: Server-Sent Events, the event log, the broker contract and the fan-out
//! of a node. It knows no HTTP, no sockets, and no broker beyond the embedded one.
//!
//! Applications add the crate `headwater`, which re-exports what they need from here. Depend on
//! this crate alone to write a [`Broker`](broker::Broker), or to encode and decode events without a
//! server.
//!
//! # Glossary
//!
//! Each word has one meaning, here, in the documentation and in the logs.
//!
//! - **channel**: a name to publish and subscribe to; a [`Channel`].
//! - **event**: what a publisher sends: data and, optionally, a name, an id and a retry; an
//!   [`Event`].
//! - **frame**: an event encoded once, immutable, shared by every stream that receives it; a
//!   [`Frame`](frame::Frame).
//! - **log**: the retained events of all channels, in one sequence. **epoch**: identifies a log
//!   until it loses its data; then a new epoch starts.
//! - **position**: the place of an event in a log: epoch and offset; a [`Position`](log::Position).
//!   Clients see it as the event's id.
//! - **ephemeral event**: an event that no log retains, such as one that another program publishes
//!   through the broker. Each node numbers these itself.
//! - **gap**: events that a stream should have received and that are no longer available; a
//!   [`Gap`](gap::Gap).
//! - **stream**: one client's open response. **subscription**: a stream's set of channels, a
//!   [`Subscription`].
//! - **broker**: carries events between nodes; a [`Broker`](broker::Broker). **node**: one process.
//!   **hub**: the fan-out of a node; a [`Hub`].
//! - **ring**: the recent frames of a channel, in memory. **backfill**: filling a ring from the
//!   broker's history.
//! - **shard**: a thread that owns the sockets of its share of the streams. **mailbox**: the queue
//!   from the hub to a shard.
//! - **linger**: how long a channel stays subscribed in the broker after its last subscriber left.
//! - **drain**: closing all streams in an orderly way; [`Hub::drain`].
//! - **baseline**: the last offset of a channel in the log when its events start to arrive.
//!
//! # The path of an event
//!
//! There is one path, also on a single node with the embedded broker. [`Hub::publish`] passes the
//! event to the broker. The broker passes it to the hub of every node that subscribes to the
//! channel. The hub encodes it once and adds the frame to the queue of each subscription, and as
//! one message to the mailbox of each shard. Queues are bounded: a client that does not keep up is
//! disconnected with [`CloseReason::Overflow`](close::CloseReason) and affects no other client.
//!
//! # Map
//!
//! Imports run from the bottom of this table to its top; `cargo xtask tidy` holds that.
//!
//! | modules | contents |
//! |---|---|
//! | [`limits`], [`Error`], [`clock`] | bounds with their reasons, the error type, time |
//! | [`budget`] | the memory of a node, and its shares |
//! | [`channel`], [`pattern`], [`event`], [`sse`] | checked values; encoder and decoder |
//! | [`log`], [`gap`] | positions and retention; what is missing |
//! | [`close`], [`revocation`] | why a stream closed; what is revoked |
//! | [`publish`] | ends, idempotency keys, receipts |
//! | [`frame`] | an event encoded once |
//! | `stream` | queues from the hub to a stream or a shard |
//! | [`broker`] | the contract of a broker |
//! | [`memory`] | the embedded broker, and its log on disk |
//! | [`hub`] | fan-out, replay, revocation, subscriptions |
//! | [`testing`] | the contract suite for brokers (feature `testing`) |
//!
//! # Cancel safety
//!
//! Every future of this crate may be dropped at any time. [`Subscription::next`],
//! [`Subscription::ready`] and [`Hub::drained`] lose nothing. A dropped [`Hub::publish`] has
//! published the event or has not; a dropped [`Hub::publish_all`] has published all of its events,
//! some, or none. Dropping a [`Subscription`] unsubscribes.
//!
//! # Features
//!
//! | feature | default | contents |
//! |---|---|---|
//! | `hub` | yes | the log, brokers and the hub; without it: channels, events, encoder, decoder |
//! | `testing` | no | [`testing`] |
//!
//! [Headwater]: https://docs.rs/headwater

pub mod channel;
pub mod event;
pub mod limits;
pub mod sse;

mod error;

#[cfg(feature = "hub")]
pub mod broker;
#[cfg(feature = "hub")]
pub mod budget;
#[cfg(feature = "hub")]
pub mod clock;
#[cfg(feature = "hub")]
pub mod close;
#[cfg(feature = "hub")]
mod counter;
#[cfg(feature = "hub")]
pub mod frame;
#[cfg(feature = "hub")]
pub mod gap;
#[cfg(feature = "hub")]
pub mod hub;
#[cfg(feature = "hub")]
pub mod log;
#[cfg(feature = "hub")]
pub mod memory;
#[cfg(feature = "hub")]
pub mod pattern;
#[cfg(feature = "hub")]
#[doc(hidden)]
pub mod private_file;
#[cfg(feature = "hub")]
pub mod publish;
#[cfg(feature = "hub")]
#[doc(hidden)]
pub mod quantity;
#[cfg(feature = "hub")]
pub mod revocation;
#[cfg(feature = "hub")]
mod stream;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "hub")]
#[doc(hidden)]
pub mod transport;

pub use channel::Channel;
pub use error::{Error, ErrorKind};
pub use event::Event;
#[cfg(feature = "hub")]
pub use hub::{Hub, HubBuilder, Rewind, Started, Subscription};
#[cfg(feature = "hub")]
pub use publish::{Publish, Receipt};
