//! Replays a stream that is on a shard: the task reads, the shard writes. Look here for the pace.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::replay::{Replay, Step};
use crate::frame::Frame;
use crate::stream::mailbox::{Mailbox, Message};

/// Reads one page at a time, and the next once the client has accepted it: what a slow client has
/// missed waits in the log, not in memory. Ends when the stream is live again, or closed.
pub(super) async fn run(mut replay: Replay, mailbox: Arc<Mailbox>, number: u64) {
    loop {
        let (next, Step { frames, live }) = replay.step().await;
        replay = next;
        if live.is_some() {
            return;
        }
        let mut frames: Vec<Frame> = frames.into();
        // A gap event has no ID of its own. With this one, it is not repeated when the client
        // reconnects.
        if frames.last().is_some_and(|last| last.position().is_none()) {
            frames.extend(replay.position().map(Frame::marker));
        }
        let (written, accepted) = oneshot::channel();
        let page = Message::Page { replay: number, frames, written };
        if mailbox.push(page).is_err() || accepted.await.is_err() {
            return;
        }
    }
}
