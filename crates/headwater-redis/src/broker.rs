//! The broker over Redis. Look here for which Redis channel carries which event, and for
//! publishing.
//!
//! An event of a channel with retention is published through the function `headwater_publish`,
//! which appends it to the log and publishes it, in an [envelope](crate::envelope), on
//! `headwater:{0}:<channel>`. Without retention an event that has only data is a plain `PUBLISH` on
//! the channel's own name, so that every Redis subscriber receives it; an event with a name, an ID
//! or a retry is sent in an envelope without a position. Any Redis client can send ephemeral events
//! with `PUBLISH`. A node subscribes to both names; their order is preserved, since both arrive
//! over one connection.

use std::fmt;
use std::sync::Arc;

use headwater_core::broker::{Broker, BrokerFuture, BrokerStatus, History, ReadRange, Sink};
use headwater_core::log::RetentionRules;
use headwater_core::pattern::ChannelPattern;
use headwater_core::revocation::Revocation;
use headwater_core::{Channel, Error, ErrorKind, Publish, Receipt};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::commands::Commands;
use crate::connect::Address;
use crate::desired::{Confirmation, Desired};
use crate::ephemeral::EphemeralChannels;
use crate::errors::{self, is_denied, publish_error, read_error, revoke_error};
use crate::history;
use crate::library::{self, LogMode, Mode};
use crate::link::Deadlines;
use crate::node::Node;
use crate::pace::Pace;
use crate::publish::Publisher;
use crate::revocations;
use crate::subscriber::Subscriber;

/// Carries events through Redis: Redis 6.2 or newer, or Valkey.
///
/// A process has two connections to Redis, however many streams and channels it serves: one
/// subscribes, one sends commands. Both are opened in the background and reconnect indefinitely,
/// and neither is needed to start: without Redis, streams open and wait, and publishing fails with
/// [`ErrorKind::Unavailable`].
///
/// Redis retains events within their [retention](RetentionRules), so that streams resume on any
/// node. Events that a node missed while its connection was lost are read from the log and
/// delivered in order.
///
/// ```no_run
/// use headwater::{Hub, RedisBroker};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), headwater::Error> {
/// let broker = RedisBroker::connect("redis://127.0.0.1:6379")?;
/// let redis = broker.connection(); // for handlers that use Redis directly
/// let hub = Hub::new(broker);
/// # Ok(()) }
/// ```
pub struct RedisBroker {
    address: Address,
    commands: Commands,
    /// `None` leaves the rules in Redis unchanged.
    rules: Option<RetentionRules>,
    ephemeral: EphemeralChannels,
    desired: Arc<Desired>,
    pace: Pace,
    runtime: Handle,
    task: Option<AbortHandle>,
}

impl RedisBroker {
    /// A broker over the Redis at a URL: `redis://[user][:password@]host[:port][/db]`, `rediss://`
    /// for TLS with the system's certificates, or `unix:///path/to/socket`. Returns at once, before
    /// it is connected.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the URL has none of these forms; [`ErrorKind::NoRuntime`] outside
    /// a Tokio runtime.
    pub fn connect(url: &str) -> Result<Self, Error> {
        let runtime = Handle::try_current().map_err(|error| {
            Error::new(ErrorKind::NoRuntime, "connect to Redis inside a Tokio runtime")
                .with_source(error)
        })?;
        let address = Address::parse(url)?;
        let commands = Commands::open(address.clone(), &runtime, Deadlines::default());
        let (rules, ephemeral) = (None, EphemeralChannels::default());
        let desired = Arc::new(Desired::new());
        let pace = Pace::default();
        Ok(Self { address, commands, rules, ephemeral, desired, pace, runtime, task: None })
    }

    /// Sets the retention rules and writes them to Redis, where they apply to every publisher.
    /// Without this call the rules in Redis apply, or the default. Nodes on one Redis should have
    /// the same rules: those of the node that connected last apply.
    #[must_use]
    pub fn with_retention(mut self, rules: RetentionRules) -> Self {
        self.rules = Some(rules);
        self
    }

    /// Restricts the plain Redis channels that are shared with other programs to those that match a
    /// pattern: no other plain `PUBLISH` reaches a stream, and this node does not send any on other
    /// channels. Events published through a hub or the function reach every channel regardless.
    /// Without this call the plain Redis channel of every subscribed channel is shared.
    #[must_use]
    pub fn with_redis_channels(
        mut self,
        patterns: impl IntoIterator<Item = ChannelPattern>,
    ) -> Self {
        self.ephemeral = EphemeralChannels(Some(patterns.into_iter().collect()));
        self
    }

    /// The shared, pipelined connection for commands, for handlers that use Redis directly. Do not
    /// use it to subscribe or for blocking commands.
    pub fn connection(&self) -> Commands {
        self.commands.clone()
    }
}

impl Broker for RedisBroker {
    fn start(&mut self, sink: Sink) {
        let node = Node {
            address: self.address.clone(),
            commands: self.commands.clone(),
            desired: Arc::clone(&self.desired),
            rules: self.rules.as_ref().map(library::rules_text),
            ephemeral: self.ephemeral.clone(),
            sink,
        };
        self.task = Some(self.runtime.spawn(Subscriber(node).run()).abort_handle());
    }

    fn publish(&self, batch: Vec<Publish>) -> BrokerFuture<'_, Result<Vec<Receipt>, Error>> {
        Box::pin(async move {
            let bytes = batch.iter().map(|publish| publish.event().data().len()).sum();
            let heard = async {
                // Without the log, it is not known what has been received.
                if self.desired.log_mode() != LogMode::Denied {
                    let _ = self.desired.wait_for_log().await;
                }
            };
            self.pace.wait(bytes, heard).await;
            let mut commands = self.commands.clone();
            let mut mode = match self.desired.log_mode() {
                LogMode::Unknown => self.install(&mut commands).await?,
                LogMode::Denied => None,
                LogMode::Available(mode) => Some(mode),
            };
            let publisher = self.publisher();
            let mut answers = publisher.send(&batch.iter().collect::<Vec<_>>(), mode).await?;
            // If Redis restarted without its data, the function is gone, and the events that need
            // it were not published.
            let missing: Vec<usize> = (0..answers.len())
                .filter(|at| answers[*at].as_ref().is_err_and(errors::is_missing))
                .collect();
            if !missing.is_empty() {
                mode = self.install(&mut commands).await?;
                let unpublished: Vec<&Publish> = missing.iter().map(|at| &batch[*at]).collect();
                let retried = publisher.send(&unpublished, mode).await?;
                for (at, answer) in missing.into_iter().zip(retried) {
                    answers[at] = answer;
                }
            }
            answers.into_iter().map(|answer| answer.map_err(publish_error)).collect()
        })
    }

    fn subscribe(&self, channel: &Channel) {
        self.desired.insert(channel);
    }

    fn unsubscribe(&self, channel: &Channel) {
        self.desired.remove(channel);
    }

    fn subscribed<'a>(&'a self, channel: &'a Channel) -> BrokerFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let is_confirmed = match self.desired.confirmation(channel) {
                Confirmation::Confirmed => true,
                Confirmation::Denied => false,
                Confirmation::Pending(confirmation) => confirmation.await.is_ok(),
            };
            if is_confirmed { Ok(()) } else { Err(subscribe_denied(channel)) }
        })
    }

    fn read<'a>(
        &'a self,
        channel: &'a Channel,
        range: ReadRange,
    ) -> BrokerFuture<'a, Result<History, Error>> {
        Box::pin(async move {
            if self.desired.log_mode() == LogMode::Denied {
                return Ok(History::default());
            }
            let mut commands = self.commands.clone();
            history::read_history(&mut commands, channel, range).await.map_err(read_error)
        })
    }

    fn head(&self) -> BrokerFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            // A session that ends does not answer; the next one does.
            while self.desired.wait_for_log().await.is_err() {}
            Ok(())
        })
    }

    fn revoke<'a>(&'a self, revocation: &'a Revocation) -> BrokerFuture<'a, Result<u64, Error>> {
        Box::pin(async move {
            let mut commands = self.commands.clone();
            revocations::publish(&mut commands, revocation, &self.desired)
                .await
                .map_err(revoke_error)
        })
    }

    fn status(&self) -> BrokerStatus {
        self.desired.status()
    }
}

impl RedisBroker {
    /// Installs the function; `None` if it is not permitted.
    async fn install(&self, commands: &mut Commands) -> Result<Option<Mode>, Error> {
        match library::install(commands, None).await {
            Ok(mode) => {
                self.desired.set_log_mode(LogMode::Available(mode));
                Ok(Some(mode))
            }
            Err(error) if is_denied(&error) => Ok(None),
            Err(error) => Err(publish_error(error)),
        }
    }

    fn publisher(&self) -> Publisher<'_> {
        let (commands, desired) = (&self.commands, &*self.desired);
        Publisher { commands, desired, rules: self.rules.as_ref(), ephemeral: &self.ephemeral }
    }
}

fn subscribe_denied(channel: &Channel) -> Error {
    Error::new(
        ErrorKind::PermissionDenied,
        format!(
            "Redis denies subscribing to channel {channel}: give the Redis user the permissions \
             that docs/redis.md lists"
        ),
    )
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
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
