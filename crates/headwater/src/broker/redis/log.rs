//! The log as it stands in Redis: reading it, and finding out where it is. Look here for the keys that
//! a node reads; `publish.lua` writes them.

use std::borrow::Cow;
use std::sync::LazyLock;
use std::time::Duration;

use ::redis::aio::ConnectionManager;
use ::redis::{RedisError, RedisResult, Script, pipe};

use super::function::PREFIX;
use crate::broker::{Baseline, History, ReadRange};
use crate::channel::Channel;
use crate::event::Event;
use crate::frame::{Frame, Published};
use crate::limits::{EPHEMERAL_NOTE_AGE, REPLAY_BYTES_MAX, RING_BYTES_MAX};
use crate::position::{Epoch, Position};

static READ: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("read.lua")));
static BASELINE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("baseline.lua")));

/// An event of the log as it is kept.
pub(super) struct Entry {
    pub(super) offset: u64,
    pub(super) previous: u64,
    pub(super) time_ms: u64,
    pub(super) end: bool,
    pub(super) event: Event,
    pub(super) replaced: bool,
}

impl Entry {
    /// What it takes in memory, about.
    pub(super) fn cost(&self) -> usize {
        self.event.data().len() + size_of::<Self>() + 64
    }
}

/// Where the log is at one moment, and what is known of some of its channels.
pub(super) struct LogState {
    pub(super) epoch: Epoch,
    pub(super) last: u64,
    pub(super) baselines: Vec<Baseline>,
}

/// What to read.
pub(super) struct Bounds<'a> {
    pub(super) newest: bool,
    /// Events after this offset.
    pub(super) after: u64,
    /// Events up to this offset.
    pub(super) until: Option<u64>,
    pub(super) count: usize,
    pub(super) bytes: usize,
    pub(super) channel: &'a Channel,
}

/// How much longer than its history a channel's last offset is known. `publish.lua` has the same.
pub(super) const LAST_EXTRA_MS: u64 = 24 * 3600 * 1000;

/// The fields of an entry as Redis gives them.
type Fields = Vec<(String, Vec<u8>)>;

/// Reads entries, oldest first, and the log's last offset.
pub(super) async fn read_entries(
    commands: &mut ConnectionManager,
    bounds: Bounds<'_>,
) -> RedisResult<(Vec<Entry>, u64)> {
    let until = bounds.until.map_or_else(|| "+".to_owned(), |until| until.to_string());
    let (last, raw): (u64, Vec<(String, Fields)>) = READ
        .key(PREFIX)
        .arg(bounds.channel.as_str())
        .arg(if bounds.newest { "newest" } else { "after" })
        .arg(bounds.after)
        .arg(until)
        .arg(bounds.count)
        .arg(bounds.bytes)
        .invoke_async(commands)
        .await?;
    // What another program put there and is no entry of ours is passed over.
    let mut entries: Vec<_> =
        raw.into_iter().filter_map(|(id, fields)| entry(&id, fields)).collect();
    if bounds.newest {
        entries.reverse();
    }
    Ok((entries, last))
}

fn entry(id: &str, fields: Fields) -> Option<Entry> {
    let mut entry = Entry {
        offset: id.split_once('-')?.0.parse().ok()?,
        previous: 0,
        time_ms: 0,
        end: false,
        event: Event::new(""),
        replaced: false,
    };
    let (mut name, mut publisher_id, mut retry) = (None, None, None);
    for (field, value) in fields {
        let text = String::from_utf8_lossy(&value);
        match field.as_str() {
            "d" => {
                entry.replaced = matches!(text, Cow::Owned(_));
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
        entry.event = entry.event.with_name(name).ok()?;
    }
    if let Some(publisher_id) = publisher_id {
        entry.event = entry.event.with_id(publisher_id).ok()?;
    }
    if let Some(retry) = retry {
        entry.event = entry.event.with_retry(retry);
    }
    Some(entry)
}

/// Reads a part of a channel's history for the hub.
pub(super) async fn read_history(
    commands: &mut ConnectionManager,
    channel: &Channel,
    range: ReadRange,
    epoch: Epoch,
) -> RedisResult<History> {
    let bounds = match range {
        ReadRange::After { offset, count } => Bounds {
            newest: false,
            after: offset,
            until: None,
            count,
            bytes: REPLAY_BYTES_MAX,
            channel,
        },
        ReadRange::Newest { count } => {
            Bounds { newest: true, after: 0, until: None, count, bytes: RING_BYTES_MAX, channel }
        }
        ReadRange::Before { offset, count } => Bounds {
            newest: true,
            after: 0,
            until: Some(offset.saturating_sub(1)),
            count,
            bytes: RING_BYTES_MAX,
            channel,
        },
    };
    let (entries, log_last) = read_entries(commands, bounds).await?;
    let previous = entries.first().map_or(0, |entry| entry.previous);
    let frames = entries.iter().map(|entry| {
        let position = Some(Position::new(epoch, entry.offset));
        let published = Published { position, time_ms: entry.time_ms, end: entry.end };
        Frame::of_channel(channel, &entry.event, published)
    });
    Ok(History { frames: frames.collect(), previous, log_last })
}

/// Up to where events may have been forgotten, of channels of which nothing is known: the oldest note of
/// the sequence that is not older than what channels are remembered for, else all of it.
fn forgotten_to(horizon: Option<&str>, now_ms: u64, last: u64) -> u64 {
    let numbers = horizon.unwrap_or_default().split(' ').map_while(|word| word.parse().ok());
    let numbers: Vec<u64> = numbers.collect();
    let oldest_ms = now_ms.saturating_sub(LAST_EXTRA_MS);
    let notes = numbers.chunks_exact(2).map(|note| (note[0], note[1]));
    let known = notes.filter(|(at_ms, _)| *at_ms >= oldest_ms).map(|(_, offset)| offset).min();
    known.unwrap_or(last)
}

/// Finds out, at one moment, where the log is and what is known of channels, and publishes a marker at
/// that moment, so that the subscriber connection knows when it has everything from before. Gives the log
/// an epoch if it has none.
pub(super) async fn sync(
    commands: &mut ConnectionManager,
    channels: &[Channel],
    marker_channel: &str,
    marker: &str,
) -> RedisResult<LogState> {
    let mut question = BASELINE.prepare_invoke();
    question.key(PREFIX).arg(marker_channel).arg(marker);
    for channel in channels {
        question.arg(channel.as_str());
    }
    let mut answer: Option<Vec<String>> = question.invoke_async(commands).await?;
    if answer.is_none() {
        begin(commands).await?;
        answer = question.invoke_async(commands).await?;
    }
    let answer = answer.filter(|answer| answer.len() == 4 + 2 * channels.len());
    let answer = answer.ok_or_else(|| unexpected("where the log is was not answered as asked"))?;
    log_state(&answer)
}

/// Gives the log an epoch, at offset 0, unless somebody else was faster.
async fn begin(commands: &mut ConnectionManager) -> RedisResult<()> {
    // The function begins a new epoch when it finds the one without the other.
    let mut begin = ::redis::cmd("MSETNX");
    begin.arg(format!("{PREFIX}:epoch")).arg(padded(Epoch::random()));
    begin.arg(format!("{PREFIX}:seq")).arg(0);
    begin.query_async(commands).await
}

/// What `baseline.lua` answered.
fn log_state(answer: &[String]) -> RedisResult<LogState> {
    let (log, channels) = answer.split_at(4);
    let number =
        |text: &str| text.parse::<u64>().map_err(|_| unexpected("no number where one must be"));
    let (epoch, last) = (parse_epoch(&log[0])?, number(&log[1])?);
    let forgotten_to = forgotten_to(Some(&log[2]), number(&log[3])? * 1000, last);
    let (lasts, ephemeral) = channels.split_at(channels.len() / 2);
    let with_ephemeral = lasts.iter().zip(ephemeral.iter().map(|note| !note.is_empty()));
    let baselines = with_ephemeral.map(|(last, ephemeral)| match &**last {
        // A channel of which nothing is known may have had events that are forgotten.
        "" => Baseline { last: forgotten_to, ended: false, ephemeral },
        last => Baseline { ephemeral, ..baseline(Some(last)) },
    });
    Ok(LogState { epoch, last, baselines: baselines.collect() })
}

fn unexpected(what: &'static str) -> RedisError {
    RedisError::from((::redis::ErrorKind::UnexpectedReturnType, what))
}

/// The last offsets of channels.
pub(super) async fn lasts(
    commands: &mut ConnectionManager,
    channels: &[Channel],
) -> RedisResult<Vec<Baseline>> {
    let mut mget = ::redis::cmd("MGET");
    for channel in channels {
        mget.arg(last_key(channel));
    }
    let lasts: Vec<Option<String>> = mget.query_async(commands).await?;
    Ok(lasts.iter().map(|last| baseline(last.as_deref())).collect())
}

/// Notes, for every node, that channels get events that are in no log.
pub(super) async fn note_ephemeral(
    mut commands: ConnectionManager,
    channels: Vec<Channel>,
) -> RedisResult<()> {
    let mut pipeline = pipe();
    for channel in &channels {
        let set = pipeline.cmd("SET").arg(ephemeral_key(channel)).arg(1);
        set.arg("EX").arg(EPHEMERAL_NOTE_AGE.as_secs()).ignore();
    }
    pipeline.query_async(&mut commands).await
}

/// The epoch as Redis keeps it: 12 digits, of which the first is not 0.
fn padded(epoch: Epoch) -> String {
    Epoch::from_bits(epoch.to_bits() | 1 << 47).unwrap_or(epoch).to_string()
}

pub(super) fn parse_epoch(text: &str) -> RedisResult<Epoch> {
    text.parse().map_err(|_| unexpected("the key headwater:{0}:epoch holds no epoch: delete it"))
}

fn last_key(channel: &Channel) -> String {
    format!("{PREFIX}:last:{channel}")
}

fn ephemeral_key(channel: &Channel) -> String {
    format!("{PREFIX}:plain:{channel}")
}

/// `OFFSET`, or `OFFSET end` for a channel that was ended.
fn baseline(text: Option<&str>) -> Baseline {
    let text = text.unwrap_or("0");
    let (last, ended) = match text.strip_suffix(" end") {
        Some(last) => (last, true),
        None => (text, false),
    };
    Baseline { last: last.parse().unwrap_or(0), ended, ephemeral: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_key_tells_of_is_taken_for_forgotten() {
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
