//! Reads the log from Redis: its entries, its position and the baselines of channels. Look here for
//! the keys that a node reads; `publish.lua` writes them.

#[cfg(all(test, feature = "__live"))]
mod live_tests;

use std::borrow::Cow;
use std::sync::LazyLock;
use std::time::Duration;

use headwater_core::broker::{Baseline, History, LoggedEvent, ReadRange};
use headwater_core::event::is_position;
use headwater_core::log::{Epoch, Position};
use headwater_core::{Channel, Event};
use redis::aio::ConnectionLike;
use redis::{RedisError, RedisResult, Script, pipe};

use crate::keys;
use crate::library;
use crate::limits::{EPHEMERAL_NOTE_AGE, LAST_EXTRA_MS, READ_BYTES_MAX, READ_ENTRIES_MAX};

static READ: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("library/read.lua")));
static BASELINE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(include_str!("library/last.lua"), include_str!("library/baseline.lua")))
});

/// An event as the log stores it.
pub(crate) struct Entry {
    pub(crate) offset: u64,
    pub(crate) previous: u64,
    pub(crate) time_ms: u64,
    pub(crate) end: bool,
    pub(crate) event: Event,
    pub(crate) sanitized: bool,
}

/// The position of the log at one moment, and the baselines of some of its channels.
pub(crate) struct LogState {
    pub(crate) epoch: Epoch,
    pub(crate) last: u64,
    /// The offset after which the epoch began; `None` if an older function began it.
    pub(crate) begun: Option<u64>,
    /// How many subscribers the marker reached.
    pub(crate) receivers: u64,
    pub(crate) baselines: Vec<Baseline>,
}

/// The bounds of a read.
pub(crate) struct Bounds<'a> {
    pub(crate) newest: bool,
    /// Events after this offset.
    pub(crate) after: u64,
    /// Events up to this offset.
    pub(crate) until: Option<u64>,
    /// At most [`READ_ENTRIES_MAX`] are read.
    pub(crate) count: usize,
    pub(crate) channel: &'a str,
}

/// The fields of an entry as Redis returns them.
type Fields = Vec<(String, Vec<u8>)>;

/// Entries of the log, oldest first, and where the log was.
pub(crate) struct Page {
    pub(crate) entries: Vec<Entry>,
    /// The log's last offset.
    pub(crate) last: u64,
    /// `None` if there is no log.
    pub(crate) epoch: Option<Epoch>,
}

/// Reads entries. There may be fewer than are asked for.
pub(crate) async fn read_entries<C: ConnectionLike + Send>(
    commands: &mut C,
    bounds: Bounds<'_>,
) -> RedisResult<Page> {
    let until = bounds.until.map_or_else(|| "+".to_owned(), |until| until.to_string());
    let (last, raw, epoch): (u64, Vec<(String, Fields)>, String) = READ
        .key(keys::LOG)
        .arg(bounds.channel)
        .arg(if bounds.newest { "newest" } else { "after" })
        .arg(bounds.after)
        .arg(until)
        .arg(bounds.count.min(READ_ENTRIES_MAX))
        .arg(READ_BYTES_MAX)
        .invoke_async(commands)
        .await?;
    // Entries that another program added in another form are skipped.
    let mut entries: Vec<_> =
        raw.into_iter().filter_map(|(id, fields)| entry(&id, fields)).collect();
    if bounds.newest {
        entries.reverse();
    }
    Ok(Page { entries, last, epoch: epoch.parse().ok() })
}

fn entry(id: &str, fields: Fields) -> Option<Entry> {
    let mut entry = Entry {
        offset: id.split_once('-')?.0.parse().ok()?,
        previous: 0,
        time_ms: 0,
        end: false,
        event: Event::new(""),
        sanitized: false,
    };
    let (mut name, mut publisher_id, mut retry) = (None, None, None);
    for (field, value) in fields {
        let text = String::from_utf8_lossy(&value);
        match field.as_str() {
            "d" => {
                entry.sanitized = matches!(text, Cow::Owned(_));
                entry.event = Event::new(text);
            }
            "p" => entry.previous = text.parse().ok()?,
            "t" => entry.time_ms = text.parse().ok()?,
            "n" => name = Some(text.into_owned()),
            "i" => publisher_id = Some(text.into_owned()),
            "r" => retry = text.parse().ok().map(Duration::from_millis),
            "e" => entry.end = true,
            _ => {}
        }
    }
    if let Some(name) = name {
        entry.event = entry.event.with_stored_name(name).ok()?;
    }
    // Other programs write entries too, and older versions let publishers choose such an id.
    if let Some(publisher_id) = publisher_id.filter(|id| !is_position(id)) {
        entry.event = entry.event.with_id(publisher_id).ok()?;
    }
    if let Some(retry) = retry {
        entry.event = entry.event.with_retry(retry);
    }
    Some(entry)
}

/// Proves that histories can be read, in both directions, by reading one that is most likely empty.
pub(crate) async fn probe<C: ConnectionLike + Send>(commands: &mut C) -> RedisResult<()> {
    for newest in [false, true] {
        let channel = "headwater";
        let bounds = Bounds { newest, after: 0, until: None, count: 1, channel };
        read_entries(commands, bounds).await?;
    }
    Ok(())
}

/// Reads part of a channel's history for the hub, which asks again for more.
pub(crate) async fn read_history<C: ConnectionLike + Send>(
    commands: &mut C,
    channel: &Channel,
    range: ReadRange,
) -> RedisResult<History> {
    let name = channel.as_str();
    let bounds = match range {
        ReadRange::After { offset, count } => {
            Bounds { newest: false, after: offset, until: None, count, channel: name }
        }
        ReadRange::Newest { count } => {
            Bounds { newest: true, after: 0, until: None, count, channel: name }
        }
        ReadRange::Before { offset, count } => {
            let until = Some(offset.saturating_sub(1));
            Bounds { newest: true, after: 0, until, count, channel: name }
        }
        _ => return Err(unexpected("this version cannot read such a range")),
    };
    let Page { entries, last, epoch } = read_entries(commands, bounds).await?;
    let mut history = History::new(last);
    // Without an epoch, the entries are of a log that is lost.
    let Some(epoch) = epoch else { return Ok(history) };
    for Entry { offset, previous, time_ms, end, event, .. } in &entries {
        let position = Position::new(epoch, *offset);
        let logged = LoggedEvent::new(channel, event, position, *previous, *time_ms);
        history.push(logged.with_end(*end));
    }
    Ok(history)
}

/// The offset up to which a channel without a last offset may have had events that are forgotten:
/// the offset of the oldest horizon note that is younger than [`LAST_EXTRA_MS`], or else the log's
/// last offset.
fn forgotten_to(horizon: Option<&str>, now_ms: u64, last: u64) -> u64 {
    let numbers = horizon.unwrap_or_default().split(' ').map_while(|word| word.parse().ok());
    let numbers: Vec<u64> = numbers.collect();
    let oldest_ms = now_ms.saturating_sub(LAST_EXTRA_MS);
    let notes = numbers.chunks_exact(2).map(|note| (note[0], note[1]));
    let known = notes.filter(|(at_ms, _)| *at_ms >= oldest_ms).map(|(_, offset)| offset).min();
    known.unwrap_or(last)
}

/// Reads, at one moment, the position of the log and the baselines of channels, and publishes a
/// marker at that moment, so that the subscriber connection knows when it has received everything
/// from before. Creates the log's epoch if there is none.
pub(crate) async fn query_baseline<C: ConnectionLike + Send>(
    commands: &mut C,
    channels: &[Channel],
    marker_channel: &str,
    marker: &str,
    heard: Option<&library::Heard>,
) -> RedisResult<LogState> {
    let mut query = BASELINE.prepare_invoke();
    query.key(keys::LOG).arg(marker_channel).arg(marker);
    for channel in channels {
        query.arg(channel.as_str());
    }
    let mut answer: Option<Vec<String>> = query.invoke_async(commands).await?;
    if answer.is_none() {
        // If Redis rejects it, the error has the reason.
        library::begin(commands, heard).await?;
        answer = query.invoke_async(commands).await?;
    }
    let answer = answer.filter(|answer| answer.len() == 6 + 2 * channels.len());
    let answer =
        answer.ok_or_else(|| unexpected("unexpected answer for the position of the log"))?;
    log_state(&answer)
}

/// Parses the answer of `baseline.lua`.
fn log_state(answer: &[String]) -> RedisResult<LogState> {
    let (log, channels) = answer.split_at(6);
    let number =
        |text: &str| text.parse::<u64>().map_err(|_| unexpected("expected a whole number"));
    let (epoch, last) = (parse_epoch(&log[0])?, number(&log[1])?);
    let receivers = number(&log[4])?;
    // The offset, and in newer versions of the function the time.
    let begun = match log[5].split(' ').next() {
        None | Some("") => None,
        Some(offset) => Some(number(offset)?.min(last)),
    };
    let forgotten_to = match &*log[2] {
        // The first event of an epoch notes the horizon, so this one has none yet.
        "" => begun.unwrap_or(last),
        horizon => forgotten_to(Some(horizon), number(&log[3])? * 1000, last),
    };
    let (lasts, ephemeral) = channels.split_at(channels.len() / 2);
    let with_ephemeral = lasts.iter().zip(ephemeral.iter().map(|note| !note.is_empty()));
    let baselines = with_ephemeral.map(|(last, ephemeral)| match &**last {
        // A channel without a last offset may have had events that are forgotten.
        "" => Baseline::forgotten(forgotten_to).with_ephemeral(ephemeral),
        last => baseline(Some(last)).with_ephemeral(ephemeral),
    });
    Ok(LogState { epoch, last, begun, receivers, baselines: baselines.collect() })
}

fn unexpected(what: &'static str) -> RedisError {
    RedisError::from((redis::ErrorKind::UnexpectedReturnType, what))
}

/// Notes in Redis, for all nodes, that channels receive ephemeral events.
pub(crate) async fn note_ephemeral<C: ConnectionLike + Send>(
    mut commands: C,
    channels: Vec<Channel>,
) -> RedisResult<()> {
    let mut pipeline = pipe();
    for channel in &channels {
        let set = pipeline.cmd("SET").arg(keys::ephemeral(channel)).arg(1);
        set.arg("EX").arg(EPHEMERAL_NOTE_AGE.as_secs()).ignore();
    }
    pipeline.query_async(&mut commands).await
}

pub(crate) fn parse_epoch(text: &str) -> RedisResult<Epoch> {
    text.parse()
        .map_err(|_| unexpected("the key headwater:{0}:epoch has no valid epoch: delete it"))
}

/// Parses `OFFSET`, or `OFFSET end` for a channel that has ended.
fn baseline(text: Option<&str>) -> Baseline {
    let text = text.unwrap_or("0");
    let (last, ended) = match text.strip_suffix(" end") {
        Some(last) => (last, true),
        None => (text, false),
    };
    Baseline::new(last.parse().unwrap_or(0)).with_end(ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_before_the_oldest_valid_note_may_be_forgotten() {
        #[track_caller]
        fn check(horizon: Option<&str>, expected: u64) {
            assert_eq!(forgotten_to(horizon, 10 * LAST_EXTRA_MS, 99), expected, "{horizon:?}");
        }
        let ago = |parts: u64| 10 * LAST_EXTRA_MS - parts * LAST_EXTRA_MS / 4;
        check(Some(&format!("{} 5 {} 7", ago(3), ago(1))), 5);
        check(Some(&format!("{} 5 {} 7", ago(4), ago(2))), 5);
        check(Some(&format!("{} 5 {} 7", ago(5), ago(3))), 7);
        check(Some(&format!("{} 5 {} 7", ago(9), ago(7))), 99);
        check(Some(&format!("{} 0 {} 0", ago(1), ago(1))), 0);
        for nothing in [None, Some(""), Some("x y"), Some("12")] {
            check(nothing, 99);
        }
    }
}
