//! The Redis functions that publish retained events and open the log: how a node installs and calls
//! them. Look here for how nodes of different versions share a Redis; `publish.lua` is the function
//! itself, and `log.lua` decides which log this is.

#[cfg(test)]
mod agreement_tests;
#[cfg(all(test, feature = "__live"))]
mod live_tests;

use std::fmt::Write as _;
use std::sync::{LazyLock, Once};

use headwater_core::Publish;
use headwater_core::log::{Epoch, Retention, RetentionRules};
use redis::aio::ConnectionLike;
use redis::{Pipeline, RedisResult, Script, Value, cmd, pipe};
use tokio::time::Instant;

use crate::errors::{has_error, is_denied, is_missing, is_unsupported};
use crate::keys;

/// The version of the library, which `headwater_version` returns.
pub(crate) const VERSION: u64 = 3;

/// The source for FUNCTION LOAD.
const SOURCE: &str = concat!(
    include_str!("arguments.lua"),
    include_str!("rules.lua"),
    include_str!("log.lua"),
    include_str!("last.lua"),
    include_str!("publish.lua"),
);

/// The source as a script that calls one of its functions, for Redis 6.2.
fn script_of(function: &str) -> Script {
    // Redis 6.2 does not accept the first line.
    let (_, body) = SOURCE.split_once('\n').unwrap_or_default();
    let call = format!("return {function}(KEYS, ARGV)");
    Script::new(&body.replace("return publish(KEYS, ARGV)", &call))
}

static PUBLISH: LazyLock<Script> = LazyLock::new(|| script_of("publish"));
static BEGIN: LazyLock<Script> = LazyLock::new(|| script_of("begin"));
static PROBE: LazyLock<Script> = LazyLock::new(|| script_of("probe"));

/// A position of the log that a node has heard of: everything up to it was given out, so a log that
/// lacks it gets a new epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) epoch: Epoch,
    pub(crate) offset: u64,
    /// Earlier epochs: a log of one of them is an older copy.
    pub(crate) ended: Vec<Epoch>,
    /// The last event of this node that Redis accepted in each epoch.
    pub(crate) accepted: Vec<Accepted>,
}

/// An event that Redis accepted. A log of its epoch that lacks it gets a new epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) epoch: Epoch,
    pub(crate) offset: u64,
    /// When, if perhaps by another server: a log that was in a later epoch by then gets a new one.
    pub(crate) at: Option<Instant>,
}

impl Heard {
    /// The arguments of `headwater_begin` and `headwater_probe`.
    fn words(&self) -> Vec<String> {
        let mut words = vec![self.epoch.to_string(), self.offset.to_string()];
        words.extend(self.ended.iter().map(Epoch::to_string));
        words.extend(self.accepted.iter().map(|Accepted { epoch, offset, at }| match at {
            Some(at) => format!("{epoch} {offset} {}", at.elapsed().as_millis()),
            None => format!("{epoch} {offset}"),
        }));
        words
    }
}

/// How events are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// With FCALL: Redis 7 or Valkey.
    Function,
    /// With EVALSHA: Redis 6.2, or a Redis that denies functions.
    Script,
}

/// Whether events can be retained in this Redis.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum LogMode {
    /// It is not known yet.
    #[default]
    Unknown,
    /// Redis denies the log's keys.
    Denied,
    Available(Mode),
}

/// Installs the function if it is missing or older than this build's, and opens the log: creates it
/// if there is none, and begins a new epoch if Redis does not have what the node has `heard` of. A
/// newer function is left unchanged, so that nodes of different versions do not replace each
/// other's.
///
/// # Errors
/// If Redis cannot be reached, denies both functions and scripts, or rejects writes. Retry.
pub(crate) async fn install<C: ConnectionLike + Send>(
    commands: &mut C,
    heard: Option<&Heard>,
) -> RedisResult<Mode> {
    let mode = match install_function(commands).await {
        Ok(()) => Mode::Function,
        Err(error) if is_unsupported(&error) => {
            PUBLISH.load_async(commands).await?;
            Mode::Script
        }
        Err(error) => return Err(error),
    };
    begin(commands, heard).await?;
    warn_without_info(commands).await;
    Ok(mode)
}

/// The function asks INFO which server it runs on, which version 1 did not.
async fn warn_without_info<C: ConnectionLike + Send>(commands: &mut C) {
    static WARNED: Once = Once::new();
    let answer = cmd("INFO").arg("replication").exec_async(commands).await;
    if answer.is_err_and(|error| is_denied(&error)) {
        WARNED.call_once(|| {
            tracing::warn!(
                "Redis denies INFO, so a replica that was promoted is not recognized unless it \
                 lacks events that this node has heard of: give the Redis user the permission +info"
            );
        });
    }
}

/// Proves that Redis accepts what a publish writes, by writing the log's position again. Opens the
/// log as [`install`] does, and returns its epoch.
///
/// # Errors
/// As those of a publish: if Redis rejects writes, a permission or the function is missing.
pub(crate) async fn probe<C: ConnectionLike + Send>(
    commands: &mut C,
    mode: Mode,
    heard: Option<&Heard>,
) -> RedisResult<Option<Epoch>> {
    let answer = call_with_heard(commands, mode, "headwater_probe", &PROBE, heard).await?;
    let (epoch, _last): (String, u64) = redis::from_redis_value(answer)?;
    Ok(epoch.parse().ok())
}

/// Opens the log as [`install`] does, whether or not the function is installed.
pub(crate) async fn begin<C: ConnectionLike + Send>(
    commands: &mut C,
    heard: Option<&Heard>,
) -> RedisResult<()> {
    match call_with_heard(commands, Mode::Function, "headwater_begin", &BEGIN, heard).await {
        Err(error) if is_missing(&error) || is_unsupported(&error) => {
            call_with_heard(commands, Mode::Script, "", &BEGIN, heard).await.map(drop)
        }
        result => result.map(drop),
    }
}

async fn call_with_heard<C: ConnectionLike + Send>(
    commands: &mut C,
    mode: Mode,
    function: &str,
    script: &Script,
    heard: Option<&Heard>,
) -> RedisResult<Value> {
    let words = heard.map(Heard::words);
    match mode {
        Mode::Function => {
            let mut call = cmd("FCALL");
            call.arg(function).arg(1).arg(keys::LOG).arg(words).query_async(commands).await
        }
        // Loads the script if Redis does not have it.
        Mode::Script => script.key(keys::LOG).arg(words).invoke_async(commands).await,
    }
}

async fn install_function<C: ConnectionLike + Send>(commands: &mut C) -> RedisResult<()> {
    let mut found = installed_version(commands).await?;
    if found.is_none() {
        match cmd("FUNCTION").arg("LOAD").arg(SOURCE).exec_async(commands).await {
            Ok(()) => return Ok(()),
            // Another node was faster, possibly with another version.
            Err(error) if has_error(&error, "ERR", "already exists") => {
                found = installed_version(commands).await?;
            }
            Err(error) => return Err(error),
        }
    }
    if found < Some(VERSION) {
        let mut load = cmd("FUNCTION");
        load.arg("LOAD").arg("REPLACE").arg(SOURCE);
        load.exec_async(commands).await?;
    }
    Ok(())
}

async fn installed_version<C: ConnectionLike + Send>(commands: &mut C) -> RedisResult<Option<u64>> {
    let version = cmd("FCALL_RO").arg("headwater_version").arg(0).query_async(commands).await;
    match version {
        Err(error) if is_missing(&error) => Ok(None),
        version => version.map(Some),
    }
}

/// Adds the call that publishes an event. The answer is the position as text, or nil if the channel
/// has no retention. Only if `may_be_plain`, such an event may become a plain `PUBLISH`.
pub(crate) fn add_publish(
    pipeline: &mut Pipeline,
    mode: Mode,
    publish: &Publish,
    may_be_plain: bool,
) {
    let (channel, event) = (publish.channel(), publish.event());
    let call = match mode {
        Mode::Function => pipeline.cmd("FCALL").arg("headwater_publish"),
        Mode::Script => pipeline.cmd("EVALSHA").arg(PUBLISH.get_hash()),
    };
    call.arg(1).arg(keys::LOG).arg(channel.as_str()).arg(event.data());
    if let Some(name) = event.name() {
        call.arg("event").arg(name.as_str());
    }
    if let Some(id) = event.id() {
        call.arg("id").arg(id.as_str());
    }
    if let Some(retry) = event.retry() {
        call.arg("retry").arg(retry.as_millis().to_string());
    }
    if let Some(key) = publish.idempotency_key() {
        call.arg("key").arg(key.as_str());
        if let Some(publisher) = publish.publisher() {
            call.arg("publisher").arg(publisher);
        }
    }
    if publish.is_end() {
        call.arg("end").arg(1);
    }
    if !may_be_plain {
        call.arg("plain").arg(0);
    }
}

/// The rules in the text form that the function reads: one line each.
pub(crate) fn rules_text(rules: &RetentionRules) -> String {
    let mut text = String::new();
    for (pattern, retention) in rules.iter() {
        // Writing to a string does not fail.
        let _ = match retention {
            Some(Retention { events, age, bytes, .. }) => {
                writeln!(text, "{pattern} {events} {} {bytes}", age.as_millis())
            }
            None => writeln!(text, "{pattern} off"),
        };
    }
    text
}

/// The retention rules in Redis, as text.
pub(crate) async fn read_rules<C: ConnectionLike + Send>(
    commands: &mut C,
) -> RedisResult<Option<Vec<u8>>> {
    cmd("GET").arg(keys::RULES).query_async(commands).await
}

/// Writes the retention rules that the function applies, in its text form: lines
/// `PATTERN EVENTS AGE_MS BYTES` or `PATTERN off`.
///
/// # Errors
/// If Redis cannot be reached or denies it.
pub(crate) async fn write_rules<C: ConnectionLike + Send>(
    commands: &mut C,
    text: &str,
) -> RedisResult<()> {
    pipe().set(keys::RULES, text).exec_async(commands).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_written_in_the_form_that_the_function_reads() {
        let rules = RetentionRules::new()
            .with_rule("chat:vip events=5")
            .and_then(|rules| rules.with_rule("chat:* off"))
            .and_then(|rules| rules.with_rule("* events=7 age=1s bytes=1KiB"))
            .unwrap();
        assert_eq!(rules_text(&rules), "chat:vip 5 600000 8388608\nchat:* off\n* 7 1000 1024\n");
        assert_eq!(rules_text(&RetentionRules::new()), "");
    }
}
