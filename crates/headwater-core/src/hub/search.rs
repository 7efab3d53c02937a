//! Searches of a channel's history for events with a publisher's ID. Look here for what an unknown
//! `Last-Event-ID` costs the broker.
//!
//! One task per channel searches for all IDs that wait, in one walk through the newest part of the
//! history. So it reads the same, however many clients ask, and whatever they ask for.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::entry::ChannelEntry;
use super::recall::Recall;
use super::searches::Search;
use crate::broker::ReadRange;
use crate::channel::Channel;
use crate::event::EventId;
use crate::frame::Frame;
use crate::limits::{REPLAY_FRAMES_MAX, SEARCH_BYTES_MAX};
use crate::log::Position;

/// The position of the oldest event to which its publisher gave this ID.
pub(super) async fn find_publisher_id(
    recall: &Arc<Recall>,
    channels: &[Channel],
    id: &str,
) -> Option<Position> {
    EventId::new(id).ok()?;
    let mut found: Option<Position> = None;
    for channel in channels {
        recall.backfill(channel).await;
        let older = find_older(recall, channel, id).await;
        let in_ring = |entry: &mut ChannelEntry| entry.ring.find_publisher_id(id)?.position();
        let position = older.or_else(|| recall.fanout.table.with(channel, in_ring)?);
        found = match (found, position) {
            (Some(one), Some(two)) if two.offset() < one.offset() => Some(two),
            (found, position) => found.or(position),
        };
    }
    found
}

/// Finds the oldest event with a publisher's ID among the newest [`SEARCH_BYTES_MAX`] of those that
/// are before the channel's ring.
async fn find_older(recall: &Arc<Recall>, channel: &Channel, id: &str) -> Option<Position> {
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
