//! `headwater subscribe`: follows channels and prints what comes. Look here for what ends it.

use std::io::{self, Write as _};
use std::num::NonZeroU64;
use std::time::Duration;

use anyhow::{anyhow, bail};
use headwater::event::EventId;
use headwater::limits::CHANNELS_PER_STREAM_MAX;
use headwater::log::Position;
use headwater::stream::CloseReason;
use headwater::{Channel, Hub, RedisBroker, Rewind};
use tokio::signal;
use tokio::sync::mpsc;
use tokio::time::interval;

use super::follow::{FollowEvent, Follower};
use super::output::{Line, print};
use super::target::{Destination, Target};
use crate::exit::Failure;
use crate::printable::printable;
use crate::settings::RedisUrl;
use crate::sse::query::parse_rewind;

const EXAMPLES: &str = "\
Examples:
  headwater subscribe news
  headwater subscribe news orders --json | jq .data
  headwater subscribe jobs/42 --count 1                wait for one event
  headwater subscribe news --rewind 10                 start with the last ten events
  headwater subscribe news --rewind 2m                 or those of the last two minutes
  headwater subscribe news --redis redis://127.0.0.1:6379

Events go to standard output: as `channel (name) #id: data`, or as JSON, one object
{\"channel\",\"event\",\"id\",\"data\"} per line. A line reports missed events that are no
longer retained: `channel: GAP: ...`, or an object with \"gap\". Connection changes go
to standard error. Each channel has its own connection, which identifies the channel of an
event. The command ends at Ctrl-C, after --count events, or when every channel was ended by
its publisher (the server responds with 204).";

/// Subscribe to channels and print their events
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Subscribe {
    /// The channels, at most 100
    #[arg(required = true, value_name = "CHANNEL")]
    channels: Vec<Channel>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    /// Resume after this event ID; events that are no longer retained are reported as a gap
    #[arg(long, value_name = "ID", conflicts_with = "rewind", value_parser = last_event_id)]
    last_event_id: Option<String>,
    /// Replay retained events first: the last 10 of each channel, those of the last 2m, or all
    #[arg(long, value_name = "COUNT|TIME|all", value_parser = RewindText::parse)]
    rewind: Option<RewindText>,
    /// Exit after this many events; gaps do not count
    #[arg(long, value_name = "COUNT")]
    count: Option<NonZeroU64>,
    #[command(flatten)]
    target: Target,
}

/// An ID that clients see: a position of the log, or one that a publisher assigned.
fn last_event_id(text: &str) -> Result<String, String> {
    if text.parse::<Position>().is_err() {
        EventId::new(text).map_err(|error| error.to_string())?;
    }
    Ok(text.to_owned())
}

/// How far back to start, as the server's `rewind`.
#[derive(Clone)]
struct RewindText {
    text: String,
    rewind: Rewind,
}

impl RewindText {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self { text: text.to_owned(), rewind: parse_rewind(text)? })
    }
}

/// How often it is asked whether Redis has confirmed the channels, which the library does not
/// announce.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// How many events wait to be printed. Beyond that, followers stop reading, and the server closes
/// streams that do not read.
const WAITING_MAX: usize = 64;

impl Subscribe {
    /// Follows until it ends.
    pub(super) async fn run(mut self) -> Result<(), Failure> {
        self.channels.sort();
        self.channels.dedup();
        if self.channels.len() > CHANNELS_PER_STREAM_MAX {
            return Err(Failure::Usage(format!(
                "{} channels: at most {CHANNELS_PER_STREAM_MAX} can be followed",
                self.channels.len()
            )));
        }
        let mut printer = Printer { json: self.json, left: self.count };
        let (events, mut received) = mpsc::channel(WAITING_MAX);
        tokio::spawn(forward_interrupt(events.clone()));
        let mut open = self.channels.len();
        let destination = self.target.destination()?;
        let last_event_id = self.last_event_id;
        match destination {
            Destination::Server(server) => {
                let rewind = self.rewind.as_ref().map(|rewind| rewind.text.as_str());
                let start = (last_event_id.as_deref().unwrap_or_default(), rewind);
                for channel in self.channels {
                    let follower = Follower::new(server.clone(), channel, start, events.clone());
                    tokio::spawn(follower.run());
                }
            }
            Destination::Redis(url) => {
                tokio::spawn(async move {
                    let failed = events.clone();
                    let start = (last_event_id, self.rewind.map(|it| it.rewind));
                    if let Err(error) = follow_redis(url, self.channels, start, events).await {
                        let _ = failed.send(FollowEvent::Failed(error)).await;
                    }
                });
            }
        }
        while let Some(event) = received.recv().await {
            match event {
                FollowEvent::Event(line) => {
                    if printer.print(&line)? == Printed::Enough {
                        return Ok(());
                    }
                }
                FollowEvent::Notice(text) => notice(&text),
                FollowEvent::Finished(channel) => {
                    notice(&format!("{channel}: finished"));
                    open -= 1;
                    if open == 0 {
                        return Ok(());
                    }
                }
                FollowEvent::Failed(error) => return Err(Failure::Failed(error)),
                FollowEvent::Interrupted => return Err(Failure::Interrupted),
            }
        }
        Err(Failure::Failed(anyhow!("nothing is followed any more")))
    }
}

fn notice(text: &str) {
    // stderr may be closed, which is no reason to exit.
    let _ = writeln!(io::stderr(), "headwater: {}", printable(text));
}

async fn forward_interrupt(events: mpsc::Sender<FollowEvent>) {
    if signal::ctrl_c().await.is_ok() {
        // The receiver is gone only when the command is ending anyway.
        let _ = events.send(FollowEvent::Interrupted).await;
    }
}

/// Prints events until there were enough of them.
struct Printer {
    json: bool,
    left: Option<NonZeroU64>,
}

#[derive(PartialEq, Eq)]
enum Printed {
    GoOn,
    Enough,
}

impl Printer {
    fn print(&mut self, line: &Line) -> Result<Printed, Failure> {
        let mut text = if self.json { line.json() } else { line.text() };
        text.push('\n');
        print(&text)?;
        let Some(left) = self.left.filter(|_| line.gap.is_none()) else {
            return Ok(Printed::GoOn);
        };
        self.left = NonZeroU64::new(left.get() - 1);
        Ok(if self.left.is_none() { Printed::Enough } else { Printed::GoOn })
    }
}

/// Follows all channels over one connection to Redis. The broker reconnects automatically, and logs
/// it.
async fn follow_redis(
    url: RedisUrl,
    channels: Vec<Channel>,
    (last_event_id, rewind): (Option<String>, Option<Rewind>),
    events: mpsc::Sender<FollowEvent>,
) -> anyhow::Result<()> {
    let hub = Hub::new(RedisBroker::connect(url.expose())?);
    let mut unfinished = channels.clone();
    let subscription = hub.subscribe(channels)?;
    let mut subscription = match rewind {
        Some(rewind) => subscription.rewind(rewind),
        None => subscription.after(last_event_id),
    };
    let notice = |text| events.send(FollowEvent::Notice(text));
    let mut connected = false;
    let mut look = interval(LOOK_INTERVAL);
    notice(format!("connecting to {url}")).await?;
    loop {
        tokio::select! {
            _ = look.tick(), if !connected => {
                let health = hub.status();
                connected = health.channels_confirmed >= health.channels_wanted;
                if connected {
                    notice(format!("connected to {url}")).await?;
                }
            }
            frame = subscription.next() => match frame {
                Some(frame) => {
                    if let Some(line) = Line::from_frame(&frame) {
                        events.send(FollowEvent::Event(line)).await?;
                    }
                    if let Some(channel) = frame.channel().filter(|_| frame.is_end()) {
                        unfinished.retain(|unfinished| unfinished != channel);
                        events.send(FollowEvent::Finished(channel.clone())).await?;
                    }
                }
                None if subscription.closed() == Some(CloseReason::Finished) => {
                    // These were finished before.
                    for channel in unfinished {
                        events.send(FollowEvent::Finished(channel)).await?;
                    }
                    return Ok(());
                }
                None => bail!("{}", why_ended(subscription.closed())),
            },
        }
    }
}

fn why_ended(reason: Option<CloseReason>) -> &'static str {
    match reason {
        Some(CloseReason::Overflow) => {
            "events came faster than they could be printed: follow fewer channels, or read the \
             output faster"
        }
        _ => "the subscription ended",
    }
}
