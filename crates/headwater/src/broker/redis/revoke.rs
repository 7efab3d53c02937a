//! Revocations through Redis: told to all nodes at once, and kept for those that are away. Look here for
//! the channel and the key.

use ::redis::aio::ConnectionManager;
use ::redis::{RedisError, RedisResult};

use super::LogMode;
use super::subscriber::Wanted;
use crate::broker::Sink;
use crate::frame::now_ms;
use crate::limits::{REVOCATION_KEPT, REVOKED_TOKENS_MAX};
use crate::revocation::{Revocation, RevocationRecord};

/// The Redis channel over which nodes tell each other. No channel of ours has an envelope of this name.
pub(super) const REVOCATIONS_CHANNEL: &str = "headwater:revoked:{0}";

/// What was revoked, as a sorted set by the time until which it is kept, in milliseconds since 1970.
const REVOCATIONS_KEY: &str = "headwater:{0}:revoked";

/// By how much clocks of nodes may differ.
const CLOCK_SKEW_MS: u64 = 30_000;

/// Tells all nodes that have a connection, and keeps it for the others. The telling comes first: it
/// needs fewer permissions.
pub(super) async fn publish(
    commands: &mut ConnectionManager,
    revocation: &Revocation,
    wanted: &Wanted,
) -> RedisResult<()> {
    let now_ms = now_ms();
    let notice = RevocationRecord::new(revocation, now_ms);
    let text = notice.encode();
    let mut telling = ::redis::cmd("PUBLISH");
    telling.arg(REVOCATIONS_CHANNEL).arg(&text).exec_async(commands).await?;
    if wanted.durability() == LogMode::Off {
        tracing::warn!(
            "a revocation is not kept for nodes that are away: the Redis user may not use {REVOCATIONS_KEY}"
        );
        return Ok(());
    }
    let kept_ms = u64::try_from(REVOCATION_KEPT.as_millis()).unwrap_or(u64::MAX);
    let until_ms = notice.token_until_ms().unwrap_or(0).max(now_ms + kept_ms);
    let newest = -1 - isize::try_from(REVOKED_TOKENS_MAX).unwrap_or(isize::MAX - 1);
    ::redis::pipe()
        .cmd("ZADD")
        .arg(REVOCATIONS_KEY)
        .arg(until_ms)
        .arg(text)
        .cmd("ZREMRANGEBYSCORE")
        .arg(REVOCATIONS_KEY)
        .arg("-inf")
        .arg(now_ms)
        .cmd("ZREMRANGEBYRANK")
        .arg(REVOCATIONS_KEY)
        .arg(0)
        .arg(newest)
        .exec_async(commands)
        .await
}

/// Gives what was revoked and is still kept: every token, and of the others what was revoked since the
/// connection was lost, which is at `lost_ms`.
pub(super) async fn catch_up(mut commands: ConnectionManager, sink: Sink, lost_ms: Option<u64>) {
    let mut query = ::redis::cmd("ZRANGEBYSCORE");
    query.arg(REVOCATIONS_KEY).arg(now_ms()).arg("+inf");
    let kept: Result<Vec<Vec<u8>>, RedisError> = query.query_async(&mut commands).await;
    match kept {
        Ok(kept) => {
            for notice in kept.iter().filter_map(|bytes| RevocationRecord::decode(bytes)) {
                let is_missed =
                    lost_ms.is_some_and(|lost| notice.at_ms.saturating_add(CLOCK_SKEW_MS) >= lost);
                let is_token = notice.token_until_ms().is_some();
                if let Some(revocation) = notice.revocation().filter(|_| is_token || is_missed) {
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
pub(super) fn receive(payload: &[u8], sink: &Sink) {
    match RevocationRecord::decode(payload).and_then(RevocationRecord::revocation) {
        Some(revocation) => sink.revoke(&revocation),
        None => {
            tracing::warn!("what came over {REVOCATIONS_CHANNEL} is no revocation: passed over");
        }
    }
}
