//! The load generator of `headwater bench`, and the floor that servers are compared with.
//!
//! **An internal part of headwater-server, published only because that crate needs it. Its API is
//! exempt from semantic versioning.**
//!
//! From the bottom up: `stamp` (what events carry), `framing` and `scanner` (parsing streams),
//! `window` (which events a stream has received), `worker` (a process with streams), `generator`
//! (all processes), `publisher`, `process` (processor time and memory), `session` (the steps of a
//! measurement), `report`. `run` is `headwater bench`; `floor` is the smallest server.
//!
//! The generator must cost much less than what it measures: a stream is an entry of a list, one
//! loop reads all sockets of a process, and an event is counted where it is read, without being
//! stored.
#![expect(clippy::cast_precision_loss, reason = "figures for people do not need 53 bits")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates and rounded figures are small and positive"
)]

mod control;
mod error;
pub mod floor;
mod framing;
pub mod generator;
pub mod limits;
pub mod options;
pub mod process;
pub mod publisher;
pub mod report;
pub mod run;
mod scanner;
pub mod server;
pub mod session;
mod socket;
mod stamp;
pub mod target;
mod window;
pub mod worker;

pub use error::Error;
