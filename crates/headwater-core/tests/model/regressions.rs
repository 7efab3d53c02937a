//! Faults found in the past, as scripts. Look here when a property fails: add its script to this
//! file.

use super::script::channel;
use super::*;
use headwater_core::limits::{RING_BYTES_MAX, RING_FRAMES_MAX};
use headwater_core::{Event, Hub, Publish, Rewind, Subscription};

fn publish(channel: usize, count: usize) -> Action {
    Action::Publish { channel, count, large: false }
}

fn large(channel: usize) -> Action {
    Action::Publish { channel, count: 1, large: true }
}

async fn next(subscription: &mut Subscription) -> String {
    let next = tokio::time::timeout(Duration::from_secs(10), subscription.next());
    let Ok(frame) = next.await else { return "nothing".to_owned() };
    let frame = frame.expect("an open subscription");
    frame.gap().map_or_else(
        || frame.event().data().trim_end().to_owned(),
        |gap| format!("gap {} {}", gap.channel, gap.reason),
    )
}

async fn take(subscription: &mut Subscription, count: usize) -> String {
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(next(subscription).await);
    }
    taken.join(", ")
}

fn begin() -> (Script, Hub) {
    let script = Script::new();
    let hub = Hub::builder().queue_bytes_max(8 * RING_BYTES_MAX).build(script.clone());
    (script, hub)
}

async fn subscribe(hub: &Hub) -> Subscription {
    let mut stream = hub.subscribe([channel(0)]).unwrap();
    stream.ready().await;
    stream
}

fn id_of(script: &Script, offset: u64) -> String {
    script.position(offset).to_string()
}

#[tokio::test(start_paused = true)]
async fn a_reset_during_a_read_of_history_is_reported() {
    let (script, hub) = begin();
    script.run(&publish(0, 9));
    drop(subscribe(&hub).await);
    let id = id_of(&script, 5);
    script.run(&Action::Trim { channel: 0, keep: 0 });
    script.run_during_read(Action::FailReads(1));
    script.run_during_read(Action::NewEpoch { unseen: vec![0] });
    let mut stream = hub.subscribe([channel(0)]).unwrap().after(id);
    stream.ready().await;
    let mut seen = vec![next(&mut stream).await];
    script.run(&publish(0, 2));
    seen.push(take(&mut stream, 2).await);
    assert_eq!(seen.join(", "), "gap c0 epoch, 10, 11");
}

#[tokio::test(start_paused = true)]
async fn an_event_too_large_for_the_ring_is_delivered_after_a_read_of_history() {
    let (script, hub) = begin();
    script.run(&publish(0, 3));
    drop(subscribe(&hub).await);
    let id = id_of(&script, 2);
    script.run_during_read(publish(1, 1));
    script.run_during_read(large(0));
    let mut stream = hub.subscribe([channel(0)]).unwrap().after(id.clone());
    assert_eq!(take(&mut stream, 3).await, "2, 4, nothing");
    // The ring does not count as complete either.
    let mut again = hub.subscribe([channel(0)]).unwrap().after(id);
    assert_eq!(take(&mut again, 3).await, "2, 4, nothing");
}

#[tokio::test(start_paused = true)]
async fn ephemeral_events_continue_after_an_id_of_another_node() {
    let (script, hub) = begin();
    script.run(&publish(0, 1));
    drop(subscribe(&hub).await);
    script.run(&Action::Ephemeral { channel: 0 });
    let foreign = format!("{}~abc-7", id_of(&script, 1));
    let mut stream = hub.subscribe([channel(0)]).unwrap().after(foreign);
    assert_eq!(next(&mut stream).await, "gap c0 epoch");
    script.run(&Action::Ephemeral { channel: 0 });
    assert_eq!(next(&mut stream).await, "2");
}

#[tokio::test(start_paused = true)]
async fn a_rewind_by_the_number_of_events_delivers_ephemeral_events() {
    let (script, hub) = begin();
    drop(subscribe(&hub).await);
    script.run(&Action::Ephemeral { channel: 0 });
    script.run(&Action::Ephemeral { channel: 0 });
    let mut stream = hub.subscribe([channel(0)]).unwrap().rewind(Rewind::Events(2));
    assert_eq!(take(&mut stream, 2).await, "0, 1");
    script.run(&Action::Ephemeral { channel: 0 });
    assert_eq!(next(&mut stream).await, "2");
}

#[tokio::test(start_paused = true)]
async fn ephemeral_events_between_two_lingers_are_reported_as_a_gap() {
    let script = Script::new();
    let hub = Hub::builder().linger(Duration::ZERO).build(script.clone());
    let mut stream = subscribe(&hub).await;
    script.run(&Action::Ephemeral { channel: 0 });
    let id = stream.next().await.unwrap().position().unwrap().to_string();
    drop(stream);
    script.run(&Action::Ephemeral { channel: 0 });
    let mut stream = hub.subscribe([channel(0)]).unwrap().after(id);
    assert_eq!(next(&mut stream).await, "gap c0 trimmed");
}

#[tokio::test(start_paused = true)]
async fn ephemeral_events_that_leave_the_ring_during_a_replay_are_reported_as_a_gap() {
    let (script, hub) = begin();
    let mut stream = subscribe(&hub).await;
    script.run(&Action::Ephemeral { channel: 0 });
    let id = stream.next().await.unwrap().position().unwrap().to_string();
    drop(stream);
    let publish_ephemeral =
        |count| (0..count).for_each(|_| script.run(&Action::Ephemeral { channel: 0 }));
    publish_ephemeral(300);
    let mut stream = hub.subscribe([channel(0)]).unwrap().after(id);
    assert_eq!(next(&mut stream).await, "1");
    publish_ephemeral(2_000);
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| last != "nothing") {
        seen.push(next(&mut stream).await);
    }
    let gap = seen.iter().position(|seen| seen == "gap c0 trimmed").expect("a gap");
    assert_eq!(seen[gap + 1], (2_301 - RING_FRAMES_MAX).to_string());
    assert_eq!(seen[seen.len() - 2], "2300");
}

#[tokio::test]
async fn a_queued_end_counts_once() {
    let hub = Hub::in_memory();
    let mut stream = hub.subscribe([channel(0), channel(1)]).unwrap();
    let end = Publish::to(channel(0), Event::new("end")).with_end(true);
    hub.publish_all([end]).await.unwrap();
    assert_eq!(next(&mut stream).await, "end");
    hub.publish(&channel(1), Event::new("more")).await.unwrap();
    assert_eq!(next(&mut stream).await, "more");
}

#[tokio::test(start_paused = true)]
async fn a_restored_log_is_not_waited_for() {
    let (script, hub) = begin();
    drop(subscribe(&hub).await);
    script.run(&publish(0, 5));
    // Does not fit into a ring, so events before it must be read from the log.
    script.run(&large(0));
    let id = id_of(&script, 4);
    script.run(&Action::RestoreCopy { to: 4 });
    let mut stream = hub.subscribe([channel(0)]).unwrap().after(id);
    assert_eq!(next(&mut stream).await, "gap c0 trimmed");
    script.run(&publish(0, 1));
    assert_eq!(next(&mut stream).await, "6");
}

#[tokio::test(start_paused = true)]
async fn a_gap_without_an_event_moves_the_position() {
    let (script, hub) = begin();
    drop(subscribe(&hub).await);
    script.run(&publish(0, 3));
    script.run(&large(0));
    script.run(&Action::Trim { channel: 0, keep: 0 });
    let mut stream = hub.subscribe([channel(0)]).unwrap().after(id_of(&script, 1));
    let mut last = None;
    let take = async |stream: &mut Subscription| {
        let next = std::future::poll_fn(|context| stream.poll_frame(context));
        tokio::time::timeout(Duration::from_secs(10), next).await.ok().flatten()
    };
    while let Some(frame) = take(&mut stream).await {
        last = frame.position().or(last);
    }
    let last = last.expect("an id").to_string();
    let mut stream = hub.subscribe([channel(0)]).unwrap().after(last);
    assert_eq!(next(&mut stream).await, "nothing");
}

#[tokio::test(start_paused = true)]
async fn a_stream_disconnected_between_two_gap_events_receives_both_again() {
    let (script, hub) = begin();
    let mut stream = hub.subscribe([channel(0), channel(1)]).unwrap();
    stream.ready().await;
    script.run(&publish(0, 1));
    let id = stream.next().await.unwrap().position().unwrap().to_string();
    script.run(&Action::NewEpoch { unseen: vec![] });
    let gap = stream.next().await.unwrap();
    assert!(gap.gap().is_some() && gap.position().is_none());
    let mut stream = hub.subscribe([channel(0), channel(1)]).unwrap().after(id);
    assert_eq!(take(&mut stream, 2).await, "gap c0 epoch, gap c1 epoch");
}

#[test]
fn a_full_queue_is_closed_even_if_events_are_missing() {
    let connect =
        |client, channels: &[usize]| Step::Connect { client, channels: channels.to_vec() };
    let steps = vec![
        connect(1, &[1, 3]),
        Step::Read { client: 1, count: 1 },
        Step::RunDuringRead(Action::CatchUp { channels: vec![1], trim: None }),
        connect(2, &[1, 3]),
        Step::Run(large(1)),
        connect(1, &[0]),
    ];
    check(steps, false, true);
}

/// The ID of the later one covers both: a client that is disconnected between them would lack the
/// earlier one.
#[tokio::test(start_paused = true)]
async fn ephemeral_events_of_several_channels_are_replayed_in_the_order_of_their_ids() {
    let script = Script::new();
    let hub = Hub::builder().queue_bytes_max(8 * RING_BYTES_MAX).build(script.clone());
    let subscribe = || hub.subscribe([channel(0), channel(1)]).unwrap();
    let mut live = subscribe();
    live.ready().await;
    script.run(&publish(0, 1));
    // Its channel is read from the history, and meanwhile the node hears of more.
    script.run(&large(1));
    script.run(&Action::Ephemeral { channel: 1 });
    script.run(&Action::Ephemeral { channel: 0 });
    script.run_during_read(Action::CatchUp { channels: vec![2], trim: None });
    let mut resumed = subscribe().after(id_of(&script, 1));
    assert_eq!(take(&mut resumed, 2).await, "1, 2");
}
