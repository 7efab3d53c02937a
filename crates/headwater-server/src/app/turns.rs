//! The turns of large batches, and of events for many channels, which take time and memory. Look
//! here for how few there are at a time, so that they do not displace what others publish.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use headwater::Problem;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::body::{BodyOwner, BodySender};
use crate::limits::{STRANGERS_PART, TURN_WAIT_MAX, TURNS_MAX};

/// The turns. Clones share them.
#[derive(Clone)]
pub(crate) struct Turns {
    all: Arc<Semaphore>,
    /// Strangers leave some to others.
    of_strangers: Arc<Semaphore>,
    /// Each user, or address, has one at a time.
    of_owners: Arc<Mutex<HashMap<BodyOwner, Weak<Semaphore>>>>,
}

/// A turn, until it is dropped.
pub(crate) struct Turn(#[expect(dead_code, reason = "held")] Vec<OwnedSemaphorePermit>);

impl Turns {
    pub(crate) fn new() -> Self {
        Self {
            all: Arc::new(Semaphore::new(TURNS_MAX)),
            of_strangers: Arc::new(Semaphore::new(TURNS_MAX / STRANGERS_PART)),
            of_owners: Arc::default(),
        }
    }

    /// Waits for a turn, behind others of this sender first, then behind other strangers if it is
    /// one.
    pub(crate) async fn take(&self, sender: BodySender) -> Result<Turn, Problem> {
        let of_strangers = sender.is_stranger.then(|| Arc::clone(&self.of_strangers));
        let lines = [Some(self.of(sender.owner)), of_strangers, Some(Arc::clone(&self.all))];
        let permits = async {
            let mut permits = Vec::new();
            for line in lines.into_iter().flatten() {
                permits.push(line.acquire_owned().await.ok()?);
            }
            Some(Turn(permits))
        };
        let taken = timeout(TURN_WAIT_MAX, permits).await.ok().flatten();
        taken
            .ok_or_else(|| Problem::unavailable("too many large batches wait: send this one again"))
    }

    fn of(&self, owner: BodyOwner) -> Arc<Semaphore> {
        let mut of_owners = self.of_owners.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turns) = of_owners.get(&owner).and_then(Weak::upgrade) {
            return turns;
        }
        // Owners whose turns are over leave their entries behind.
        if of_owners.len() == of_owners.capacity() {
            of_owners.retain(|_, turns| turns.strong_count() > 0);
        }
        let turns = Arc::new(Semaphore::new(1));
        of_owners.insert(owner, Arc::downgrade(&turns));
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
        BodySender { owner: BodyOwner::User(name.to_owned()), is_stranger: false }
    }

    fn stranger(number: usize) -> BodySender {
        BodySender { is_stranger: true, ..user(&number.to_string()) }
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
        assert!(turns.of_owners.lock().expect("no panic").len() < 100);
    }

    #[tokio::test]
    async fn strangers_leave_turns_to_others() {
        let turns = Turns::new();
        let take = |sender| ready(turns.take(sender)).and_then(Result::ok);
        let mut taken: Vec<Turn> = (0..TURNS_MAX).filter_map(|it| take(stranger(it))).collect();
        assert_eq!(taken.len(), TURNS_MAX / STRANGERS_PART);
        assert!(take(user("ann")).is_some());
        taken.pop();
        assert!(take(stranger(TURNS_MAX)).is_some(), "one that ended makes room");
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
