//! The end-to-end checker. It starts a real Redis and real nodes, publishes numbered events, lets
//! clients disconnect and reconnect, injects faults, all from one seed, and then reports "lossless"
//! or shows a counterexample.
//!
//! ```text
//! scenario  what to start, which clients, which faults, what is allowed
//! round     runs one scenario with one seed:
//!   world       Redis, nodes                     faults     the fault plan and its execution
//!   topology    primary, replica, proxies        fault      which faults there are
//!                                                outage     how they are injected in Redis
//!   publisher   numbers and sends events         ledger     what was sent, what was acknowledged
//!   client      subscribes, drops, reconnects    log        what it received
//!                                                start      with which id it starts over
//!   phase       publishing, at rest, stopped
//! storm     a scenario without randomness: all clients reconnect at once
//! hostile   another one: attacks on a node in little memory, and what other clients notice
//! result    what many rounds have shown, as a file
//! check     ledger + logs + rules -> counterexamples; no IO, so tests drive it with made-up logs
//! ```

pub mod check;
pub mod client;
pub mod connection;
pub mod counterexample;
pub mod data;
pub mod fault;
pub mod faults;
pub mod hostile;
pub mod id;
pub mod ledger;
pub mod log;
pub mod outage;
pub mod phase;
pub mod publisher;
pub mod redis_calls;
pub mod requests;
pub mod result;
pub mod round;
pub mod scenario;
pub mod start;
pub mod storm;
pub mod tally;
pub mod topology;
pub mod world;

pub use round::{Options, Verdict, run};
pub use scenario::Scenario;
