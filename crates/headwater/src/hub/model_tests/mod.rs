//! Streams that come and go over a scripted log, against a model that keeps everything: each gets what its
//! channels got, once and in order, and is told of a gap if something is missing. Look here first when
//! you doubt rings, resume or healing.
//!
//! The model: every event that was ever published stands in one list, and its data is its place there. A
//! client is a place in that list. What it gets must be the next event of its channels, unless the
//! channel's events between were announced to be missing; and what is announced must be missing.

mod client;
mod regressions;
mod script;

use proptest::prelude::*;
use tokio::runtime;

use super::*;
use client::Client;
use script::{Happening, Script};

const CHANNELS: usize = 4;
const CLIENTS: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    Happen(Happening),
    HappenWhileReading(Happening),
    /// A client connects, from where it left off if it has been there before.
    Connect {
        client: usize,
        channels: Vec<usize>,
    },
    Read {
        client: usize,
        count: usize,
    },
    /// Reads until there is nothing.
    ReadAll {
        client: usize,
    },
    Drop {
        client: usize,
    },
}

fn happening(with_ephemeral: bool) -> impl Strategy<Value = Happening> {
    let channel = 0..CHANNELS;
    let channels = || proptest::collection::vec(0..CHANNELS, 0..6);
    let publish = |(channel, count)| Happening::Publish { channel, count, large: false };
    prop_oneof![
        8 => (channel.clone(), 1..8_usize).prop_map(publish),
        1 => (channel.clone(), Just(300)).prop_map(publish),
        1 => channel.clone().prop_map(|channel| Happening::Publish { channel, count: 1, large: true }),
        (if with_ephemeral { 8 } else { 0 }) => channel.clone().prop_map(|channel| Happening::Ephemeral { channel }),
        2 => (channel, 0..4_usize).prop_map(|(channel, keep)| Happening::Trim { channel, keep }),
        2 => (channels(), proptest::option::of(0..CHANNELS))
            .prop_map(|(channels, trim)| Happening::CatchUp { channels, trim }),
        1 => channels().prop_map(|unseen| Happening::NewEpoch { unseen }),
        1 => (1..3_u32).prop_map(Happening::FailReads),
    ]
}

fn step(with_ephemeral: bool) -> impl Strategy<Value = Step> {
    let client = 0..CLIENTS;
    let channels = proptest::sample::subsequence((0..CHANNELS).collect::<Vec<_>>(), 1..=CHANNELS);
    prop_oneof![
        6 => happening(with_ephemeral).prop_map(Step::Happen),
        2 => happening(with_ephemeral).prop_map(Step::HappenWhileReading),
        4 => (client.clone(), channels)
            .prop_map(|(client, channels)| Step::Connect { client, channels }),
        3 => (client.clone(), 1..200_usize).prop_map(|(client, count)| Step::Read { client, count }),
        2 => client.clone().prop_map(|client| Step::ReadAll { client }),
        2 => client.prop_map(|client| Step::Drop { client }),
    ]
}

/// Runs the steps; whoever is connected at the end gets everything.
async fn run(steps: Vec<Step>, lingers: bool, is_strict: bool) {
    let linger = if lingers { Duration::from_secs(1 << 20) } else { Duration::ZERO };
    let script = Script::new();
    let hub = Hub::builder().linger(linger).build(script.clone());
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::new(is_strict)).collect();
    for step in steps {
        match step {
            Step::Happen(happening) => script.happen(&happening),
            Step::HappenWhileReading(happening) => script.happen_while_reading(happening),
            Step::Connect { client, channels } => {
                clients[client].connect(&hub, &script, channels).await;
            }
            Step::Read { client, count } => clients[client].read(&script, count).await,
            Step::ReadAll { client } => clients[client].read(&script, usize::MAX).await,
            Step::Drop { client } => clients[client].disconnect(),
        }
    }
    for channel in 0..CHANNELS {
        script.happen(&Happening::Publish { channel, count: 1, large: false });
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
    // What failed is printed as it is; it belongs into `regressions`.
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn streams_get_what_the_log_has_and_gaps_are_told_exactly(
        steps in proptest::collection::vec(step(false), 1..60),
        lingers: bool,
    ) {
        check(steps, lingers, true);
    }

    #[test]
    fn with_plain_events_nothing_is_missing_without_a_gap(
        steps in proptest::collection::vec(step(true), 1..60),
        lingers: bool,
    ) {
        check(steps, lingers, false);
    }
}
