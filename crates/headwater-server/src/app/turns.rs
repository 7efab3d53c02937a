//! The turns of large batches, and of events for many channels, which take time and memory. Look
//! here for how few there are at a time, so that they do not displace what others publish.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use headwater::Problem;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::body::BodySender;
use crate::limits::{TURN_WAIT_MAX, TURNS_MAX};

/// The turns. Clones share them.
#[derive(Clone)]
pub(crate) struct Turns {
    all: Arc<Semaphore>,
    /// Each sender has one at a time.
    of_senders: Arc<Mutex<HashMap<BodySender, Weak<Semaphore>>>>,
}

/// A turn, until it is dropped.
pub(crate) struct Turn(#[expect(dead_code, reason = "held")] [OwnedSemaphorePermit; 2]);

impl Turns {
    pub(crate) fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(TURNS_MAX)), of_senders: Arc::default() }
    }

    /// Waits for a turn, behind others of this sender first.
    pub(crate) async fn take(&self, sender: BodySender) -> Result<Turn, Problem> {
        let of_sender = self.of(sender);
        let permits = async {
            let of_sender = of_sender.acquire_owned().await.ok()?;
            let of_all = Arc::clone(&self.all).acquire_owned().await.ok()?;
            Some(Turn([of_sender, of_all]))
        };
        let taken = timeout(TURN_WAIT_MAX, permits).await.ok().flatten();
        taken
            .ok_or_else(|| Problem::unavailable("too many large batches wait: send this one again"))
    }

    fn of(&self, sender: BodySender) -> Arc<Semaphore> {
        let mut of_senders = self.of_senders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turns) = of_senders.get(&sender).and_then(Weak::upgrade) {
            return turns;
        }
        // Senders whose turns are over leave their entries behind.
        if of_senders.len() == of_senders.capacity() {
            of_senders.retain(|_, turns| turns.strong_count() > 0);
        }
        let turns = Arc::new(Semaphore::new(1));
        of_senders.insert(sender, Arc::downgrade(&turns));
        turns
    }
}

/// Does work that takes milliseconds. On a thread of its own, if there is much of it: the operating
/// system divides the cores between threads, and a task would keep others waiting.
///
/// The thread goes on when the client leaves and this future is dropped, so the work owns what it
/// holds, such as a turn, until it is done.
pub(crate) async fn work<H: Send + 'static, T: Send + 'static>(
    is_large: bool,
    held: H,
    work: impl FnOnce() -> T + Send + 'static,
) -> (H, T) {
    if !is_large {
        return (held, work());
    }
    let work = move || {
        let done = work();
        (held, done)
    };
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn user(name: &str) -> BodySender {
        BodySender::User(name.to_owned())
    }

    /// Whether the future is ready now.
    fn ready<T>(future: impl Future<Output = T>) -> Option<T> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_has_one_turn_and_waits_behind_itself() {
        let turns = Turns::new();
        let first = turns.take(user("ann")).await.expect("a turn");
        assert!(ready(turns.take(user("ann"))).is_none());
        let others: Vec<Turn> = (1..TURNS_MAX)
            .filter_map(|number| ready(turns.take(user(&number.to_string())))?.ok())
            .collect();
        assert_eq!(others.len(), TURNS_MAX - 1);
        assert!(ready(turns.take(user("late"))).is_none(), "there are only so many");
        assert!(turns.take(user("late")).await.is_err(), "a wait has an end");
        drop(first);
        assert!(ready(turns.take(user("ann"))).is_some());
        drop(others);
        for number in 0..10_000 {
            drop(turns.take(user(&number.to_string())).await);
        }
        assert!(turns.of_senders.lock().expect("no panic").len() < 100);
    }

    #[tokio::test]
    async fn a_batch_whose_client_left_keeps_its_turn_while_it_is_at_work() {
        let turns = Turns::new();
        let turn = turns.take(user("ann")).await.expect("a turn");
        let (finish, finished) = std::sync::mpsc::channel::<()>();
        let mut left = Box::pin(work(true, turn, move || finished.recv()));
        assert!(ready(left.as_mut()).is_none());
        drop(left);
        assert!(ready(turns.take(user("ann"))).is_none(), "its thread goes on");
        finish.send(()).expect("it waits");
        assert!(turns.take(user("ann")).await.is_ok(), "and then gives it back");
    }
}
