//! The checks of `headwater check` in Redis: version, permissions, function, latency, output
//! limits.

use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Client, FromRedisValue, RedisResult};
use tokio::time::timeout;

use super::findings::Findings;
use crate::exit::{Failure, error_chain};
use crate::settings::{AccessSettings, RedisUrl};

/// How long one command may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// How many round trips to Redis are measured. Chosen arbitrarily.
const ROUNDS: usize = 20;

/// A longer round trip to Redis is a warning: each publish takes one.
const LATENCY_WARNING: Duration = Duration::from_millis(20);

/// Redis closes a subscriber that lags by this much for a minute; less than an event of the largest
/// size would cut the node off.
const OUTPUT_LIMIT_MIN: u64 = 8 << 20;

/// An unused prefix of names, with which permissions are tried.
const TRIED: &str = "headwater:{0}:check";

pub(super) async fn check(
    url: &RedisUrl,
    access: &AccessSettings,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let mut redis = match connect(url).await {
        Ok(redis) => redis,
        Err(error) => return findings.fail(&format!("cannot connect: {}", error_chain(&error))),
    };
    check_version(&mut redis, findings).await?;
    check_permissions(&mut redis, findings).await?;
    check_latency(&mut redis, findings).await?;
    check_output_limits(&mut redis, findings).await?;
    if access.silences_plain_publish() {
        findings.warn(
            "plain PUBLISH messages are not delivered: access rules are set and redis-channels is \
             not",
        )?;
    }
    if access.plain_channels().is_none() {
        findings.warn(
            "plain PUBLISH messages of every Redis channel are delivered: see redis-channels",
        )?;
    }
    Ok(())
}

async fn connect(url: &RedisUrl) -> anyhow::Result<MultiplexedConnection> {
    let client = Client::open(url.expose())?;
    Ok(timeout(ANSWER_TIMEOUT, client.get_multiplexed_async_connection())
        .await
        .map_err(|_| anyhow::anyhow!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))??)
}

async fn ask<T: FromRedisValue>(
    redis: &mut MultiplexedConnection,
    words: &[&str],
) -> RedisResult<T> {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    match timeout(ANSWER_TIMEOUT, command.query_async(redis)).await {
        Ok(answer) => answer,
        Err(_) => Err((redis::ErrorKind::Io, "no answer in time").into()),
    }
}

async fn check_version(
    redis: &mut MultiplexedConnection,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let info: String = match ask(redis, &["INFO", "server"]).await {
        Ok(info) => info,
        Err(error) => {
            return findings.warn(&format!("its version cannot be read (INFO): {error}"));
        }
    };
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
    let version = version.unwrap_or_default().trim().to_owned();
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0_u32));
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match (major, minor) {
        (7.., _) => findings.good(&format!("version {version}")),
        (6, 2..) => {
            findings.good(&format!("version {version}: scripts take the place of functions"))
        }
        _ => findings.fail(&format!("version {version} is too old: 6.2 or newer is needed")),
    }
}

/// Tries what a node does, on unused names, and cleans up.
async fn check_permissions(
    redis: &mut MultiplexedConnection,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let tried: [(&str, &[&str]); 8] = [
        ("publish events", &["PUBLISH", TRIED, ""]),
        ("prove that events arrive", &["PUBLISH", "headwater:probe:check", ""]),
        ("notify other nodes of revocations", &["PUBLISH", "headwater:revoked:{0}", "{}"]),
        ("store revocations", &["ZRANGEBYSCORE", "headwater:{0}:revoked", "0", "0"]),
        ("retain history", &["XRANGE", "headwater:{0}:log:check", "-", "+", "COUNT", "1"]),
        ("store tickets", &["SET", TRIED, "1", "EX", "1"]),
        ("redeem tickets", &["GETDEL", TRIED]),
        ("load the function", &["FUNCTION", "LIST", "LIBRARYNAME", "headwater"]),
    ];
    let mut allowed = Vec::new();
    for (what, words) in tried {
        match ask::<redis::Value>(redis, words).await {
            Ok(_) => allowed.push(what),
            Err(error) if error.code() == Some("NOPERM") => findings.fail(&format!(
                "its user may not {what} ({} {}): docs/redis.md has the permissions that it needs",
                words[0], words[1]
            ))?,
            // Older than functions: a script does it.
            Err(_) if words[0] == "FUNCTION" => {}
            Err(error) => findings.fail(&format!("it cannot {what}: {error}"))?,
        }
    }
    findings.good(&format!("its user may {}", allowed.join(", ")))?;
    let loaded: RedisResult<Vec<redis::Value>> =
        ask(redis, &["FUNCTION", "LIST", "LIBRARYNAME", "headwater"]).await;
    match loaded {
        Ok(libraries) if libraries.is_empty() => findings
            .good("the function headwater_publish is not there yet: a node loads it at start"),
        Ok(_) => findings.good("the function headwater_publish is there"),
        Err(_) => Ok(()),
    }
}

async fn check_latency(
    redis: &mut MultiplexedConnection,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let mut longest = Duration::ZERO;
    let began = Instant::now();
    for _ in 0..ROUNDS {
        let asked = Instant::now();
        if let Err(error) = ask::<redis::Value>(redis, &["EXISTS", TRIED]).await {
            return findings.fail(&format!("it does not answer: {error}"));
        }
        longest = longest.max(asked.elapsed());
    }
    let rounds = u32::try_from(ROUNDS).unwrap_or(1);
    let average = began.elapsed() / rounds;
    let text = format!("round trip {} µs (max {} µs)", average.as_micros(), longest.as_micros());
    if average > LATENCY_WARNING { findings.warn(&text) } else { findings.good(&text) }
}

/// `client-output-buffer-limit` of Pub/Sub: if it is too small, Redis disconnects nodes in a burst.
async fn check_output_limits(
    redis: &mut MultiplexedConnection,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let answer: RedisResult<Vec<String>> =
        ask(redis, &["CONFIG", "GET", "client-output-buffer-limit"]).await;
    let Ok(answer) = answer else {
        return findings.good("its output limits cannot be read (CONFIG), which a node need not");
    };
    let limits = answer.get(1).map(String::as_str).unwrap_or_default();
    let words: Vec<&str> = limits.split_whitespace().collect();
    let of_pubsub = words.iter().position(|word| *word == "pubsub").map(|at| &words[at + 1..]);
    let bytes = |at: usize| of_pubsub.and_then(|it| it.get(at)?.parse::<u64>().ok()).unwrap_or(0);
    let (hard, soft) = (bytes(0), bytes(1));
    let is_small = |limit: u64| limit > 0 && limit < OUTPUT_LIMIT_MIN;
    if is_small(hard) || is_small(soft) {
        return findings.warn(&format!(
            "its output limit for Pub/Sub is small ({hard} bytes at once, {soft} for a while): a \
             burst disconnects nodes; CONFIG SET client-output-buffer-limit \
             'pubsub 33554432 8388608 60'"
        ));
    }
    findings.good("its output limits for Pub/Sub are large enough")
}
