//! Revocations through Redis: told to all nodes at once, and kept for those that are away. Look here for
//! the channel and the key.

use headwater_core::broker::Sink;
use headwater_core::clock::now_ms;
use headwater_core::limits::REVOKED_TOKENS_MAX;
use headwater_core::revocation::{Revocation, RevocationRecord};
use redis::aio::ConnectionManager;
use redis::{RedisError, RedisResult};

use crate::keys::{REVOCATIONS, REVOCATIONS_CHANNEL};
use crate::library::LogMode;
use crate::limits::REVOCATION_KEPT;
use crate::wanted::Wanted;

/// By how much clocks of nodes may differ.
const CLOCK_SKEW_MS: u64 = 30_000;

/// Tells all nodes that have a connection, and keeps it for the others. The publish comes first: it
/// needs fewer permissions.
pub(crate) async fn publish(
    commands: &mut ConnectionManager,
    revocation: &Revocation,
    wanted: &Wanted,
) -> RedisResult<()> {
    let now_ms = now_ms();
    let record = RevocationRecord::new(revocation, now_ms);
    let text = record.encode();
    let mut publish = redis::cmd("PUBLISH");
    publish.arg(REVOCATIONS_CHANNEL).arg(&text).exec_async(commands).await?;
    if wanted.log_mode() == LogMode::Denied {
        tracing::warn!(
            "a revocation is not kept for nodes that are away: the Redis user may not use {REVOCATIONS}"
        );
        return Ok(());
    }
    let kept_ms = u64::try_from(REVOCATION_KEPT.as_millis()).unwrap_or(u64::MAX);
    let until_ms = record.token_until_ms().unwrap_or(0).max(now_ms + kept_ms);
    let newest = -1 - isize::try_from(REVOKED_TOKENS_MAX).unwrap_or(isize::MAX - 1);
    redis::pipe()
        .cmd("ZADD")
        .arg(REVOCATIONS)
        .arg(until_ms)
        .arg(text)
        .cmd("ZREMRANGEBYSCORE")
        .arg(REVOCATIONS)
        .arg("-inf")
        .arg(now_ms)
        .cmd("ZREMRANGEBYRANK")
        .arg(REVOCATIONS)
        .arg(0)
        .arg(newest)
        .exec_async(commands)
        .await
}

/// Gives what was revoked and is still kept: every token, and of the others what was revoked since the
/// connection was lost, which is at `lost_ms`.
pub(crate) async fn catch_up(mut commands: ConnectionManager, sink: Sink, lost_ms: Option<u64>) {
    let mut query = redis::cmd("ZRANGEBYSCORE");
    query.arg(REVOCATIONS).arg(now_ms()).arg("+inf");
    let kept: Result<Vec<Vec<u8>>, RedisError> = query.query_async(&mut commands).await;
    match kept {
        Ok(kept) => {
            for record in kept.iter().filter_map(|bytes| RevocationRecord::decode(bytes)) {
                let is_missed =
                    lost_ms.is_some_and(|lost| record.at_ms.saturating_add(CLOCK_SKEW_MS) >= lost);
                let is_token = record.token_until_ms().is_some();
                if let Some(revocation) = record.revocation().filter(|_| is_token || is_missed) {
                    sink.revoke(&revocation);
                }
            }
        }
        Err(error) => tracing::warn!(
            "what was revoked while this node was away cannot be read from Redis: {error}"
        ),
    }
}

/// What came over the channel.
pub(crate) fn receive(payload: &[u8], sink: &Sink) {
    match RevocationRecord::decode(payload).and_then(RevocationRecord::revocation) {
        Some(revocation) => sink.revoke(&revocation),
        None => {
            tracing::warn!("what came over {REVOCATIONS_CHANNEL} is no revocation: passed over");
        }
    }
}
