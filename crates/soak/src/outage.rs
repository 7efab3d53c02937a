//! Injects one fault into Redis or into the network to it, and repairs it. Look here for how.

use std::time::Duration;

use fastrand::Rng;
use headwater_test_support::{Direction, Proxy, RedisServer};
use tokio::task::block_in_place;
use tokio::time::sleep;

use crate::fault::Fault;
use crate::topology::{Network, Topology};
use crate::world::World;

/// The latency of a slow network, in each direction.
const LATENCY: Duration = Duration::from_millis(60);

/// The longest time to load the data.
const LOADING_MAX: Duration = Duration::from_secs(4);

/// The age of an older copy of the data, at least.
const COPY_AGE: Duration = Duration::from_millis(300);

/// Bytes that a command of the function takes in the append-only file, roughly.
const COMMAND_BYTES: u64 = 90;

/// `maxmemory` of a full Redis: less than an empty one uses.
const FULL: &str = "100kb";

/// A directory as the address of a primary that does not exist.
const NO_PRIMARY: [&str; 3] = ["REPLICAOF", "127.0.0.1", "1"];

/// Injects and repairs a fault in Redis; returns what was done.
pub async fn in_redis(
    world: &mut World,
    fault: Fault,
    lasts: Duration,
    rng: &mut Rng,
    channels: &[String],
) -> String {
    let ms = lasts.as_millis();
    if fault == Fault::PromoteReplica {
        let Some(topology) = world.topology() else { return "no replica".to_owned() };
        return promote(topology, lasts, rng).await;
    }
    let Some(redis) = world.redis() else { return "no Redis".to_owned() };
    match fault {
        Fault::KillSubscribers => {
            block_in_place(|| redis.run::<i64>(&["CLIENT", "KILL", "TYPE", "pubsub"]));
            "subscriber connections killed in Redis".to_owned()
        }
        Fault::RestartRedis => {
            block_in_place(|| redis.kill());
            sleep(lasts).await;
            block_in_place(|| redis.restart());
            format!("Redis killed, for {ms} ms")
        }
        Fault::FreezeRedis => {
            redis.freeze();
            sleep(lasts).await;
            redis.thaw();
            format!("Redis frozen, for {ms} ms")
        }
        Fault::LoadSlowly => block_in_place(|| load_slowly(redis, lasts.min(LOADING_MAX))),
        Fault::RestoreRedis => {
            let copy = block_in_place(|| redis.copy_data());
            let age = COPY_AGE + lasts / 4;
            sleep(age).await;
            block_in_place(|| {
                redis.kill();
                redis.restore_data(&copy);
                redis.restart();
            });
            format!("Redis killed, restarted from a copy {} ms old", age.as_millis())
        }
        Fault::FillRedis => {
            set_for(redis, "maxmemory", FULL, "0", lasts).await;
            format!("Redis full, for {ms} ms")
        }
        Fault::TooFewReplicas => {
            set_for(redis, "min-replicas-to-write", "9", "0", lasts).await;
            format!("Redis has too few replicas, for {ms} ms")
        }
        Fault::ReadOnlyRedis => {
            block_in_place(|| redis.run::<()>(&NO_PRIMARY));
            sleep(lasts).await;
            block_in_place(|| redis.promote());
            format!("Redis read-only, for {ms} ms")
        }
        Fault::DenyPublish => {
            block_in_place(|| redis.run::<()>(&["ACL", "SETUSER", "default", "-publish"]));
            sleep(lasts).await;
            block_in_place(|| redis.run::<()>(&["ACL", "SETUSER", "default", "+@all"]));
            format!("PUBLISH denied, for {ms} ms")
        }
        Fault::FlushRedis => {
            block_in_place(|| redis.run::<()>(&["FLUSHALL"]));
            "FLUSHALL".to_owned()
        }
        Fault::EvictKey => {
            let channel = rng.choice(channels).map_or("", String::as_str);
            let key = match rng.u8(0..4) {
                0 => "seq".to_owned(),
                1 => "epoch".to_owned(),
                2 => format!("last:{channel}"),
                _ => format!("log:{channel}"),
            };
            let key = format!("headwater:{{0}}:{key}");
            block_in_place(|| redis.run::<i64>(&["DEL", &key]));
            format!("{key} deleted")
        }
        other => format!("{other:?} is not a fault of Redis"),
    }
}

async fn set_for(redis: &RedisServer, name: &str, value: &str, after: &str, lasts: Duration) {
    block_in_place(|| redis.run::<()>(&["CONFIG", "SET", name, value]));
    sleep(lasts).await;
    block_in_place(|| redis.run::<()>(&["CONFIG", "SET", name, after]));
}

fn load_slowly(redis: &mut RedisServer, lasts: Duration) -> String {
    let info: String = redis.run(&["INFO", "persistence"]);
    let bytes = info.lines().find_map(|line| line.strip_prefix("aof_current_size:"));
    let bytes: u64 = bytes.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0);
    let commands = (bytes / COMMAND_BYTES).max(1);
    let delay_us = u64::try_from(lasts.as_micros()).unwrap_or(0) / commands;
    let delay = ["--key-load-delay", &delay_us.to_string()];
    let interval = ["--loading-process-events-interval-bytes", "1024"];
    redis.kill();
    let begin = std::time::Instant::now();
    redis.restart_with(&[delay, interval].concat());
    let loading = begin.elapsed().as_millis();
    // A replica would also load its first copy slowly.
    redis.run::<()>(&["CONFIG", "SET", "key-load-delay", "0"]);
    format!("Redis killed, loaded its data for {loading} ms")
}

/// Promotes the replica. What it has not received is lost, as with every asynchronous replica.
async fn promote(topology: &mut Topology, lasts: Duration, rng: &mut Rng) -> String {
    block_in_place(|| topology.replica().wait_until_in_sync());
    let lag = if rng.bool() { Duration::ZERO } else { Duration::from_millis(rng.u64(0..600)) };
    let old = rng.u8(0..3);
    match old {
        0 => {}
        1 => topology.primary().freeze(),
        _ => block_in_place(|| topology.primary().kill()),
    }
    if old > 0 {
        sleep(lasts).await;
    }
    block_in_place(|| topology.replica().promote());
    // Until the nodes go to the new primary, the old one still accepts events.
    sleep(lag).await;
    topology.switch();
    let network = topology.network();
    // What a program publishes on a replica reaches nobody else.
    network.programs.cut();
    let cut = rng.bool();
    if cut {
        network.nodes.iter().for_each(Proxy::cut);
    }
    match old {
        0 => {}
        1 => topology.other().thaw(),
        _ => block_in_place(|| topology.other().restart()),
    }
    block_in_place(|| topology.demote_other());
    let old = ["running", "frozen", "killed"][usize::from(old)];
    format!(
        "replica promoted, {} ms before it is the primary; the old one was {old}{}",
        lag.as_millis(),
        if cut { ", connections reset" } else { "" }
    )
}

/// Injects and repairs a fault in the network; returns what was done.
pub async fn in_network(network: &Network, fault: Fault, lasts: Duration, rng: &mut Rng) -> String {
    let one = rng.usize(0..network.nodes.len());
    let all = rng.u8(0..3) == 0;
    let chosen = network.nodes.iter().enumerate().filter(|(at, _)| all || *at == one);
    let proxies: Vec<&Proxy> = chosen.map(|(_, proxy)| proxy).collect();
    let who = if all { "all nodes".to_owned() } else { format!("node {one}") };
    let (ms, mut how) = (lasts.as_millis(), String::new());
    match fault {
        Fault::Swallow => {
            let directions = [Direction::ToTarget, Direction::ToClients, Direction::Both];
            let direction = *rng.choice(directions.iter()).unwrap_or(&Direction::Both);
            let existing = rng.bool();
            for proxy in &proxies {
                if existing {
                    proxy.swallow_existing(direction);
                } else {
                    proxy.swallow(direction);
                }
            }
            let which = if existing { "existing connections" } else { "all connections" };
            how = format!(" ({direction:?}, {which})");
        }
        Fault::Delay => proxies.iter().for_each(|proxy| proxy.set_latency(LATENCY)),
        Fault::Refuse => {
            for proxy in &proxies {
                proxy.refuse(true);
                proxy.cut();
            }
        }
        _ => proxies.iter().for_each(|proxy| proxy.cut()),
    }
    if fault == Fault::Cut {
        return format!("{who}: connections to Redis reset");
    }
    sleep(lasts).await;
    for proxy in &proxies {
        proxy.pass();
    }
    format!("{who}: network to Redis: {fault:?}{how}, for {ms} ms")
}
