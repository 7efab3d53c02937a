//! The Redis function that publishes durable events, from this side: installing, calling, its errors.
//! Look here for how nodes of different versions share a Redis; `publish.lua` is the function itself.

use std::sync::LazyLock;

use ::redis::aio::ConnectionManager;
use ::redis::{Pipeline, RedisError, Script, ServerError, cmd, pipe};

use crate::event::Event;

/// The log: what all its keys and Redis channels begin with. `{0}` keeps them in one slot of a Redis Cluster.
pub(super) const PREFIX: &str = "headwater:{0}";

/// The version of the library, which `headwater_version` answers.
pub(super) const VERSION: u64 = 1;

/// Longest retry that the function takes: 49 days.
const RETRY_MS_MAX: u128 = u32::MAX as u128;

/// How far the sequence jumps after a restart of Redis; `publish.lua` tells why.
const RESTART_JUMP: u64 = 1 << 32;

static SCRIPT: LazyLock<Script> = LazyLock::new(|| {
    // Redis 6.2 does not know the first line.
    let (_, body) = library_source().split_once('\n').unwrap_or_default();
    Script::new(body)
});

/// How events are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// With FCALL: Redis 7 or Valkey.
    Function,
    /// With EVALSHA: Redis 6.2, or a Redis that does not permit functions.
    Script,
}

/// What FUNCTION LOAD takes.
pub(super) fn library_source() -> &'static str {
    include_str!("publish.lua")
}

/// What EVAL takes: the same, for Redis 6.2.
pub(super) fn script() -> &'static Script {
    &SCRIPT
}

/// Installs the function if it is missing or older than ours. A newer one is left alone, so that nodes of different
/// versions do not replace each other's.
///
/// # Errors
/// When Redis cannot be reached, or permits neither functions nor scripts. Try again after a reconnect.
pub(super) async fn install(commands: &mut ConnectionManager) -> Result<Mode, RedisError> {
    match install_function(commands).await {
        Ok(()) => begin(commands).await.map(|()| Mode::Function),
        Err(error) if is_unsupported(&error) => {
            install_script(commands).await?;
            Ok(Mode::Script)
        }
        Err(error) => Err(error),
    }
}

async fn install_function(commands: &mut ConnectionManager) -> Result<(), RedisError> {
    let mut found = installed_version(commands).await?;
    if found.is_none() {
        match cmd("FUNCTION").arg("LOAD").arg(library_source()).exec_async(commands).await {
            Ok(()) => return Ok(()),
            // Another node was faster, perhaps with another version.
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

async fn installed_version(commands: &mut ConnectionManager) -> Result<Option<u64>, RedisError> {
    let version = cmd("FCALL_RO").arg("headwater_version").arg(0).query_async(commands).await;
    match version {
        Err(error) if is_missing(&error) => Ok(None),
        version => version.map(Some),
    }
}

/// Begins the log if there is none. Only the function may: it must know that this happened since Redis started, or its
/// first offset would be one after a jump.
async fn begin(commands: &mut ConnectionManager) -> Result<(), RedisError> {
    match cmd("FCALL").arg("headwater_begin").arg(1).arg(PREFIX).exec_async(commands).await {
        // A newer library may do without it.
        Err(error) if is_missing(&error) => Ok(()),
        begun => begun,
    }
}

async fn install_script(commands: &mut ConnectionManager) -> Result<(), RedisError> {
    let mut exists = cmd("SCRIPT");
    let (loaded,): (bool,) =
        exists.arg("EXISTS").arg(script().get_hash()).query_async(commands).await?;
    if loaded {
        return Ok(());
    }
    // Redis forgets scripts when it restarts. A script cannot know that it did, as the function does,
    // so the jump is made here, before anybody can publish with the script.
    let sequence = format!("{PREFIX}:seq");
    if cmd("EXISTS").arg(&sequence).query_async(commands).await? {
        cmd("INCRBY").arg(&sequence).arg(RESTART_JUMP).exec_async(commands).await?;
    }
    script().load_async(commands).await.map(drop)
}

/// Adds the call that publishes an event. Its answer is the position as text, or nil if the channel
/// keeps no events.
pub(super) fn add_publish(
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
    call.arg(1).arg(PREFIX).arg(channel).arg(event.data());
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

/// Whether the function or the script is not there: Redis restarted without it. [`install`] and call again.
pub(super) fn is_missing(error: &RedisError) -> bool {
    has_error(error, "ERR", "Function not found") || has_error(error, "NOSCRIPT", "")
}

/// Whether the event was refused because its channel has ended.
pub(super) fn is_ended(error: &RedisError) -> bool {
    has_error(error, "ENDED", "")
}

/// What the function found wrong with what it was asked to publish.
pub(super) fn fault(error: &RedisError) -> Option<String> {
    let answers = error.clone().into_server_errors().unwrap_or_default();
    let mut details = answers.iter().filter_map(|(_, answer)| answer.details());
    details.find_map(|details| details.strip_prefix("headwater: ")).map(str::to_owned)
}

/// Whether functions are unknown or not permitted.
fn is_unsupported(error: &RedisError) -> bool {
    has_error(error, "ERR", "unknown command") || has_error(error, "NOPERM", "")
}

/// Whether Redis answered with this error, to one command or to any of a pipeline.
fn has_error(error: &RedisError, code: &str, part: &str) -> bool {
    let fits = |error: &ServerError| {
        error.code() == code && error.details().unwrap_or_default().contains(part)
    };
    let errors = error.clone().into_server_errors();
    errors.is_some_and(|errors| errors.iter().any(|(_, error)| fits(error)))
}

/// Writes the retention rules that the function goes by, in the form that it reads: lines
/// `PATTERN EVENTS AGE_MS BYTES` or `PATTERN off`.
///
/// # Errors
/// When Redis cannot be reached or does not permit it.
pub(super) async fn write_rules(
    commands: &mut ConnectionManager,
    text: &str,
) -> Result<(), RedisError> {
    pipe().set(format!("{PREFIX}:rules"), text).exec_async(commands).await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use headwater_test_support::RedisServer;

    use super::*;
    use crate::broker::redis::log;
    use crate::limits;

    async fn connect(server: &RedisServer) -> ConnectionManager {
        let client = ::redis::Client::open(server.url()).unwrap();
        ConnectionManager::new(client).await.unwrap()
    }

    async fn publish(
        commands: &mut ConnectionManager,
        mode: Mode,
        event: &Event,
        end: bool,
    ) -> Result<String, RedisError> {
        let mut pipeline = pipe();
        add_publish(&mut pipeline, mode, "a", event, Some("k"), end);
        let answers: Result<(String,), _> = pipeline.query_async(commands).await;
        answers.map(|(id,)| id)
    }

    #[test]
    fn both_sides_have_the_same_numbers() {
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
            ("LAST_EXTRA_MS", log::LAST_EXTRA_MS),
        ] {
            let line = format!("\nlocal {name} = {number}\n");
            assert!(library_source().contains(&line), "publish.lua lacks {line}");
        }
        let age_ms = limits::RETENTION_AGE_DEFAULT.as_millis();
        let (events, bytes) = (limits::RETENTION_EVENTS_DEFAULT, limits::RETENTION_BYTES_DEFAULT);
        let line = format!("\nlocal DEFAULT_RULES = '* {events} {age_ms} {bytes}'\n");
        assert!(library_source().contains(&line), "publish.lua lacks {line}");
    }

    #[tokio::test]
    async fn an_older_function_is_replaced_and_a_newer_left() {
        let server = RedisServer::start();
        let mut commands = connect(&server).await;
        let mut check = async |installed: Option<u64>, expected: u64| {
            server.run::<()>(&["FUNCTION", "FLUSH"]);
            if let Some(version) = installed {
                let other = library_source()
                    .replace("local VERSION = 1", &format!("local VERSION = {version}"));
                server.run::<()>(&["FUNCTION", "LOAD", &other]);
            }
            assert_eq!(install(&mut commands).await.unwrap(), Mode::Function);
            assert_eq!(installed_version(&mut commands).await.unwrap(), Some(expected));
        };
        check(None, VERSION).await;
        check(Some(0), VERSION).await;
        check(Some(VERSION), VERSION).await;
        check(Some(99), 99).await;
    }

    #[tokio::test]
    async fn the_first_event_of_all_is_number_one() {
        let server = RedisServer::start();
        let mut commands = connect(&server).await;
        let mode = install(&mut commands).await.unwrap();
        let epoch: String = server.run(&["GET", &format!("{PREFIX}:epoch")]);
        install(&mut commands).await.unwrap();
        let first = publish(&mut commands, mode, &Event::new("d"), false).await.unwrap();
        assert_eq!(first, format!("{epoch}-1"));
    }

    #[tokio::test]
    async fn nodes_that_start_together_install_one_function() {
        let server = RedisServer::start();
        let nodes: Vec<_> = (0..8)
            .map(|_| {
                let client = ::redis::Client::open(server.url()).unwrap();
                tokio::spawn(async move {
                    install(&mut ConnectionManager::new(client).await.unwrap()).await
                })
            })
            .collect();
        for node in nodes {
            assert_eq!(node.await.unwrap().unwrap(), Mode::Function);
        }
    }

    #[tokio::test]
    async fn every_part_of_an_event_is_handed_over() {
        let server = RedisServer::start();
        let mut commands = connect(&server).await;
        let mode = install(&mut commands).await.unwrap();
        let event = Event::new("d").with_name("n").unwrap().with_id("i").unwrap();
        let event = event.with_retry(Duration::MAX);
        let first = publish(&mut commands, mode, &event, true).await.unwrap();
        assert_eq!(publish(&mut commands, mode, &event, true).await.unwrap(), first);
        let log = format!("{PREFIX}:log:a");
        let entries: Vec<(String, Vec<String>)> = server.run(&["XRANGE", &log, "-", "+"]);
        let [(id, fields)] = &entries[..] else { panic!("{entries:?}") };
        assert_eq!(
            (id.as_str(), &fields[4..]),
            (
                "1-0",
                &["d", "d", "n", "n", "i", "i", "r", "4294967295", "e", "1"].map(String::from)[..]
            )
        );

        let mut pipeline = pipe();
        add_publish(&mut pipeline, mode, "a", &event, None, false);
        let refused = pipeline.exec_async(&mut commands).await.unwrap_err();
        assert!(is_ended(&refused) && !is_missing(&refused), "{refused}");
    }

    #[tokio::test]
    async fn without_functions_there_is_the_script() {
        let server = RedisServer::start_with(&[
            "--rename-command",
            "FCALL_RO",
            "",
            "--rename-command",
            "FUNCTION",
            "",
        ]);
        let mut commands = connect(&server).await;
        let mode = install(&mut commands).await.unwrap();
        assert_eq!(mode, Mode::Script);
        let first = publish(&mut commands, mode, &Event::new("d"), false).await.unwrap();
        assert!(first.ends_with("-1"), "{first}");

        server.run::<()>(&["SCRIPT", "FLUSH"]);
        let event = Event::new("after a restart");
        let missing = publish(&mut commands, mode, &event, false).await.unwrap_err();
        assert!(is_missing(&missing) && !is_ended(&missing), "{missing}");
        install(&mut commands).await.unwrap();
        server.run::<()>(&["DEL", &format!("{PREFIX}:key:1:a:k")]);
        let second = publish(&mut commands, mode, &event, false).await.unwrap();
        assert!(second.ends_with(&format!("-{}", 2 + RESTART_JUMP)), "{second}");
    }

    #[tokio::test]
    async fn a_lost_function_is_told() {
        let server = RedisServer::start();
        let mut commands = connect(&server).await;
        let missing = publish(&mut commands, Mode::Function, &Event::new("d"), false).await;
        assert!(is_missing(&missing.unwrap_err()));
    }

    #[tokio::test]
    async fn functions_that_are_not_permitted_are_done_without() {
        let server = RedisServer::start();
        server.run::<()>(&[
            "ACL",
            "SETUSER",
            "default",
            "on",
            "nopass",
            "~*",
            "&*",
            "+@all",
            "-function|load",
        ]);
        let mut commands = connect(&server).await;
        assert_eq!(install(&mut commands).await.unwrap(), Mode::Script);
        write_rules(&mut commands, "a off\n").await.unwrap();
        let client = ::redis::Client::open(server.url()).unwrap();
        let mut commands = ConnectionManager::new(client).await.unwrap();
        let mut pipeline = pipe();
        add_publish(&mut pipeline, Mode::Script, "a", &Event::new("d"), None, false);
        let answers: (Option<String>,) = pipeline.query_async(&mut commands).await.unwrap();
        assert_eq!(answers, (None,));
    }
}
