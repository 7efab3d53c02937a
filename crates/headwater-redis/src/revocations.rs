//! Revocations through Redis: published to all connected nodes, and retained for nodes that
//! reconnect. Look here for how a node learns what was revoked while it was disconnected, and for
//! what becomes of revocations that Redis lost.

use headwater_core::broker::Sink;
use headwater_core::clock::now_ms;
use headwater_core::limits::REVOKED_TOKENS_MAX;
use headwater_core::log::Epoch;
use headwater_core::revocation::{Revocation, RevocationRecord};
use redis::{Pipeline, RedisResult, Value};

use crate::commands::Commands;
use crate::desired::{Desired, Retained};
use crate::errors::{is_denied, is_replica, readonly};
use crate::keys::{self, REVOCATIONS, REVOCATIONS_CHANNEL};
use crate::library::LogMode;
use crate::limits::REVOCATION_KEPT;

/// The tolerated difference between the clocks of nodes and of Redis.
const CLOCK_SKEW_MS: u64 = 30_000;

/// Publishes a revocation to all connected nodes, and stores it for the others, in one round trip:
/// the epoch is that of the server that has it. It is published first, because that needs fewer
/// permissions. Returns its time, by the clock of Redis.
pub(crate) async fn publish(
    commands: &mut Commands,
    revocation: &Revocation,
    desired: &Desired,
) -> RedisResult<u64> {
    let now_ms = now_ms();
    let at_ms = time_ms(commands).await?;
    let record = RevocationRecord::new(revocation, at_ms);
    let retained_ms = u64::try_from(REVOCATION_KEPT.as_millis()).unwrap_or(u64::MAX);
    let until_ms = record.token_until_ms().unwrap_or(0).max(now_ms + retained_ms);
    let retained = Retained { until_ms, text: record.encode() };
    let mut pipeline = redis::pipe();
    pipeline.cmd("PUBLISH").arg(REVOCATIONS_CHANNEL).arg(&retained.text).ignore();
    if desired.log_mode() == LogMode::Denied {
        tracing::warn!(
            "a revocation is not retained for disconnected nodes: Redis denies the key \
             {REVOCATIONS}"
        );
        pipeline.cmd("HELLO");
        let (hello,): (Value,) = pipeline.query_async(commands).await?;
        return if is_replica(&hello) { Err(readonly()) } else { Ok(at_ms) };
    }
    let newest = -1 - isize::try_from(REVOKED_TOKENS_MAX).unwrap_or(isize::MAX - 1);
    add_retained(&mut pipeline, &retained);
    pipeline.cmd("ZREMRANGEBYSCORE").arg(REVOCATIONS).arg("-inf").arg(now_ms).ignore();
    pipeline.cmd("ZREMRANGEBYRANK").arg(REVOCATIONS).arg(0).arg(newest).ignore();
    let epoch = with_epoch(pipeline, commands).await?;
    desired.record_revocation(retained, epoch);
    Ok(at_ms)
}

/// Stores and publishes revocations of this node again: Redis may have lost them. Returns the epoch
/// of the server that has the last of them.
pub(crate) async fn publish_again(
    commands: &mut Commands,
    own: &[Retained],
) -> RedisResult<Option<Epoch>> {
    let mut epoch = None;
    for page in own.chunks(PAGE) {
        let mut pipeline = redis::pipe();
        for retained in page {
            add_retained(&mut pipeline, retained);
            pipeline.cmd("PUBLISH").arg(REVOCATIONS_CHANNEL).arg(&retained.text).ignore();
        }
        let now = with_epoch(pipeline, commands).await?;
        if epoch.replace(now).is_some_and(|before| before != now) {
            // Another server has those before.
            return Ok(None);
        }
    }
    Ok(epoch.flatten())
}

/// Runs commands whose answers are of no interest, and returns the epoch of the log there.
async fn with_epoch(mut pipeline: Pipeline, commands: &mut Commands) -> RedisResult<Option<Epoch>> {
    pipeline.cmd("GET").arg(keys::EPOCH);
    let (epoch,): (Option<String>,) = pipeline.query_async(commands).await?;
    Ok(epoch.and_then(|epoch| epoch.parse().ok()))
}

fn add_retained(pipeline: &mut Pipeline, Retained { until_ms, text }: &Retained) {
    pipeline.cmd("ZADD").arg(REVOCATIONS).arg(*until_ms).arg(text).ignore();
}

/// The time by the clock of Redis, in milliseconds since 1970: one clock for all nodes, so that
/// revocations and tickets have an order. A Redis that denies it leaves that to the node's clock.
async fn time_ms(commands: &mut Commands) -> RedisResult<u64> {
    match redis::cmd("TIME").query_async::<(u64, u64)>(commands).await {
        Ok((seconds, microseconds)) => Ok(seconds * 1_000 + microseconds / 1_000),
        Err(error) if is_denied(&error) => Ok(now_ms()),
        Err(error) => Err(error),
    }
}

/// How many revocations one command reads: they take Redis less than a millisecond.
const PAGE: usize = 1_000;

/// Passes retained revocations to the hub: of tokens all, and of the rest those since
/// `missed_since_ms`, in milliseconds since 1970.
pub(crate) async fn catch_up(
    commands: &mut Commands,
    sink: &Sink,
    missed_since_ms: u64,
) -> RedisResult<()> {
    let from_ms = now_ms();
    let mut at = 0;
    loop {
        let mut query = redis::cmd("ZRANGEBYSCORE");
        query.arg(REVOCATIONS).arg(from_ms).arg("+inf").arg("LIMIT").arg(at).arg(PAGE);
        let records: Vec<Vec<u8>> = query.query_async(commands).await?;
        for record in records.iter().filter_map(|bytes| RevocationRecord::decode(bytes)) {
            let is_missed = record.at_ms.saturating_add(CLOCK_SKEW_MS) >= missed_since_ms;
            let (is_token, at_ms) = (record.token_until_ms().is_some(), record.at_ms);
            if let Some(revocation) = record.revocation().filter(|_| is_token || is_missed) {
                sink.revoke(&revocation, at_ms);
            }
        }
        if records.len() < PAGE {
            return Ok(());
        }
        // Records are only added meanwhile, with later times, or removed once they have expired.
        at += records.len();
    }
}

/// Handles a message on the revocations' Redis channel.
pub(crate) fn receive(payload: &[u8], sink: &Sink) {
    let record = RevocationRecord::decode(payload);
    let made = record.and_then(|record| Some((record.at_ms, record.revocation()?)));
    match made {
        Some((at_ms, revocation)) => sink.revoke(&revocation, at_ms),
        None => {
            tracing::warn!("ignored a message on {REVOCATIONS_CHANNEL} that is no revocation");
        }
    }
}
