//! Replays of streams that are on a shard: a task reads, the shard writes. Look here for the pace:
//! one page at a time, and the next once the client has accepted it. What a slow client has missed
//! waits in the log, not in memory.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::oneshot;

use super::replay::{Replay, Step};
use super::subscription::Subscription;
use crate::close::CloseReason;
use crate::frame::Frame;
use crate::stream::mailbox::{Mailbox, Message};

/// Feeds a stream that came to its shard before it was live. Ends when it has joined its channels
/// there, or is closed.
pub(super) async fn feed(mut subscription: Subscription, mailbox: Arc<Mailbox>, replay: u64) {
    while let Some(frames) = poll_fn(|context| subscription.poll_page(context)).await {
        if !frames.is_empty() {
            let (written, mut accepted) = oneshot::channel();
            if mailbox.push(Message::Page { replay, frames, written }).is_err() {
                return;
            }
            let queue = subscription.queue();
            let is_accepted = poll_fn(|context| {
                if queue.watch_close(context).is_some() {
                    return Poll::Ready(Ok(()));
                }
                Pin::new(&mut accepted).poll(context)
            });
            if is_accepted.await.is_err() {
                return;
            }
        }
        if subscription.is_live() {
            return subscription.join_on_shard(&mailbox, replay);
        }
        if subscription.closed().is_some() {
            break;
        }
    }
    let reason = subscription.closed().unwrap_or(CloseReason::Internal);
    // A shard that is gone has closed the stream.
    let _ = mailbox.push(Message::Close { replay, reason });
}

/// Feeds a live stream whose node has missed events. Ends when the stream is live again, or closed.
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
