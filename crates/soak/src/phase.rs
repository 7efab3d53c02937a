//! What a round is in the middle of; clients and publishers watch it.

/// What a round is in the middle of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Events are published, clients drop, faults are injected.
    Publish,
    /// No faults any more, and clients stay connected.
    Rest,
    /// The round is over.
    Stop,
}
