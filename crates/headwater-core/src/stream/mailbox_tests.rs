//! Tests of the mailbox: its bounds, its wake-ups, and the backpressure on publishers. Look here
//! for when publishers wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::mailbox::{Mailbox, Message};
use crate::event::Event;
use crate::frame::Frame;
use crate::limits::{MAILBOX_MESSAGES_FULL, MAILBOX_MESSAGES_MAX};

fn deliver(slot: u32) -> Message {
    Message::Deliver { slot, frame: Frame::new(&Event::new("x")) }
}

fn deliver_len() -> usize {
    Frame::new(&Event::new("x")).len()
}

#[test]
fn dropped_frames_are_reported_once() {
    let mailbox = Mailbox::new(|| {});
    for number in 0..2 * MAILBOX_MESSAGES_MAX + 5 {
        assert_eq!(mailbox.is_overrun(), number > MAILBOX_MESSAGES_MAX);
        assert!(mailbox.push(deliver(0)).is_ok());
    }
    assert!(mailbox.push(deliver(3)).is_ok());
    let mut taken = Vec::new();
    assert_eq!(mailbox.take(&mut taken), [0, 3], "channels of which some were dropped");
    assert_eq!(taken.len(), 2 * MAILBOX_MESSAGES_MAX);
    taken.clear();
    assert!(mailbox.take(&mut taken).is_empty(), "reported once");
}

#[test]
fn one_wake_up_is_enough_until_the_shard_takes_messages() {
    let wakes = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&wakes);
    let mailbox = Mailbox::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    let mut taken = Vec::new();
    for round in 1..4 {
        for number in 0..3 {
            assert!(mailbox.push(deliver(number)).is_ok());
        }
        assert_eq!(wakes.load(Ordering::SeqCst), round);
        assert!(mailbox.take(&mut taken).is_empty());
        let numbers = taken.drain(..).map(|message| match message {
            Message::Deliver { slot, .. } => slot,
            _ => panic!("only frames were pushed"),
        });
        assert_eq!(numbers.collect::<Vec<_>>(), [0, 1, 2]);
        mailbox.done(3, 3 * deliver_len(), &mut vec![0, 1, 2]);
        assert_eq!(mailbox.depth(), 0);
    }
}

#[test]
fn no_message_is_lost_between_push_and_take() {
    // Another thread pushes at every moment of the shard's turn: a message that is in the mailbox
    // when the shard goes to sleep must have woken it.
    let awake = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&awake);
    let mailbox = Arc::new(Mailbox::new(move || flag.store(true, Ordering::Release)));
    let pusher = Arc::clone(&mailbox);
    let count = MAILBOX_MESSAGES_MAX;
    let thread = std::thread::spawn(move || {
        for _ in 0..count {
            assert!(pusher.push(deliver(0)).is_ok());
        }
    });
    let (mut seen, mut taken) = (0, Vec::new());
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while seen < count {
        assert!(
            std::time::Instant::now() < deadline,
            "asleep with {} messages queued",
            count - seen
        );
        if awake.swap(false, Ordering::AcqRel) {
            assert!(mailbox.take(&mut taken).is_empty());
            seen += taken.len();
            mailbox.done(taken.len(), taken.len() * deliver_len(), &mut vec![0; taken.len()]);
            taken.clear();
        }
    }
    thread.join().unwrap();
}

#[tokio::test]
async fn publishers_wait_while_the_mailbox_is_full() {
    let mailbox = Arc::new(Mailbox::new(|| {}));
    for _ in 0..MAILBOX_MESSAGES_FULL {
        assert!(mailbox.push(deliver(7)).is_ok());
    }
    assert!(mailbox.delays(&[3, 7]) && !mailbox.delays(&[3]), "its own events wait, or not");
    let waiting = tokio::spawn({
        let mailbox = Arc::clone(&mailbox);
        async move { mailbox.has_room(&[7]).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    mailbox.done(1, deliver_len(), &mut vec![7]);
    waiting.await.unwrap();
}

#[test]
fn a_closed_mailbox_returns_messages() {
    let mailbox = Mailbox::new(|| {});
    assert!(mailbox.push(deliver(1)).is_ok());
    assert_eq!(mailbox.close().len(), 1);
    assert!(mailbox.push(deliver(1)).is_err());
}

#[test]
fn slots_are_reused() {
    let mailbox = Mailbox::new(|| {});
    assert_eq!((mailbox.allocate_slot(), mailbox.allocate_slot()), (0, 1));
    mailbox.free_slot(0);
    assert_eq!((mailbox.allocate_slot(), mailbox.allocate_slot()), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn publishers_wait_for_congested_channels_of_their_own_only() {
    let mailbox = Mailbox::new(|| {});
    mailbox.set_congested(vec![2, 5]);
    for (slots, waits) in [(&[][..], false), (&[1, 3], false), (&[1, 5], true), (&[2], true)] {
        assert_eq!(mailbox.delays(slots), waits, "{slots:?}");
    }
    let waiting = mailbox.has_room(&[5]);
    tokio::pin!(waiting);
    let second = std::time::Duration::from_secs(1);
    for congested in [vec![2, 5], vec![5]] {
        assert!(tokio::time::timeout(second, waiting.as_mut()).await.is_err());
        mailbox.set_congested(congested);
        mailbox.look_for_room();
    }
    assert!(tokio::time::timeout(second, waiting.as_mut()).await.is_err(), "it is congested still");
    mailbox.set_congested(vec![2]);
    mailbox.look_for_room();
    waiting.await;
    assert!(mailbox.has_congested());
}
