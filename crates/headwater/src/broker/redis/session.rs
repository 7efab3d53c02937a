//! One subscriber connection, from HELLO to its loss. Look here for batching, confirmations, the probe,
//! and the way of a message from Redis to the hub.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;

use ::redis::RedisResult;
use ::redis::aio::ConnectionManager;
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::oneshot;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::connect::Connection;
use super::resp::{self, Parsed, Value};
use super::subscriber::Wanted;
use super::{ENVELOPE_PREFIX, envelope};
use crate::broker::Sink;
use crate::channel::Channel;
use crate::error::Error;
use crate::event::Event;
use crate::limits::{
    EVENT_DATA_BYTES_MAX, PROBE_INTERVAL, SUBSCRIBE_BATCH_MAX, SUBSCRIBE_UNCONFIRMED_MAX,
};

/// What one read takes at most, and what the buffer keeps between messages.
const READ_BYTES: usize = 64 << 10;

/// Redis channels per channel of ours: its own name, and the one for envelopes.
const NAMES_PER_CHANNEL: usize = 2;

/// A subscriber connection and what is known about it.
pub(super) struct Session<'a> {
    reader: ReadHalf<Box<dyn Connection>>,
    writer: WriteHalf<Box<dyn Connection>>,
    wanted: &'a Wanted,
    sink: &'a Sink,
    input: BytesMut,
    output: BytesMut,
    /// Channels to bring in line with what is wanted, in batches that fit one command.
    todo: VecDeque<Vec<Channel>>,
    /// Channels that Redis was asked for. Each has one command on its way at most, so that a
    /// confirmation can only be for that one.
    asked: HashMap<Channel, Phase>,
    unconfirmed: VecDeque<Asked>,
    probe: Probe,
}

/// Where a channel is between asked for and ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Subscribing,
    Subscribed,
    Unsubscribing,
}

/// A SUBSCRIBE or UNSUBSCRIBE that is not wholly confirmed.
struct Asked {
    channels: Vec<Channel>,
    confirmations_left: usize,
}

/// Why a session ended.
pub(super) enum Lost {
    Closed,
    Io(io::Error),
    Protocol(Error),
    Deaf(&'static str),
}

impl<'a> Session<'a> {
    pub(super) fn new(
        connection: Box<dyn Connection>,
        commands: ConnectionManager,
        wanted: &'a Wanted,
        sink: &'a Sink,
    ) -> Self {
        let (reader, writer) = tokio::io::split(connection);
        Self {
            reader,
            writer,
            wanted,
            sink,
            input: BytesMut::with_capacity(READ_BYTES),
            output: BytesMut::new(),
            todo: VecDeque::new(),
            asked: HashMap::new(),
            unconfirmed: VecDeque::new(),
            probe: Probe::new(commands),
        }
    }

    /// Serves until the connection is lost.
    pub(super) async fn run(mut self) -> Lost {
        self.subscribe_probe();
        let all = self.wanted.begin();
        self.add_todo(&all);
        loop {
            self.ask();
            if let Err(lost) = self.turn().await {
                return lost;
            }
        }
    }

    async fn turn(&mut self) -> Result<(), Lost> {
        tokio::select! {
            read = self.reader.read_buf(&mut self.input) => {
                if read.map_err(Lost::Io)? == 0 {
                    return Err(Lost::Closed);
                }
                self.take_input()?;
            }
            written = self.writer.write_buf(&mut self.output), if !self.output.is_empty() => {
                written.map_err(Lost::Io)?;
                if self.output.is_empty() {
                    self.output = BytesMut::new();
                    self.writer.flush().await.map_err(Lost::Io)?;
                }
            }
            () = self.wanted.changed() => {
                let changes = self.wanted.take_changes();
                self.add_todo(&changes);
            }
            due = self.probe.due() => self.on_probe_due(due)?,
        }
        Ok(())
    }

    // === subscribing ===

    fn subscribe_probe(&mut self) {
        resp::encode_command(
            [b"SUBSCRIBE".as_slice(), self.probe.channel.as_bytes()],
            &mut self.output,
        );
        self.unconfirmed.push_back(Asked { channels: Vec::new(), confirmations_left: 1 });
    }

    fn add_todo(&mut self, channels: &[Channel]) {
        let batches = channels.chunks(SUBSCRIBE_BATCH_MAX / NAMES_PER_CHANNEL).map(<[_]>::to_vec);
        self.todo.extend(batches);
    }

    /// Sends what there is to do, as far as the bound on unconfirmed commands allows.
    fn ask(&mut self) {
        // A batch can make two commands.
        while self.unconfirmed.len() + 1 < SUBSCRIBE_UNCONFIRMED_MAX {
            let Some(batch) = self.todo.pop_front() else { return };
            let (mut wanted, mut unwanted) = self.wanted.partition(batch);
            wanted.retain(|channel| self.begin_subscribing(channel));
            unwanted.retain(|channel| self.begin_unsubscribing(channel));
            self.ask_for(b"SUBSCRIBE", wanted);
            self.ask_for(b"UNSUBSCRIBE", unwanted);
        }
    }

    /// Whether there is a command to send. A channel on its way is looked at again when it is there.
    fn begin_subscribing(&mut self, channel: &Channel) -> bool {
        match self.asked.get(channel) {
            Some(Phase::Subscribed) => self.wanted.confirm(channel),
            Some(Phase::Subscribing | Phase::Unsubscribing) => {}
            None => {
                self.asked.insert(channel.clone(), Phase::Subscribing);
                return true;
            }
        }
        false
    }

    fn begin_unsubscribing(&mut self, channel: &Channel) -> bool {
        match self.asked.get_mut(channel) {
            Some(phase @ Phase::Subscribed) => {
                *phase = Phase::Unsubscribing;
                true
            }
            _ => false,
        }
    }

    fn ask_for(&mut self, command: &[u8], channels: Vec<Channel>) {
        if channels.is_empty() {
            return;
        }
        let envelopes: Vec<String> =
            channels.iter().map(|channel| format!("{ENVELOPE_PREFIX}{channel}")).collect();
        let names = channels.iter().zip(&envelopes);
        let mut words = vec![command];
        words.extend(
            names.flat_map(|(plain, envelope)| [envelope.as_bytes(), plain.as_str().as_bytes()]),
        );
        let confirmations_left = words.len() - 1;
        resp::encode_command(words, &mut self.output);
        self.unconfirmed.push_back(Asked { channels, confirmations_left });
    }

    fn on_confirmation(&mut self, name: &[u8], subscribed: bool) {
        if let Some(front) = self.unconfirmed.front_mut() {
            front.confirmations_left -= 1;
            if front.confirmations_left == 0 {
                self.unconfirmed.pop_front();
            }
        }
        if name == self.probe.channel.as_bytes() {
            self.probe.interval.reset_immediately();
        } else if !name.starts_with(ENVELOPE_PREFIX.as_bytes()) {
            // The name for envelopes was confirmed before this one.
            self.on_channel_confirmed(&String::from_utf8_lossy(name), subscribed);
        }
    }

    fn on_channel_confirmed(&mut self, name: &str, subscribed: bool) {
        let Some((channel, _)) = self.asked.remove_entry(name) else { return };
        if subscribed {
            self.wanted.confirm(&channel);
            self.asked.insert(channel.clone(), Phase::Subscribed);
        }
        // What is wanted may have changed on the way.
        let (is_wanted, _) = self.wanted.partition(vec![channel.clone()]);
        if is_wanted.is_empty() == subscribed {
            self.add_todo(&[channel]);
        }
    }

    /// Redis refuses a command as a whole when it refuses one of its channels, so find out which.
    fn on_error(&mut self, message: &[u8]) {
        let message = String::from_utf8_lossy(message);
        let Some(Asked { mut channels, .. }) = self.unconfirmed.pop_front() else {
            tracing::warn!("Redis reported an error on the subscriber connection: {message}");
            return;
        };
        for channel in &channels {
            self.asked.remove(channel);
        }
        match channels.len() {
            0 => tracing::error!(
                "Redis refuses the probe's channel {}: {message}",
                self.probe.channel
            ),
            1 => {
                self.wanted.refuse(&channels[0]);
                tracing::error!(channel = %channels[0], "Redis refuses to subscribe: {message}");
            }
            count => {
                self.todo.push_back(channels.split_off(count / 2));
                self.todo.push_back(channels);
            }
        }
    }

    // === receiving ===

    fn take_input(&mut self) -> Result<(), Lost> {
        loop {
            // Taken out while values borrow from it.
            let mut input = std::mem::take(&mut self.input);
            let parsed = resp::parse(&input).map_err(Lost::Protocol)?;
            let taken = match parsed {
                Parsed::Value(value, length) => {
                    self.on_value(&value)?;
                    length
                }
                Parsed::Incomplete(needed) => {
                    let missing = needed.saturating_sub(input.len()).max(READ_BYTES);
                    if input.is_empty() && input.capacity() > 4 * READ_BYTES {
                        // One large message must not be paid for ever.
                        input = BytesMut::new();
                    }
                    input.reserve(missing);
                    self.input = input;
                    return Ok(());
                }
            };
            input.advance(taken);
            self.input = input;
        }
    }

    fn on_value(&mut self, value: &Value<'_>) -> Result<(), Lost> {
        match value {
            Value::List(items) => match items.as_slice() {
                [Value::Text(b"message"), Value::Text(name), Value::Text(payload)] => {
                    self.on_message(name, payload);
                }
                [Value::Text(b"subscribe"), Value::Text(name), _] => {
                    self.on_confirmation(name, true);
                }
                [Value::Text(b"unsubscribe"), Value::Text(name), _] => {
                    self.on_confirmation(name, false);
                }
                // Other pushes are not for us.
                _ => {}
            },
            Value::Error(message) => self.on_error(message),
            Value::Text(_) | Value::Integer(_) | Value::Null => {
                return Err(Lost::Deaf("Redis answered what was not asked"));
            }
        }
        Ok(())
    }

    fn on_message(&mut self, name: &[u8], payload: &[u8]) {
        if name == self.probe.channel.as_bytes() {
            self.on_probe_back(payload);
            return;
        }
        let Ok(name) = std::str::from_utf8(name) else { return };
        let own_name = name.strip_prefix(ENVELOPE_PREFIX);
        // Messages still come after UNSUBSCRIBE was sent; nobody listens to them.
        let asked = self.asked.get_key_value(own_name.unwrap_or(name));
        let Some((channel, _)) = asked else { return };
        let headers_max = if own_name.is_some() { envelope::HEADERS_BYTES_MAX } else { 0 };
        if payload.len() > EVENT_DATA_BYTES_MAX + headers_max {
            tracing::warn!(%channel, bytes = payload.len(), "dropped an event from Redis: at most {EVENT_DATA_BYTES_MAX} bytes of data are allowed");
            self.sink.count_refused();
            return;
        }
        let decoded = if own_name.is_some() {
            envelope::decode(payload)
        } else {
            let data = String::from_utf8_lossy(payload);
            let replaced = matches!(data, Cow::Owned(_));
            Ok((Event::new(data), replaced))
        };
        match decoded {
            Ok((event, replaced)) => {
                if replaced {
                    tracing::debug!(%channel, "an event from Redis is not UTF-8: U+FFFD stands for the bad bytes");
                    self.sink.count_replaced();
                }
                self.sink.deliver(channel, &event);
            }
            Err(error) => {
                tracing::warn!(%channel, "dropped an envelope from Redis: {error}");
                self.sink.count_refused();
            }
        }
    }

    // === the probe ===

    fn on_probe_due(&mut self, due: Due) -> Result<(), Lost> {
        match due {
            Due::Send => self.probe.send(),
            Due::Sent(Ok(0)) => return Err(Lost::Deaf("Redis no longer knows this subscriber")),
            Due::Sent(Ok(_)) => {}
            Due::Sent(Err(error)) => {
                // That publishing fails says nothing about this connection.
                if self.wanted.health().ready {
                    tracing::warn!("not ready: the probe cannot be published to Redis: {error}");
                }
                self.probe.in_flight = None;
                self.probe.retry_soon();
                self.wanted.update_health(|health| health.ready = false);
            }
            Due::Overdue => return Err(Lost::Deaf("a probe through Redis did not come back")),
        }
        Ok(())
    }

    fn on_probe_back(&mut self, payload: &[u8]) {
        let Some(probe) = &self.probe.in_flight else { return };
        if payload != probe.number.to_string().as_bytes() {
            return;
        }
        let lag = probe.sent_at.elapsed();
        self.probe.in_flight = None;
        self.wanted.update_health(|health| {
            health.ready = true;
            health.lag = Some(lag);
        });
    }
}

/// Proves that what is published arrives: TCP keepalive does not.
struct Probe {
    channel: String,
    commands: ConnectionManager,
    interval: Interval,
    in_flight: Option<InFlight>,
    count: u64,
}

struct InFlight {
    number: u64,
    sent_at: Instant,
    /// How many subscribers Redis gave it to, once Redis has answered.
    receivers: Option<oneshot::Receiver<RedisResult<i64>>>,
}

enum Due {
    Send,
    Sent(RedisResult<i64>),
    Overdue,
}

impl Probe {
    fn new(commands: ConnectionManager) -> Self {
        let mut interval = tokio::time::interval(PROBE_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first one goes out when its channel is confirmed.
        interval.reset();
        let channel = format!("headwater:probe:{:016x}", fastrand::u64(..));
        Self { channel, commands, interval, in_flight: None, count: 0 }
    }

    /// Waits until there is something to do. Cancel safe.
    async fn due(&mut self) -> Due {
        let Some(probe) = &mut self.in_flight else {
            self.interval.tick().await;
            return Due::Send;
        };
        let overdue = probe.sent_at + PROBE_INTERVAL;
        let Some(receivers) = &mut probe.receivers else {
            tokio::time::sleep_until(overdue).await;
            return Due::Overdue;
        };
        // Redis' answer is waited for without a bound of ours: the command connection has its own.
        let answer = receivers.await;
        probe.receivers = None;
        match answer {
            Ok(answer) => Due::Sent(answer),
            Err(_) => Due::Overdue,
        }
    }

    fn send(&mut self) {
        self.count += 1;
        let (answered, receivers) = oneshot::channel();
        let mut commands = self.commands.clone();
        let mut publish = ::redis::cmd("PUBLISH");
        publish.arg(&self.channel).arg(self.count);
        // A task of its own, since the answer may come after the probe itself.
        tokio::spawn(async move {
            let _ = answered.send(publish.query_async(&mut commands).await);
        });
        self.in_flight = Some(InFlight {
            number: self.count,
            sent_at: Instant::now(),
            receivers: Some(receivers),
        });
    }

    /// While not ready, readiness is looked for more often.
    fn retry_soon(&mut self) {
        self.interval.reset_after(PROBE_INTERVAL / 5);
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("Redis closed it"),
            Self::Io(error) => write!(f, "{error}"),
            Self::Protocol(error) => write!(f, "{error}"),
            Self::Deaf(why) => f.write_str(why),
        }
    }
}
