//! A client that drops at random moments under load. Look here for how often, and for how long.

use std::time::{Duration, Instant};

use headwater_test_support::Node;

use crate::support::follower::{Follower, Wire, is_full};
use crate::support::load::{Load, Via};

pub(crate) const PER_SECOND: u64 = 2_000;

/// More than is published while a client is away, on the slowest machine.
pub(crate) const KEEP: &str = "* events=100000 bytes=64MiB";

pub(crate) const FIVE: [&str; 5] = ["a", "b", "c", "d", "e"];

/// How long a client stays away: mostly no time, seldom a second.
pub(crate) enum Away {
    UpToASecond,
    /// No longer than the ring of a channel lasts, which is 1,024 events.
    Short,
}

pub(crate) async fn check(node: &Node, wire: Wire, via: Via, channels: &[&str], away: Away) {
    let (lasts, drops) = if is_full() { (20_000, 100) } else { (5_000, 30) };
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let query: Vec<String> = channels.iter().map(|channel| format!("channel={channel}")).collect();
    let path = format!("/sse/stream?{}", query.join("&"));
    let mut follower = Follower::open(node, wire, &path).await;
    let begin = Instant::now();
    let load = Load::start(via, channels, PER_SECOND);
    let mut moments: Vec<u64> = (0..drops).map(|_| random.u64(0..lasts)).collect();
    moments.sort_unstable();
    for moment in moments {
        let moment = begin + Duration::from_millis(moment);
        follower.read_for(moment.saturating_duration_since(Instant::now())).await;
        follower.go_away();
        let away_ms = match away {
            _ if random.u8(0..3) > 0 => 0,
            Away::UpToASecond if random.u8(0..8) == 0 => random.u64(0..1_000),
            _ => random.u64(0..50),
        };
        tokio::time::sleep(Duration::from_millis(away_ms)).await;
        follower.resume().await;
    }
    let end = begin + Duration::from_millis(lasts);
    follower.read_for(end.saturating_duration_since(Instant::now())).await;
    let published = load.stop();
    follower.read_to(published - 1).await;
    follower.assert_gapless(published);
    println!("{published} events, {drops} drops, {:?}", begin.elapsed());
    assert!(published >= PER_SECOND * lasts / 1000 / 2, "the publisher was held up: {published}");
}
