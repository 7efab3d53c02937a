//! The searches for publishers' IDs that wait. It does no IO. Look here for how many clients share
//! one search.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::channel::Channel;
use crate::log::Position;

/// The searches that wait, by channel. A channel is listed while its task runs.
#[derive(Default)]
pub(super) struct Searches(Mutex<HashMap<Channel, Vec<Search>>>);

/// An ID that a client gave, and where to send its position.
pub(super) struct Search {
    pub(super) id: String,
    pub(super) found: oneshot::Sender<Option<Position>>,
}

impl Searches {
    fn waiting(&self) -> MutexGuard<'_, HashMap<Channel, Vec<Search>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a search; returns whether the channel needs a task.
    pub(super) fn add(&self, channel: &Channel, search: Search) -> bool {
        let mut waiting = self.waiting();
        let is_first = !waiting.contains_key(channel);
        waiting.entry(channel.clone()).or_default().push(search);
        is_first
    }

    /// Takes what waits; if that is nothing, the task ends.
    pub(super) fn take(&self, channel: &Channel) -> Vec<Search> {
        let mut waiting = self.waiting();
        let mut taken = waiting.get_mut(channel).map(std::mem::take).unwrap_or_default();
        // Those whose clients are gone need no answer.
        taken.retain(|search| !search.found.is_closed());
        if taken.is_empty() {
            waiting.remove(channel);
        }
        taken
    }
}
