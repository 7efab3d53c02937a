//! The end-to-end checker. It starts a real Redis and real nodes, publishes numbered events, lets
//! clients drop and come back, breaks things, all by one seed, and then says "lossless" or shows the
//! counterexample.
//!
//! ```text
//! scenario  what to start, who listens, what breaks, what is allowed
//! round     runs one scenario with one seed:
//!   world       Redis, nodes                     faults     what breaks them, and when
//!   publisher   numbers and sends events         ledger     what was sent, and what was acknowledged
//!   client      listens, drops, comes back       log        what it got
//! storm     the one scenario with nothing random in it: everybody comes back at once
//! check     ledger + logs + rules -> counterexamples; no IO, so tests drive it with made-up logs
//! ```

pub mod check;
pub mod client;
pub mod connection;
pub mod counterexample;
pub mod data;
pub mod faults;
pub mod id;
pub mod ledger;
pub mod log;
pub mod publisher;
pub mod redis_calls;
pub mod requests;
pub mod round;
pub mod scenario;
pub mod storm;
pub mod tally;
pub mod world;

pub use round::{Options, Verdict, run};
pub use scenario::Scenario;
