//! The mailbox under loom, which runs a test in the orders that its threads can have: no message stays behind. It is
//! `mailbox.rs` again, with the lock and the flag of loom's; what publishers wait for is not looked at.

/// What `mailbox.rs` looks for beside itself.
mod sync {
    pub(super) use loom::sync::atomic::AtomicBool;
    pub(super) use loom::sync::{Mutex, MutexGuard};
}

#[expect(dead_code, reason = "only what the threads share is looked at")]
#[allow(unreachable_pub, reason = "the crate exports the other one")]
#[expect(clippy::duplicate_mod, reason = "it is what is tested, with another lock")]
#[path = "mailbox.rs"]
mod mailbox;

use loom::sync::{Arc, Notify};
use mailbox::{Mailbox, Message};

/// A mailbox, and what its shard sleeps on.
fn mailbox() -> (Arc<Mailbox>, Arc<Notify>) {
    let bell = Arc::new(Notify::new());
    let rung = Arc::clone(&bell);
    (Arc::new(Mailbox::new(move || rung.notify())), bell)
}

#[test]
fn a_shard_that_sleeps_is_woken_for_every_message() {
    let mut model = loom::model::Builder::new();
    // Three interruptions of threads at most, else it takes half a minute.
    model.preemption_bound = Some(3);
    model.check(|| {
        let (mailbox, bell) = mailbox();
        let push = |mailbox: &Arc<Mailbox>| {
            let mailbox = Arc::clone(mailbox);
            loom::thread::spawn(move || assert!(mailbox.push(Message::Drain).is_ok()))
        };
        let pushers = [push(&mailbox), push(&mailbox)];
        let (mut seen, mut taken) = (0, Vec::new());
        // If it sleeps and nobody wakes it, all threads are stuck, which loom sees.
        while seen < pushers.len() {
            mailbox.take(&mut taken);
            if taken.is_empty() {
                bell.wait();
            }
            seen += taken.drain(..).count();
        }
        for pusher in pushers {
            pusher.join().unwrap();
        }
    });
}

#[test]
fn what_is_pushed_while_it_closes_is_left_or_given_back() {
    loom::model(|| {
        let (mailbox, _bell) = mailbox();
        let pushed = Arc::clone(&mailbox);
        let pusher =
            loom::thread::spawn(move || pushed.push(Message::Drain).map_err(drop).is_err());
        let left = mailbox.close().len();
        let given_back = pusher.join().unwrap();
        assert_eq!(left + usize::from(given_back), 1);
    });
}
