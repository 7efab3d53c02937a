//! What a node missed while its subscriber connection was away, or through a hole, read from the log.
//! Look here for how missing events are found and put in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::redis::RedisResult;
use ::redis::aio::ConnectionManager;
use tokio::task::JoinSet;

use super::log::{self, Bounds, Entry};
use crate::broker::Baseline;
use crate::channel::Channel;
use crate::gap::GapReason;

/// Channels that are asked about with one command.
const ASK_CHANNELS: usize = 256;
/// Channels that are read at the same time, pipelined on the command connection.
const READ_CHANNELS: usize = 16;
/// Most entries and bytes of one read; what is more is read in turns.
const READ_ENTRIES: usize = 2_000;
const READ_BYTES: usize = 1 << 20;
/// How much is read before it is given to the hub, and what is on its way when that is reached: one read of
/// each channel of a batch. What is beyond is announced as a gap: a node that missed so much must not
/// die of it.
const TOTAL_BYTES_MAX: usize = 64 << 20;
/// How often reading is tried before the connection is given up, and how long between.
const ATTEMPTS: u32 = 5;
const ATTEMPT_WAIT: Duration = Duration::from_millis(200);

/// What was missed.
#[derive(Default)]
pub(super) struct CatchUp {
    /// Events of all channels, in the order of the log.
    pub(super) events: Vec<(Channel, Entry)>,
    /// Channels of which not everything is there, with the offset up to which events may be missing.
    pub(super) gaps: Vec<(Channel, GapReason, u64)>,
}

/// Reads what channels got after the offsets that the node has, up to an offset.
pub(super) async fn catch_up(
    commands: ConnectionManager,
    channels: Vec<(Channel, u64)>,
    until: u64,
) -> RedisResult<CatchUp> {
    let mut missed = CatchUp::default();
    let room = Arc::new(AtomicUsize::new(TOTAL_BYTES_MAX));
    for asked in channels.chunks(ASK_CHANNELS) {
        let behind = find_behind(&commands, asked, until).await?;
        for batch in behind.chunks(READ_CHANNELS) {
            let mut reads = JoinSet::new();
            for behind in batch.iter().cloned() {
                reads.spawn(read_channel(commands.clone(), behind, until, Arc::clone(&room)));
            }
            while let Some(read) = reads.join_next().await {
                // A task fails only by a panic, which is ours.
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
    /// The last that the node has.
    after: u64,
    /// The last that there is.
    last: u64,
}

/// The channels whose last event the node does not have.
async fn find_behind(
    commands: &ConnectionManager,
    channels: &[(Channel, u64)],
    until: u64,
) -> RedisResult<Vec<Behind>> {
    let names: Vec<Channel> = channels.iter().map(|(channel, _)| channel.clone()).collect();
    let lasts = with_attempts(|| {
        let (mut commands, names) = (commands.clone(), names.clone());
        async move { log::lasts(&mut commands, &names).await }
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
    commands: ConnectionManager,
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
                    count: READ_ENTRIES,
                    bytes: READ_BYTES,
                    channel: &channel,
                };
                log::read_entries(&mut commands, bounds).await
            }
        })
        .await?;
        if let Some(first) = entries.first()
            && first.previous > at
        {
            // Events between were trimmed.
            missed.gaps.push((channel.clone(), GapReason::Trimmed, first.previous));
        }
        let Some(newest) = entries.last() else {
            // If the last event came after `until`, the connection gives it, and its own `prev` says
            // whether something before it is missing.
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
                tracing::debug!("reading missed events failed, trying again: {error}");
                tokio::time::sleep(ATTEMPT_WAIT).await;
            }
            result => return result,
        }
    }
}
