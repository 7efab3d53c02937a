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
            let Some(mut accepted) = push_page(&mailbox, replay, frames) else { return };
            let queue = subscription.queue();
            let is_accepted = poll_fn(|context| match queue.watch_close(context) {
                Some(_) => Poll::Ready(false),
                None => Pin::new(&mut accepted).poll(context).map(|it| it.is_ok()),
            });
            if !is_accepted.await {
                // It ends before it has all pages, so what is after them is not for it either.
                break;
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
        let Some(accepted) = push_page(&mailbox, number, frames) else { return };
        if accepted.await.is_err() {
            return;
        }
    }
}

/// Returns what resolves when the client has accepted the page; `None` if the shard is gone.
fn push_page(mailbox: &Mailbox, replay: u64, frames: Vec<Frame>) -> Option<oneshot::Receiver<()>> {
    let (written, accepted) = oneshot::channel();
    mailbox.push(Message::Page { replay, frames, written }).ok().map(|()| accepted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Hub;
    use crate::stream::mailbox::{Attachment, StreamStart};
    use crate::{Channel, Event};

    fn take(mailbox: &Mailbox) -> Vec<Message> {
        let mut messages = Vec::new();
        mailbox.take(&mut messages);
        messages
    }

    /// What waits after the page would be written without it, and the client would resume after
    /// that.
    #[tokio::test]
    async fn a_stream_that_ends_before_its_page_is_accepted_does_not_join_its_channels() {
        let (hub, channel) = (Hub::in_memory(), Channel::new("a").unwrap());
        let first = hub.publish(&channel, Event::new("1")).await.unwrap();
        hub.publish(&channel, Event::new("2")).await.unwrap();
        let subscription = hub.subscribe([channel.clone()]).unwrap();
        let subscription = subscription.after(first.id.unwrap().to_string());
        let mailbox = Arc::new(Mailbox::new(|| {}));
        assert!(subscription.attach(&mailbox, Box::new(())).is_ok());
        let Some(Message::Attach(attachment)) = take(&mailbox).pop() else { panic!() };
        let Attachment { start: StreamStart::Replaying(start), .. } = *attachment else { panic!() };
        start(7).unwrap();
        let page = loop {
            tokio::task::yield_now().await;
            if let Some(page) = take(&mailbox).pop() {
                break page;
            }
        };
        assert!(matches!(page, Message::Page { replay: 7, .. }));
        hub.publish(&channel, Event::new("3")).await.unwrap();
        hub.drain();
        let last = loop {
            tokio::task::yield_now().await;
            if let Some(last) = take(&mailbox).pop() {
                break last;
            }
        };
        assert!(matches!(last, Message::Close { replay: 7, reason: CloseReason::Drain }));
    }
}
