//! The mailbox under loom, which runs a test in the possible interleavings of its threads. Look
//! here for the proof that no message is left behind.
//!
//! This compiles `mailbox.rs` a second time, with loom's lock and flag. The backpressure on
//! publishers is not checked here.

/// Replaces the sibling module that `mailbox.rs` imports.
mod sync {
    pub(super) use loom::sync::atomic::AtomicBool;
    pub(super) use loom::sync::{Mutex, MutexGuard};
}

#[expect(dead_code, reason = "only what the threads share is checked")]
#[allow(unreachable_pub, reason = "the crate exports the other copy")]
#[expect(clippy::duplicate_mod, reason = "the module under test, with another lock")]
#[path = "mailbox.rs"]
mod mailbox;

use loom::sync::{Arc, Notify};
use mailbox::{Mailbox, Message};

/// A mailbox, and what its shard waits for.
fn mailbox() -> (Arc<Mailbox>, Arc<Notify>) {
    let wake_up = Arc::new(Notify::new());
    let notify = Arc::clone(&wake_up);
    (Arc::new(Mailbox::new(move || notify.notify())), wake_up)
}

#[test]
fn a_sleeping_shard_is_woken_for_every_message() {
    let mut model = loom::model::Builder::new();
    // At most three preemptions, or the test takes half a minute.
    model.preemption_bound = Some(3);
    model.check(|| {
        let (mailbox, wake_up) = mailbox();
        let push = |mailbox: &Arc<Mailbox>| {
            let mailbox = Arc::clone(mailbox);
            loom::thread::spawn(move || assert!(mailbox.push(Message::Drain).is_ok()))
        };
        let pushers = [push(&mailbox), push(&mailbox)];
        let (mut seen, mut taken) = (0, Vec::new());
        // If no thread wakes it, all threads are stuck, which loom detects.
        while seen < pushers.len() {
            mailbox.take(&mut taken);
            if taken.is_empty() {
                wake_up.wait();
            }
            seen += taken.drain(..).count();
        }
        for pusher in pushers {
            pusher.join().unwrap();
        }
    });
}

#[test]
fn a_message_pushed_during_the_close_is_returned_once() {
    loom::model(|| {
        let (mailbox, _wake_up) = mailbox();
        let pushed = Arc::clone(&mailbox);
        let pusher =
            loom::thread::spawn(move || pushed.push(Message::Drain).map_err(drop).is_err());
        let remaining = mailbox.close().len();
        let was_returned = pusher.join().unwrap();
        assert_eq!(remaining + usize::from(was_returned), 1);
    });
}
