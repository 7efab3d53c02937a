//! The Redis function that publishes retained events: how a node installs and calls it. Look here
//! for how nodes of different versions share a Redis; `publish.lua` is the function itself.

#[cfg(all(test, feature = "__live"))]
mod live_tests;

use std::fmt::Write as _;
use std::sync::LazyLock;

use headwater_core::Event;
use headwater_core::log::{Retention, RetentionRules};
use redis::{Pipeline, RedisError, Script, cmd, pipe};

use crate::commands::Commands;
use crate::errors::{has_error, is_missing, is_unsupported};
use crate::keys;

/// The version of the library, which `headwater_version` returns.
pub(crate) const VERSION: u64 = 1;

/// Longest retry that the function accepts: 49 days.
const RETRY_MS_MAX: u128 = u32::MAX as u128;

/// How far the sequence jumps after a restart of Redis; `publish.lua` has the reason.
const RESTART_JUMP: u64 = 1 << 32;

static SCRIPT: LazyLock<Script> = LazyLock::new(|| {
    // Redis 6.2 does not accept the first line.
    let (_, body) = library_source().split_once('\n').unwrap_or_default();
    Script::new(body)
});

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

/// The source for FUNCTION LOAD.
pub(crate) fn library_source() -> &'static str {
    include_str!("publish.lua")
}

/// The same source as a script, for Redis 6.2.
pub(crate) fn script() -> &'static Script {
    &SCRIPT
}

/// Installs the function if it is missing or older than this build's. A newer one is left
/// unchanged, so that nodes of different versions do not replace each other's.
///
/// # Errors
/// If Redis cannot be reached, or denies both functions and scripts. Retry after a reconnect.
pub(crate) async fn install(commands: &mut Commands) -> Result<Mode, RedisError> {
    match install_function(commands).await {
        Ok(()) => begin(commands).await.map(|()| Mode::Function),
        Err(error) if is_unsupported(&error) => {
            install_script(commands).await?;
            Ok(Mode::Script)
        }
        Err(error) => Err(error),
    }
}

async fn install_function(commands: &mut Commands) -> Result<(), RedisError> {
    let mut found = installed_version(commands).await?;
    if found.is_none() {
        match cmd("FUNCTION").arg("LOAD").arg(library_source()).exec_async(commands).await {
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
        load.arg("LOAD").arg("REPLACE").arg(library_source());
        load.exec_async(commands).await?;
    }
    Ok(())
}

async fn installed_version(commands: &mut Commands) -> Result<Option<u64>, RedisError> {
    let version = cmd("FCALL_RO").arg("headwater_version").arg(0).query_async(commands).await;
    match version {
        Err(error) if is_missing(&error) => Ok(None),
        version => version.map(Some),
    }
}

/// Creates the log if there is none. The function itself does this: it must know that the log was
/// created since Redis started, or it would jump before the first offset.
async fn begin(commands: &mut Commands) -> Result<(), RedisError> {
    match cmd("FCALL").arg("headwater_begin").arg(1).arg(keys::LOG).exec_async(commands).await {
        // A newer library may not have this function.
        Err(error) if is_missing(&error) => Ok(()),
        result => result,
    }
}

async fn install_script(commands: &mut Commands) -> Result<(), RedisError> {
    let mut exists = cmd("SCRIPT");
    let (loaded,): (bool,) =
        exists.arg("EXISTS").arg(script().get_hash()).query_async(commands).await?;
    if loaded {
        return Ok(());
    }
    // Redis forgets scripts when it restarts. Unlike the function, a script cannot detect a
    // restart, so the sequence jumps here, before any node can publish with the script.
    if cmd("EXISTS").arg(keys::SEQUENCE).query_async(commands).await? {
        cmd("INCRBY").arg(keys::SEQUENCE).arg(RESTART_JUMP).exec_async(commands).await?;
    }
    script().load_async(commands).await.map(drop)
}

/// Adds the call that publishes an event. The answer is the position as text, or nil if the channel
/// has no retention.
pub(crate) fn add_publish(
    pipeline: &mut Pipeline,
    mode: Mode,
    channel: &str,
    event: &Event,
    key: Option<&str>,
    end: bool,
) {
    let call = match mode {
        Mode::Function => pipeline.cmd("FCALL").arg("headwater_publish"),
        Mode::Script => pipeline.cmd("EVALSHA").arg(script().get_hash()),
    };
    call.arg(1).arg(keys::LOG).arg(channel).arg(event.data());
    if let Some(name) = event.name() {
        call.arg("event").arg(name.as_str());
    }
    if let Some(id) = event.id() {
        call.arg("id").arg(id.as_str());
    }
    if let Some(retry) = event.retry() {
        call.arg("retry").arg(retry.as_millis().min(RETRY_MS_MAX).to_string());
    }
    if let Some(key) = key {
        call.arg("key").arg(key);
    }
    if end {
        call.arg("end").arg(1);
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

/// Writes the retention rules that the function applies, in its text form: lines
/// `PATTERN EVENTS AGE_MS BYTES` or `PATTERN off`.
///
/// # Errors
/// If Redis cannot be reached or denies it.
pub(crate) async fn write_rules(commands: &mut Commands, text: &str) -> Result<(), RedisError> {
    pipe().set(keys::RULES, text).exec_async(commands).await
}

#[cfg(test)]
mod tests {
    use headwater_core::limits;

    use super::*;
    use crate::history;

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

    #[test]
    fn rust_and_lua_have_the_same_bounds() {
        for (name, number) in [
            ("VERSION", VERSION),
            ("CHANNEL_BYTES_MAX", limits::CHANNEL_BYTES_MAX as u64),
            ("NAME_BYTES_MAX", limits::EVENT_NAME_BYTES_MAX as u64),
            ("ID_BYTES_MAX", limits::EVENT_ID_BYTES_MAX as u64),
            ("KEY_BYTES_MAX", limits::IDEMPOTENCY_KEY_BYTES_MAX as u64),
            ("DATA_BYTES_MAX", limits::EVENT_DATA_BYTES_MAX as u64),
            ("RETRY_MS_MAX", u64::try_from(RETRY_MS_MAX).unwrap()),
            ("KEY_WINDOW_MS", u64::try_from(limits::IDEMPOTENCY_WINDOW.as_millis()).unwrap()),
            ("RESTART_JUMP", RESTART_JUMP),
            ("LAST_EXTRA_MS", history::LAST_EXTRA_MS),
        ] {
            let line = format!("\nlocal {name} = {number}\n");
            assert!(library_source().contains(&line), "publish.lua lacks {line}");
        }
        let age_ms = limits::RETENTION_AGE_DEFAULT.as_millis();
        let (events, bytes) = (limits::RETENTION_EVENTS_DEFAULT, limits::RETENTION_BYTES_DEFAULT);
        let line = format!("\nlocal DEFAULT_RULES = '* {events} {age_ms} {bytes}'\n");
        assert!(library_source().contains(&line), "publish.lua lacks {line}");
    }
}
