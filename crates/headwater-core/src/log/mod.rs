//! The event log: the positions of events, and how much of it is retained. Look here for the
//! meaning of an event's id and for retention rules.

mod position;
mod retention;

#[doc(hidden)]
pub use position::Key;
pub use position::{Epoch, Position};
pub use retention::{Retention, RetentionRules};
