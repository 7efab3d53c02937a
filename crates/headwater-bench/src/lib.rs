//! The load generator of `headwater bench`, the floor that ratios are made to, and the comparison with others.
//!
//! From the bottom up: `stamp` (what events carry), `framing` and `scanner` (reading streams), `window` (what was
//! seen), `worker` (a process with streams), `generator` (all of them), `publisher`, `process` (processor time and
//! memory), `session` (the order of a measurement), `report`. `run` is `headwater bench`; `floor` is the smallest
//! server. The comparison with others is the program in `bin/compare`.
//!
//! The generator must be much cheaper than what it measures: a stream is an entry of a list, one loop reads all
//! sockets of a process, and an event is counted where it was read, without being kept.
#![expect(clippy::cast_precision_loss, reason = "figures for people need no 53 bits")]
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
