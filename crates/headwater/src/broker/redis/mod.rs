//! The broker over Redis Pub/Sub. Look here for which Redis channels carry what, and for publishing.
//!
//! An event that is only data is a plain `PUBLISH` on the channel's own name, so that every Redis
//! subscriber sees it, and every Redis client can send one. An event with a name, an id or a retry
//! travels in an [envelope] on `headwater:{0}:<channel>`. A node subscribes to both; Redis keeps their
//! order, since both arrive over one connection.

mod connect;
mod envelope;
mod resp;
mod session;
mod subscriber;

use std::fmt;
use std::sync::Arc;

use ::redis::aio::{ConnectionManager, ConnectionManagerConfig};
use ::redis::io::tcp::TcpSettings;
use ::redis::{Client, ErrorKind as RedisErrorKind, IntoConnectionInfo, RedisError};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::{Broker, BrokerFuture, Health, Receipt, Sink};
use crate::channel::Channel;
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::limits::{RECONNECT_WAIT_MAX, REDIS_RESPONSE_TIMEOUT};

use connect::Address;
use subscriber::Wanted;

/// Redis channels of events that travel in an envelope. `{0}` is the log, in Redis Cluster's hash tag.
const ENVELOPE_PREFIX: &str = "headwater:{0}:";

/// How many commands may wait for the command connection; redis' own 50 makes publishers queue up.
const PIPELINE_BUFFER: usize = 1024;

/// Carries events through Redis Pub/Sub: Redis 6.2 or newer, or Valkey.
///
/// A process has two connections to Redis, however many streams and channels it serves: one subscribes,
/// one sends commands. Both are opened in the background, reconnect for ever, and neither is needed to
/// start: without Redis, streams open and wait, and publishing fails with [`ErrorKind::Unavailable`].
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
        Ok(Self { address, commands, wanted: Arc::default(), runtime, task: None })
    }

    /// The connection for commands, shared and pipelined: for handlers that want Redis itself. It must
    /// not be used to subscribe, nor for commands that block.
    pub fn connection(&self) -> ConnectionManager {
        self.commands.clone()
    }
}

impl Broker for RedisBroker {
    fn start(&mut self, sink: Sink) {
        let subscriber = subscriber::run(
            self.address.clone(),
            self.commands.clone(),
            Arc::clone(&self.wanted),
            sink,
        );
        self.task = Some(self.runtime.spawn(subscriber).abort_handle());
    }

    fn publish(
        &self,
        batch: Vec<(Channel, Event)>,
    ) -> BrokerFuture<'_, Result<Vec<Receipt>, Error>> {
        let mut commands = self.commands.clone();
        Box::pin(async move {
            let mut pipeline = ::redis::pipe();
            for (channel, event) in &batch {
                add_publish(&mut pipeline, channel, event);
            }
            pipeline.exec_async(&mut commands).await.map_err(publish_error)?;
            Ok(batch.into_iter().map(|(channel, event)| Receipt::new(channel, &event)).collect())
        })
    }

    fn listen(&self, channel: &Channel) {
        self.wanted.insert(channel);
    }

    fn unlisten(&self, channel: &Channel) {
        self.wanted.remove(channel);
    }

    fn confirmed<'a>(&'a self, channel: &'a Channel) -> BrokerFuture<'a, ()> {
        Box::pin(async {
            if let Some(confirmation) = self.wanted.confirmation(channel) {
                // An error means that there is no longer anything to wait for.
                let _ = confirmation.await;
            }
        })
    }

    fn health(&self) -> Health {
        self.wanted.health()
    }
}

fn add_publish(pipeline: &mut ::redis::Pipeline, channel: &Channel, event: &Event) {
    let only_data = event.name().is_none() && event.id().is_none() && event.retry().is_none();
    let command = pipeline.cmd("PUBLISH");
    if only_data {
        command.arg(channel.as_str()).arg(event.data());
    } else {
        command.arg(format!("{ENVELOPE_PREFIX}{channel}")).arg(envelope::encode(event));
    }
}

/// Whether Redis said no, on connecting or to any command of the pipeline.
fn is_refused(error: &RedisError) -> bool {
    let answers = error.clone().into_server_errors().unwrap_or_default();
    matches!(error.kind(), RedisErrorKind::AuthenticationFailed)
        || answers.iter().any(|(_, answer)| connect::is_refusal(answer.code()))
}

fn publish_error(error: RedisError) -> Error {
    let kind = if is_refused(&error) { ErrorKind::Refused } else { ErrorKind::Unavailable };
    let message = match kind {
        ErrorKind::Refused => {
            "Redis refused the event: check user, password and permissions of the Redis URL"
        }
        _ => {
            "Redis did not answer in time or cannot be reached: publish again, though the event may have been taken"
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
            .field("health", &self.health())
            .finish_non_exhaustive()
    }
}
