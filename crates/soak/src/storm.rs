//! A reconnect storm: all clients reconnect at once to a node that has just started. Measures how
//! often Redis is read and how long it takes, and checks that each client receives exactly what it
//! missed. Look here for the scenario `storm`, which has no randomness.

use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater::event::{Decoder, Item};
use headwater_test_support::RedisServer;
use tokio::sync::Barrier;
use tokio::task::{JoinSet, block_in_place};
use tokio::time::{sleep, timeout};

use crate::connection::{Connection, StreamRequest};
use crate::log::Protocol;
use crate::redis_calls::{Call, RedisCalls};
use crate::round::{Options, Verdict};
use crate::scenario::{Pace, Scenario};
use crate::tally::Counts;
use crate::world::World;

/// Channels; the clients are spread evenly over them.
const CHANNELS: usize = 10;

/// Events of each channel before the clients disconnect.
const BEFORE: u64 = 5;
/// Events of each channel that the clients miss.
const MISSED: u64 = 200;

/// Clients that wait for each other before they connect.
const OPENING_BATCH: usize = 500;

/// How long each part may take before the round fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the storm with this many streams.
///
/// # Errors
/// When the round could not be completed.
///
/// # Panics
/// When Redis or the node does not start.
pub async fn run(
    options: &Options,
    scenario: &Scenario,
    streams: usize,
) -> Result<Verdict, String> {
    let mut world = block_in_place(|| World::start(&options.binary, scenario))?;
    world.wait_until_ready().await;
    let mut redis = RedisCalls::new(world.redis_url().ok_or("a storm needs Redis")?);
    let last_ids = get_last_ids(&world, &mut redis).await?;
    block_in_place(|| world.kill_node(0));
    publish(&mut redis, BEFORE + 1..=BEFORE + MISSED).await?;
    block_in_place(|| world.start_node(0));
    world.wait_until_ready().await;
    let reads_before = world.redis().map_or(0, |redis| block_in_place(|| reads(redis)));

    let begin = Instant::now();
    let results = resume_all(&world, &last_ids, streams, begin).await;
    let reads = world.redis().map_or(0, |redis| block_in_place(|| reads(redis))) - reads_before;
    let slowest = results.iter().filter_map(|result| result.as_ref().ok()).max().copied();
    let mut wrong: Vec<String> = results.into_iter().filter_map(Result::err).collect();
    let failed = wrong.len();
    wrong.truncate(5);
    if failed > 0 {
        wrong.push(format!("{failed} of {streams} streams failed"));
    }
    if reads > CHANNELS as u64 {
        wrong.push(format!("{reads} range reads for {CHANNELS} channels"));
    }
    let summary = format!(
        "{streams} streams on {CHANNELS} channels resumed, {MISSED} events each; \
         {reads} range reads; the last was live after {:.2} s",
        slowest.unwrap_or_default().as_secs_f64()
    );
    Ok(Verdict { counts: Counts::default(), summary, counterexamples: wrong })
}

/// Publishes the first events to one client per channel, and returns the clients' last ids.
async fn get_last_ids(world: &World, redis: &mut RedisCalls) -> Result<Vec<String>, String> {
    let mut connections = Vec::new();
    for channel in 0..CHANNELS {
        connections.push(open(world, channel, "").await?);
    }
    publish(redis, 1..=BEFORE).await?;
    let mut ids = Vec::new();
    for (channel, connection) in connections.into_iter().enumerate() {
        let last = timeout(PATIENCE, read_until(connection, channel, 1, BEFORE)).await;
        ids.push(last.map_err(|_| "the first events do not arrive")??.1);
    }
    Ok(ids)
}

async fn resume_all(
    world: &World,
    last_ids: &[String],
    streams: usize,
    begin: Instant,
) -> Vec<Result<Duration, String>> {
    let barrier = Arc::new(Barrier::new(streams.min(OPENING_BATCH)));
    let address = world.addresses()[0];
    let mut clients = JoinSet::new();
    for number in 0..streams {
        let channel = number % CHANNELS;
        let last_id = last_ids[channel].clone();
        let barrier = (number < OPENING_BATCH).then(|| Arc::clone(&barrier));
        clients.spawn(async move {
            if let Some(barrier) = barrier {
                barrier.wait().await;
            }
            let path = format!("/sse/stream?channel=soak.d{channel}");
            let resume = async {
                let connection = loop {
                    let request = StreamRequest {
                        address,
                        path: &path,
                        last_event_id: Some(&last_id),
                        protocol: Protocol::Http1,
                        pace: Pace::Slow,
                    };
                    match Connection::open(&request).await {
                        Ok(connection) => break connection,
                        // The listen backlog may be full for a moment.
                        Err(_) => sleep(Duration::from_millis(20)).await,
                    }
                };
                read_until(connection, channel, BEFORE + 1, BEFORE + MISSED).await
            };
            let (connection, _) =
                timeout(PATIENCE, resume).await.map_err(|_| "not live in time".to_owned())??;
            let live_after = begin.elapsed();
            Ok((connection, live_after))
        });
    }
    let mut open = Vec::new();
    let mut results = Vec::new();
    while let Some(joined) = clients.join_next().await {
        results.push(match joined {
            Ok(Ok((connection, live_after))) => {
                // All stay connected until the last one is live.
                open.push(connection);
                Ok(live_after)
            }
            Ok(Err(why)) => Err(why),
            Err(error) => Err(error.to_string()),
        });
    }
    results
}

async fn open(world: &World, channel: usize, last_id: &str) -> Result<Connection, String> {
    let path = format!("/sse/stream?channel=soak.d{channel}");
    let request = StreamRequest {
        address: world.addresses()[0],
        path: &path,
        last_event_id: Some(last_id).filter(|id| !id.is_empty()),
        protocol: Protocol::Http1,
        pace: Pace::Fast,
    };
    Connection::open(&request).await.map_err(|_| "a stream does not open".to_owned())
}

/// Reads exactly the events from `first` to `last`, and returns the last id.
async fn read_until(
    mut connection: Connection,
    channel: usize,
    first: u64,
    last: u64,
) -> Result<(Connection, String), String> {
    let mut decoder = Decoder::new();
    let mut next = first;
    while next <= last {
        let bytes = connection.read().await.ok_or("a stream ended")?;
        connection.decode(&bytes, &mut decoder).map_err(|error| error.to_string())?;
        while let Some(item) = decoder.next_item() {
            let Item::Event(message) = item else { continue };
            if message.data != format!("soak.d{channel} {next}") {
                let got = message.data;
                return Err(format!("expected {next} of channel {channel}, got `{got}`"));
            }
            next += 1;
        }
    }
    Ok((connection, decoder.last_event_id().to_owned()))
}

async fn publish(
    redis: &mut RedisCalls,
    numbers: std::ops::RangeInclusive<u64>,
) -> Result<(), String> {
    for channel in 0..CHANNELS {
        let name = format!("soak.d{channel}");
        let call = |number| Call {
            channel: name.clone(),
            data: format!("{name} {number}"),
            options: Vec::new(),
        };
        let calls: Vec<Call> = numbers.clone().map(call).collect();
        redis.publish_durable(&calls).await.map_err(|failure| failure.to_string())?;
    }
    Ok(())
}

/// How many range reads of streams Redis has served so far.
fn reads(redis: &RedisServer) -> u64 {
    let stats: String = redis.run(&["INFO", "commandstats"]);
    let calls = |line: &str| {
        let (_, rest) = line.split_once(":calls=")?;
        rest.split(',').next()?.parse::<u64>().ok()
    };
    let is_read =
        |line: &&str| line.starts_with("cmdstat_xrange") || line.starts_with("cmdstat_xrevrange");
    stats.lines().filter(is_read).filter_map(calls).sum()
}
