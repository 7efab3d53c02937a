//! The event log: the positions of events, and how much of it is retained. Look here for the
//! meaning of an event's id and for retention rules.

mod clock;
mod continuity;
mod cursor;
mod position;
mod retention;

pub(crate) use clock::{LogClock, LogState, Relation, Sighting};
pub use continuity::{Continuity, follows};
#[doc(hidden)]
pub use cursor::Cursor;
#[doc(hidden)]
pub use position::Key;
pub use position::{Epoch, Position};
pub use retention::{Retention, RetentionRules};
