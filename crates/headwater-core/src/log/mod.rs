//! The event log: where an event stands in it, and how much of it is retained. Look here for what an
//! id means and for retention rules.

mod position;
mod retention;

#[doc(hidden)]
pub use position::Key;
pub use position::{Epoch, Position};
pub use retention::{Retention, RetentionRules};
