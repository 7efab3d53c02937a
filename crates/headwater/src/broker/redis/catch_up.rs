//! What a node missed while its subscriber connection was away, or through a hole, read from the log.
//! Look here for how missing events are found and put in order.

use std::time::Duration;

use ::redis::RedisResult;
use ::redis::aio::ConnectionManager;
use tokio::task::JoinSet;

use super::log::{self, Bounds, Entry};
use crate::channel::Channel;
use crate::gap::GapReason;

/// Channels that are asked about with one command.
const ASK_CHANNELS: usize = 256;
/// Channels that are read at the same time, pipelined on the command connection.
const READ_CHANNELS: usize = 64;
/// Most entries and bytes of one read; what is more is read in turns.
const READ_ENTRIES: usize = 10_000;
const READ_BYTES: usize = 8 << 20;
/// Most bytes that are read before they are given to the hub. What is beyond is announced as a gap:
/// a node that missed so much must not die of it.
const TOTAL_BYTES_MAX: usize = 64 << 20;
/// How often reading is tried before the connection is given up, and how long between.
const ATTEMPTS: u32 = 5;
const ATTEMPT_WAIT: Duration = Duration::from_millis(200);

/// What was missed.
#[derive(Default)]
pub(super) struct Missed {
    /// Events of all channels, in the order of the log.
    pub(super) events: Vec<(Channel, Entry)>,
    /// Channels of which not everything is there.
    pub(super) gaps: Vec<(Channel, GapReason)>,
}

/// Reads what channels got after the offsets that the node has, up to an offset.
pub(super) async fn read_missed(
    commands: ConnectionManager,
    channels: Vec<(Channel, u64)>,
    until: u64,
) -> RedisResult<Missed> {
    let mut missed = Missed::default();
    let mut bytes = 0;
    for asked in channels.chunks(ASK_CHANNELS) {
        let behind = find_behind(&commands, asked, until).await?;
        for batch in behind.chunks(READ_CHANNELS) {
            if bytes > TOTAL_BYTES_MAX {
                let lost =
                    batch.iter().map(|(channel, _)| (channel.clone(), GapReason::BrokerLost));
                missed.gaps.extend(lost);
                continue;
            }
            let mut reads = JoinSet::new();
            for (channel, after) in batch.iter().cloned() {
                reads.spawn(read_channel(commands.clone(), channel, after, until));
            }
            while let Some(read) = reads.join_next().await {
                // A task fails only by a panic, which is ours.
                let Ok(read) = read else { continue };
                let one = read?;
                bytes +=
                    one.events.iter().map(|(_, entry)| entry.event.data().len()).sum::<usize>();
                missed.events.extend(one.events);
                missed.gaps.extend(one.gaps);
            }
        }
    }
    missed.events.sort_by_key(|(_, entry)| entry.offset);
    Ok(missed)
}

/// The channels whose last event the node does not have.
async fn find_behind(
    commands: &ConnectionManager,
    channels: &[(Channel, u64)],
    until: u64,
) -> RedisResult<Vec<(Channel, u64)>> {
    let names: Vec<Channel> = channels.iter().map(|(channel, _)| channel.clone()).collect();
    let lasts = with_attempts(|| {
        let (mut commands, names) = (commands.clone(), names.clone());
        async move { log::lasts(&mut commands, &names).await }
    })
    .await?;
    let with_last = channels.iter().zip(lasts);
    let behind = with_last.filter(|((_, has), baseline)| baseline.last > *has && *has < until);
    Ok(behind.map(|(channel, _)| channel.clone()).collect())
}

async fn read_channel(
    commands: ConnectionManager,
    channel: Channel,
    after: u64,
    until: u64,
) -> RedisResult<Missed> {
    let mut missed = Missed::default();
    let mut at = after;
    loop {
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
        if at == after && entries.first().is_none_or(|first| first.previous > after) {
            // Events between were trimmed. Without any entry the last one came after `until`, and will
            // be given by the connection; what was before it is known to be nothing only from its
            // own `prev`, which is looked at then.
            if !entries.is_empty() {
                missed.gaps.push((channel.clone(), GapReason::Trimmed));
            }
        }
        let Some(last) = entries.last() else { return Ok(missed) };
        at = last.offset;
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
