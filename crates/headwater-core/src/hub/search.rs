//! Searches of a channel's history for events with a publisher's ID. Look here for what an unknown
//! `Last-Event-ID` costs the broker.
//!
//! One task per channel searches for all IDs that wait, in one walk through the newest part of the
//! history. So it reads the same, however many clients ask, and whatever they ask for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::recall::Recall;
use crate::broker::ReadRange;
use crate::channel::Channel;
use crate::frame::Frame;
use crate::limits::{REPLAY_FRAMES_MAX, SEARCH_BYTES_MAX};
use crate::log::Position;

/// The searches that wait, by channel. A channel is listed while its task runs.
#[derive(Default)]
pub(super) struct Searches(Mutex<HashMap<Channel, Vec<Search>>>);

/// An ID that a client gave, and where to send its position.
struct Search {
    id: String,
    found: oneshot::Sender<Option<Position>>,
}

impl Searches {
    fn waiting(&self) -> MutexGuard<'_, HashMap<Channel, Vec<Search>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a search; returns whether the channel needs a task.
    fn add(&self, channel: &Channel, search: Search) -> bool {
        let mut waiting = self.waiting();
        let is_first = !waiting.contains_key(channel);
        waiting.entry(channel.clone()).or_default().push(search);
        is_first
    }

    /// Takes what waits; if that is nothing, the task ends.
    fn take(&self, channel: &Channel) -> Vec<Search> {
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

/// Finds the oldest event with a publisher's ID among the newest [`SEARCH_BYTES_MAX`] of those that
/// are before the channel's ring.
pub(super) async fn find(recall: &Arc<Recall>, channel: &Channel, id: &str) -> Option<Position> {
    let (found, position) = oneshot::channel();
    if recall.searches.add(channel, Search { id: id.to_owned(), found }) {
        tokio::spawn(run(Arc::clone(recall), channel.clone()));
    }
    position.await.ok().flatten()
}

async fn run(recall: Arc<Recall>, channel: Channel) {
    loop {
        let searches = recall.searches.take(&channel);
        if searches.is_empty() {
            return;
        }
        let mut ids: HashMap<&str, Option<Position>> =
            searches.iter().map(|search| (search.id.as_str(), None)).collect();
        walk(&recall, &channel, &mut ids).await;
        let found: Vec<Option<Position>> =
            searches.iter().map(|search| ids.get(search.id.as_str()).copied().flatten()).collect();
        for (search, position) in searches.into_iter().zip(found) {
            // The receiver may be gone.
            let _ = search.found.send(position);
        }
    }
}

/// Reads backwards from the ring, and records the positions of IDs.
async fn walk(recall: &Recall, channel: &Channel, ids: &mut HashMap<&str, Option<Position>>) {
    let mut before = recall.ring_begin(channel).unwrap_or(0).saturating_add(1);
    let mut bytes = 0;
    while before > 1 && bytes < SEARCH_BYTES_MAX {
        let range = ReadRange::Before { offset: before, count: REPLAY_FRAMES_MAX };
        let history = recall.read(channel, range).await;
        let Some(first) = history.frames.first().and_then(Frame::key) else { return };
        for frame in history.frames.iter().rev() {
            bytes += frame.len();
            let position = frame.publisher_id().and_then(|id| ids.get_mut(id));
            if let Some(position) = position {
                *position = frame.position();
            }
        }
        before = first.offset;
    }
}
