//! Reads from the log what a node missed while its subscriber connection was lost, or through a
//! hole in what it received. Look here for how missing events are found and ordered.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::RedisResult;
use tokio::task::JoinSet;

use crate::commands::Commands;
use crate::history::{self, Bounds, Entry};
use crate::limits::READ_ENTRIES_MAX;
use headwater_core::Channel;
use headwater_core::broker::Baseline;
use headwater_core::gap::GapReason;

/// The number of channels whose last offsets one command reads.
const QUERY_CHANNELS: usize = 256;
/// The number of channels that are read concurrently, pipelined on the command connection.
const READ_CHANNELS: usize = 16;
/// The number of bytes after which no further read starts. Reads in flight then, at most one for
/// each channel of a batch, come on top. Events beyond are reported as a gap: a node that missed
/// that much must not run out of memory.
const TOTAL_BYTES_MAX: usize = 64 << 20;
/// The number of attempts to read before the connection is given up, and the wait between them.
const ATTEMPTS: u32 = 5;
const ATTEMPT_WAIT: Duration = Duration::from_millis(200);

/// Missed events.
#[derive(Default)]
pub(crate) struct CatchUp {
    /// Events of all channels, in the order of the log.
    pub(crate) events: Vec<(Channel, Entry)>,
    /// Channels that miss events which cannot be read, each with the offset up to which events may
    /// be missing.
    pub(crate) gaps: Vec<(Channel, GapReason, u64)>,
}

/// Reads the events of channels after the offsets that the node has, up to an offset.
pub(crate) async fn catch_up(
    commands: Commands,
    channels: Vec<(Channel, u64)>,
    until: u64,
) -> RedisResult<CatchUp> {
    let mut missed = CatchUp::default();
    let room = Arc::new(AtomicUsize::new(TOTAL_BYTES_MAX));
    for queried in channels.chunks(QUERY_CHANNELS) {
        let behind = find_behind(&commands, queried, until).await?;
        for batch in behind.chunks(READ_CHANNELS) {
            let mut reads = JoinSet::new();
            for behind in batch.iter().cloned() {
                reads.spawn(read_channel(commands.clone(), behind, until, Arc::clone(&room)));
            }
            while let Some(read) = reads.join_next().await {
                // A task fails only if it panics, which is a bug.
                let Ok(read) = read else { continue };
                let one = read?;
                missed.events.extend(one.events);
                missed.gaps.extend(one.gaps);
            }
        }
    }
    missed.events.sort_by_key(|(_, entry)| entry.offset);
    Ok(missed)
}

/// A channel whose last event the node does not have.
#[derive(Clone)]
struct Behind {
    channel: Channel,
    /// The offset of the last event that the node has.
    after: u64,
    /// The offset of the channel's last event in the log.
    last: u64,
}

/// The channels whose last event the node does not have.
async fn find_behind(
    commands: &Commands,
    channels: &[(Channel, u64)],
    until: u64,
) -> RedisResult<Vec<Behind>> {
    let names: Vec<Channel> = channels.iter().map(|(channel, _)| channel.clone()).collect();
    let lasts = with_attempts(|| {
        let (mut commands, names) = (commands.clone(), names.clone());
        async move { history::last_offsets(&mut commands, &names).await }
    })
    .await?;
    let with_last = channels.iter().zip(lasts);
    let behind = with_last.filter(|((_, has), baseline)| baseline.last > *has && *has < until);
    let behind = behind.map(|((channel, after), Baseline { last, .. })| {
        let (channel, after) = (channel.clone(), *after);
        Behind { channel, after, last }
    });
    Ok(behind.collect())
}

async fn read_channel(
    commands: Commands,
    Behind { channel, after, last }: Behind,
    until: u64,
    room: Arc<AtomicUsize>,
) -> RedisResult<CatchUp> {
    let mut missed = CatchUp::default();
    let mut at = after;
    loop {
        if room.load(Ordering::Relaxed) == 0 {
            missed.gaps.push((channel, GapReason::BrokerLost, last.min(until)));
            return Ok(missed);
        }
        let (entries, _) = with_attempts(|| {
            let (mut commands, channel) = (commands.clone(), channel.clone());
            async move {
                let bounds = Bounds {
                    newest: false,
                    after: at,
                    until: Some(until),
                    count: READ_ENTRIES_MAX,
                    channel: &channel,
                };
                history::read_entries(&mut commands, bounds).await
            }
        })
        .await?;
        if let Some(first) = entries.first()
            && first.previous > at
        {
            // The events between were trimmed.
            missed.gaps.push((channel.clone(), GapReason::Trimmed, first.previous));
        }
        let Some(newest) = entries.last() else {
            // An event after `until` arrives over the connection, and its `prev` header shows
            // whether an event before it is missing.
            if at < last && last <= until {
                missed.gaps.push((channel, GapReason::Trimmed, last));
            }
            return Ok(missed);
        };
        at = newest.offset;
        let bytes: usize = entries.iter().map(Entry::cost).sum();
        let _ = room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| {
            Some(room.saturating_sub(bytes))
        });
        missed.events.extend(entries.into_iter().map(|entry| (channel.clone(), entry)));
    }
}

async fn with_attempts<T, F>(mut attempt: impl FnMut() -> F) -> RedisResult<T>
where
    F: Future<Output = RedisResult<T>>,
{
    let mut attempts = 0;
    loop {
        attempts += 1;
        match attempt().await {
            Err(error) if attempts < ATTEMPTS => {
                tracing::debug!("reading missed events failed, retrying: {error}");
                tokio::time::sleep(ATTEMPT_WAIT).await;
            }
            result => return result,
        }
    }
}
