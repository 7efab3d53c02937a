//! The broker over Redis. Look here for which Redis channels and keys carry what, and for publishing.
//!
//! An event of a channel with retention goes through the function `headwater_publish`, which keeps it in
//! the log and publishes it, in an [envelope], on `headwater:{0}:<channel>`. Without retention an event
//! that is only data is a plain `PUBLISH` on the channel's own name, so that every Redis subscriber sees
//! it; one with a name, an id or a retry travels in an envelope without a position. Every Redis client
//! can send plain events. A node subscribes to both names; Redis keeps their order, since both arrive
//! over one connection.

mod catch_up;
mod connect;
mod envelope;
mod function;
mod log;
mod probe;
mod resp;
mod revoke;
mod session;
mod subscriber;

use std::fmt;
use std::sync::Arc;

use ::redis::aio::{ConnectionManager, ConnectionManagerConfig};
use ::redis::io::tcp::TcpSettings;
use ::redis::{
    Client, ErrorKind as RedisErrorKind, IntoConnectionInfo, Pipeline, RedisError, Value,
};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::{Broker, BrokerFuture, BrokerStatus, History, ReadRange, Receipt, Sink};
use crate::channel::Channel;
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::limits::{RECONNECT_WAIT_MAX, REDIS_RESPONSE_TIMEOUT};
use crate::pattern::ChannelPattern;
use crate::position::Position;
use crate::publish::{IdempotencyKey, Publish};
use crate::retention::RetentionRules;
use crate::revocation::Revocation;

use connect::Address;
use function::Mode;
use subscriber::{Subscriber, Wanted};

/// Redis channels of events that travel in an envelope. `{0}` is the log, in Redis Cluster's hash tag.
const ENVELOPE_PREFIX: &str = "headwater:{0}:";

/// How many commands may wait for the command connection; redis' own 50 makes publishers queue up.
const PIPELINE_BUFFER: usize = 1024;

/// Carries events through Redis: Redis 6.2 or newer, or Valkey.
///
/// A process has two connections to Redis, however many streams and channels it serves: one subscribes,
/// one sends commands. Both are opened in the background, reconnect for ever, and neither is needed to
/// start: without Redis, streams open and wait, and publishing fails with [`ErrorKind::Unavailable`].
///
/// Events are kept in Redis, within their [retention](RetentionRules), so that streams resume on any
/// node, and what a node missed while its connection was lost is read again and given in its place.
///
/// ```no_run
/// use headwater::{Hub, RedisBroker};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), headwater::Error> {
/// let broker = RedisBroker::connect("redis://127.0.0.1:6379")?;
/// let redis = broker.connection(); // for handlers that want Redis itself
/// let hub = Hub::new(broker);
/// # Ok(()) }
/// ```
pub struct RedisBroker {
    address: Address,
    commands: ConnectionManager,
    /// `None` leaves the rules that stand in Redis.
    rules: Option<RetentionRules>,
    ephemeral: EphemeralChannels,
    wanted: Arc<Wanted>,
    runtime: Handle,
    task: Option<AbortHandle>,
}

impl RedisBroker {
    /// A broker over the Redis at a URL: `redis://[user][:password@]host[:port][/db]`, `rediss://` for TLS with
    /// the system's certificates, `unix:///path/to/socket`. Returns at once.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the URL is not one of these; [`ErrorKind::NoRuntime`] outside of a Tokio
    /// runtime.
    pub fn connect(url: &str) -> Result<Self, Error> {
        let runtime = Handle::try_current().map_err(|error| {
            Error::new(ErrorKind::NoRuntime, "connect to Redis inside of a Tokio runtime")
                .with_source(error)
        })?;
        let info = url.into_connection_info().map_err(|error| {
            // The URL may hold a password, so it is not repeated.
            Error::invalid(
                "the Redis URL is not one: write redis://[user][:password@]host[:port][/db], rediss://... for TLS, or unix:///path",
            )
            .with_source(error)
        })?;
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let address = Address::new(&info)?;
        let config = ConnectionManagerConfig::new()
            .set_max_delay(RECONNECT_WAIT_MAX)
            // A publisher gets its error soon; the next publish tries again.
            .set_number_of_retries(1)
            .set_connection_timeout(Some(REDIS_RESPONSE_TIMEOUT))
            .set_response_timeout(Some(REDIS_RESPONSE_TIMEOUT))
            .set_pipeline_buffer_size(PIPELINE_BUFFER);
        let commands = Client::open(info)
            .and_then(|client| ConnectionManager::new_lazy_with_config(client, config))
            .map_err(|error| {
                Error::invalid("the Redis URL cannot be used: see the cause").with_source(error)
            })?;
        let (rules, ephemeral) = (None, EphemeralChannels::default());
        Ok(Self {
            address,
            commands,
            rules,
            ephemeral,
            wanted: Arc::default(),
            runtime,
            task: None,
        })
    }

    /// Keeps what the rules say, and writes them to Redis for all who publish there. Without this call the
    /// rules that stand in Redis count, or the default. Nodes on one Redis should have the same rules:
    /// those of the node that connected last hold.
    #[must_use]
    pub fn with_retention(mut self, rules: RetentionRules) -> Self {
        self.rules = Some(rules);
        self
    }

    /// Listens only to those plain Redis channels that a pattern fits: nothing else that is published in
    /// this Redis by other programs reaches a stream, and nothing is published where they listen.
    /// Events that come through a hub or the function reach every channel all the same. Without this
    /// call every plain channel is listened to that a stream asks for.
    #[must_use]
    pub fn with_redis_channels(
        mut self,
        patterns: impl IntoIterator<Item = ChannelPattern>,
    ) -> Self {
        self.ephemeral = EphemeralChannels(Some(patterns.into_iter().collect()));
        self
    }

    /// The connection for commands, shared and pipelined: for handlers that want Redis itself. It must
    /// not be used to subscribe, nor for commands that block.
    pub fn connection(&self) -> ConnectionManager {
        self.commands.clone()
    }
}

impl Broker for RedisBroker {
    fn start(&mut self, sink: Sink) {
        let subscriber = Subscriber {
            address: self.address.clone(),
            commands: self.commands.clone(),
            wanted: Arc::clone(&self.wanted),
            rules: self.rules.as_ref().map(RetentionRules::to_redis_text),
            ephemeral: self.ephemeral.clone(),
            sink,
        };
        self.task = Some(self.runtime.spawn(subscriber.run()).abort_handle());
    }

    fn publish(&self, batch: Vec<Publish>) -> BrokerFuture<'_, Result<Vec<Receipt>, Error>> {
        Box::pin(async move {
            let mut commands = self.commands.clone();
            let mut mode = match self.wanted.durability() {
                LogMode::Unknown => self.install(&mut commands).await?,
                LogMode::Off => None,
                LogMode::On(mode) => Some(mode),
            };
            let mut answers =
                self.send(&mut commands, &batch.iter().collect::<Vec<_>>(), mode).await?;
            // Redis restarted without its data: the function is gone, and what needs it was not published.
            let missing: Vec<usize> = (0..answers.len())
                .filter(|at| answers[*at].as_ref().is_err_and(function::is_missing))
                .collect();
            if !missing.is_empty() {
                mode = self.install(&mut commands).await?;
                let again: Vec<&Publish> = missing.iter().map(|at| &batch[*at]).collect();
                let anew = self.send(&mut commands, &again, mode).await?;
                for (at, answer) in missing.into_iter().zip(anew) {
                    answers[at] = answer;
                }
            }
            let published = batch.into_iter().zip(answers);
            published
                .map(|(publish, answer)| Ok(receipt(publish, answer.map_err(publish_error)?)))
                .collect()
        })
    }

    fn subscribe(&self, channel: &Channel) {
        self.wanted.insert(channel);
    }

    fn unsubscribe(&self, channel: &Channel) {
        self.wanted.remove(channel);
    }

    fn subscribed<'a>(&'a self, channel: &'a Channel) -> BrokerFuture<'a, ()> {
        Box::pin(async {
            if let Some(confirmation) = self.wanted.confirmation(channel) {
                // An error means that there is no longer anything to wait for.
                let _ = confirmation.await;
            }
        })
    }

    fn read<'a>(
        &'a self,
        channel: &'a Channel,
        range: ReadRange,
    ) -> BrokerFuture<'a, Result<History, Error>> {
        Box::pin(async move {
            let Some(epoch) = self.wanted.epoch() else {
                // Without permission for the log there is no history.
                return Ok(History::default());
            };
            let mut commands = self.commands.clone();
            log::read_history(&mut commands, channel, range, epoch).await.map_err(publish_error)
        })
    }

    fn revoke<'a>(&'a self, revocation: &'a Revocation) -> BrokerFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let mut commands = self.commands.clone();
            revoke::publish(&mut commands, revocation, &self.wanted).await.map_err(|error| {
                let kind = if is_refused(&error) { ErrorKind::PermissionDenied } else { ErrorKind::Unavailable };
                Error::new(
                    kind,
                    "Redis did not take the revocation, so other nodes may not know of it: revoke again",
                )
                .with_source(error)
            })
        })
    }

    fn status(&self) -> BrokerStatus {
        self.wanted.status()
    }
}

/// Which plain Redis channels are listened to and published on; `None` for all.
#[derive(Clone, Default)]
struct EphemeralChannels(Option<Arc<[ChannelPattern]>>);

impl EphemeralChannels {
    fn contains(&self, channel: &Channel) -> bool {
        self.0.as_ref().is_none_or(|all| all.iter().any(|pattern| pattern.matches(channel)))
    }
}

/// Whether events can be kept in this Redis.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum LogMode {
    /// Not tried yet.
    #[default]
    Unknown,
    /// The Redis user may not use the log's keys.
    Off,
    /// With the function.
    On(Mode),
}

impl RedisBroker {
    /// Installs the function; `None` if it is not permitted.
    async fn install(&self, commands: &mut ConnectionManager) -> Result<Option<Mode>, Error> {
        match function::install(commands).await {
            Ok(mode) => {
                self.wanted.set_durability(LogMode::On(mode));
                Ok(Some(mode))
            }
            Err(error) if is_refused(&error) => Ok(None),
            Err(error) => Err(publish_error(error)),
        }
    }

    /// Sends a batch in one round trip; the answer to each event.
    async fn send(
        &self,
        commands: &mut ConnectionManager,
        batch: &[&Publish],
        mode: Option<Mode>,
    ) -> Result<Vec<Result<Value, RedisError>>, Error> {
        let mut pipeline = ::redis::pipe();
        for Publish { channel, event, end, key } in batch {
            // Of rules that only Redis knows, the function finds out.
            let is_off = self.rules.as_ref().is_some_and(|it| it.for_channel(channel).is_none());
            let needs_log = *end || key.is_some();
            match mode.filter(|_| !is_off || needs_log) {
                Some(mode) => {
                    let key = key.as_ref().map(IdempotencyKey::as_str);
                    function::add_publish(&mut pipeline, mode, channel.as_str(), event, key, *end);
                }
                None if needs_log => return Err(without_log(channel)),
                None => {
                    add_publish(&mut pipeline, channel, event, self.ephemeral.contains(channel))
                }
            }
        }
        pipeline.ignore_errors().query_async(commands).await.map_err(publish_error)
    }
}

/// An end, or a key, that could not be kept.
fn without_log(channel: &Channel) -> Error {
    Error::new(
        ErrorKind::PermissionDenied,
        format!(
            "Redis does not permit the keys headwater:{{0}}:*, so neither an end nor an idempotency key of channel {channel} can be kept: leave them out, or give the Redis user the permissions that docs/redis.md lists"
        ),
    )
}

fn receipt(publish: Publish, answer: Value) -> Receipt {
    // Only the function answers with a position; PUBLISH with a number of receivers.
    let position = match answer {
        Value::BulkString(id) => String::from_utf8(id).ok(),
        Value::SimpleString(id) => Some(id),
        _ => None,
    };
    let position = position.and_then(|id| id.parse::<Position>().ok());
    Receipt::new(publish.channel, &publish.event, position)
}

fn add_publish(pipeline: &mut Pipeline, channel: &Channel, event: &Event, may_be_plain: bool) {
    let only_data = event.name().is_none() && event.id().is_none() && event.retry().is_none();
    let command = pipeline.cmd("PUBLISH");
    if only_data && may_be_plain {
        command.arg(channel.as_str()).arg(event.data());
    } else {
        command.arg(format!("{ENVELOPE_PREFIX}{channel}")).arg(envelope::encode(event));
    }
}

/// Whether Redis said no, on connecting or to any command of the pipeline.
fn is_refused(error: &RedisError) -> bool {
    let answers = error.clone().into_server_errors().unwrap_or_default();
    matches!(error.kind(), RedisErrorKind::AuthenticationFailed)
        || answers.iter().any(|(_, answer)| {
            // Redis says it this way when the permission is missing inside of a function or script.
            let details = answer.details().unwrap_or_default();
            connect::is_refusal(answer.code()) || details.contains("user executing the script")
        })
}

fn publish_error(error: RedisError) -> Error {
    if function::is_ended(&error) {
        let message = "the channel was ended by its publisher: publish to another channel";
        return Error::new(ErrorKind::Ended, message).with_source(error);
    }
    if let Some(fault) = function::fault(&error) {
        return Error::invalid(fault).with_source(error);
    }
    let kind =
        if is_refused(&error) { ErrorKind::PermissionDenied } else { ErrorKind::Unavailable };
    let message = match kind {
        ErrorKind::PermissionDenied => {
            "Redis refused it: check user, password and permissions of the Redis URL"
        }
        _ => {
            "Redis did not answer in time or cannot be reached: publish again, though the event may have been taken; with an idempotency key it is taken once"
        }
    };
    Error::new(kind, message).with_source(error)
}

impl Drop for RedisBroker {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl fmt::Debug for RedisBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBroker")
            .field("address", &self.address)
            .field("health", &self.status())
            .finish_non_exhaustive()
    }
}
