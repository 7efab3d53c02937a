//! Streams that connect and disconnect over a scripted log, against a model that retains all
//! events: each stream receives the events of its channels once and in order, and is notified of a
//! gap if events are missing. Look here first when you doubt rings, resume, or the repair of missed
//! events.
//!
//! The model is a list of all published events, in which the data of an event is its index. A
//! client is an index in that list. It must receive the next event of its channels, unless a gap
//! was reported for the channel's events in between; and events must be missing where a gap was
//! reported.

mod client;
mod regressions;
mod script;

use std::time::Duration;

use headwater_core::Hub;
use proptest::prelude::*;
use tokio::runtime;

use client::Client;
use script::{Action, Script};

const CHANNELS: usize = 4;
const CLIENTS: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    Run(Action),
    RunDuringRead(Action),
    /// A client connects, and resumes if it was connected before.
    Connect {
        client: usize,
        channels: Vec<usize>,
    },
    Read {
        client: usize,
        count: usize,
    },
    /// Reads until no frame is left.
    ReadAll {
        client: usize,
    },
    Drop {
        client: usize,
    },
}

fn action(with_ephemeral: bool) -> impl Strategy<Value = Action> {
    let channel = 0..CHANNELS;
    let channels = || proptest::collection::vec(0..CHANNELS, 0..6);
    let publish = |(channel, count)| Action::Publish { channel, count, large: false };
    let large = |channel| Action::Publish { channel, count: 1, large: true };
    let ephemeral = |channel| Action::Ephemeral { channel };
    prop_oneof![
        8 => (channel.clone(), 1..8_usize).prop_map(publish),
        1 => (channel.clone(), Just(300)).prop_map(publish),
        1 => channel.clone().prop_map(large),
        (if with_ephemeral { 8 } else { 0 }) => channel.clone().prop_map(ephemeral),
        2 => (channel, 0..4_usize).prop_map(|(channel, keep)| Action::Trim { channel, keep }),
        2 => (channels(), proptest::option::of(0..CHANNELS))
            .prop_map(|(channels, trim)| Action::CatchUp { channels, trim }),
        1 => channels().prop_map(|unseen| Action::NewEpoch { unseen }),
        1 => (1..3_u32).prop_map(Action::FailReads),
    ]
}

fn step(with_ephemeral: bool) -> impl Strategy<Value = Step> {
    let client = 0..CLIENTS;
    let channels = proptest::sample::subsequence((0..CHANNELS).collect::<Vec<_>>(), 1..=CHANNELS);
    prop_oneof![
        6 => action(with_ephemeral).prop_map(Step::Run),
        2 => action(with_ephemeral).prop_map(Step::RunDuringRead),
        4 => (client.clone(), channels)
            .prop_map(|(client, channels)| Step::Connect { client, channels }),
        3 => (client.clone(), 1..200_usize)
            .prop_map(|(client, count)| Step::Read { client, count }),
        2 => client.clone().prop_map(|client| Step::ReadAll { client }),
        2 => client.prop_map(|client| Step::Drop { client }),
    ]
}

/// Runs the steps, then checks that the connected clients receive all events.
async fn run(steps: Vec<Step>, lingers: bool, is_strict: bool) {
    let linger = if lingers { Duration::from_secs(1 << 20) } else { Duration::ZERO };
    let script = Script::new();
    let hub = Hub::builder().linger(linger).build(script.clone());
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::new(is_strict)).collect();
    for step in steps {
        match step {
            Step::Run(action) => script.run(&action),
            Step::RunDuringRead(action) => script.run_during_read(action),
            Step::Connect { client, channels } => {
                clients[client].connect(&hub, &script, channels).await;
            }
            Step::Read { client, count } => clients[client].read(&script, count).await,
            Step::ReadAll { client } => clients[client].read(&script, usize::MAX).await,
            Step::Drop { client } => clients[client].disconnect(),
        }
    }
    for channel in 0..CHANNELS {
        script.run(&Action::Publish { channel, count: 1, large: false });
    }
    for client in &mut clients {
        client.read(&script, usize::MAX).await;
    }
}

fn check(steps: Vec<Step>, lingers: bool, is_strict: bool) {
    let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(run(steps, lingers, is_strict));
}

fn config() -> ProptestConfig {
    // A failure is printed as steps, to be added to `regressions`.
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn streams_receive_the_log_and_gaps_are_reported_exactly(
        steps in proptest::collection::vec(step(false), 1..60),
        lingers: bool,
    ) {
        check(steps, lingers, true);
    }

    #[test]
    fn with_ephemeral_events_nothing_is_missing_without_a_gap(
        steps in proptest::collection::vec(step(true), 1..60),
        lingers: bool,
    ) {
        check(steps, lingers, false);
    }
}
