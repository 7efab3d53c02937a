//! The one subscriber connection of a node: connect, serve a session, reconnect. Look here for the
//! pace of reconnecting, and for when the function is installed.

use std::time::Duration;

use headwater_core::clock::now_ms;
use headwater_core::{Error, ErrorKind};
use redis::RedisResult;

use crate::commands::Commands;
use crate::connect::Address;
use crate::errors::is_denied;
use crate::library::{self, LogMode};
use crate::limits::RECONNECT_WAIT_MAX;
use crate::node::{Known, Node};
use crate::session::Session;

/// The first wait before reconnecting; doubled up to the limit. Chosen to spare a Redis that
/// restarts.
const RECONNECT_WAIT_MIN: Duration = Duration::from_millis(50);

/// Maintains a node's subscriptions until its task is aborted.
pub(crate) struct Subscriber(pub(crate) Node);

impl Subscriber {
    pub(crate) async fn run(self) {
        let node = &self.0;
        let address = &node.address;
        let mut known = Known::default();
        let mut failures = Failures::default();
        loop {
            match address.open().await {
                Ok(connection) => {
                    tracing::info!(%address, "connected to Redis");
                    failures = Failures::default();
                    self.install().await;
                    let end = Session::new(connection, node, &mut known).run().await;
                    known.lost_ms = Some(now_ms());
                    self.0.wanted.end();
                    self.0.wanted.update_status(|status| status.reconnects += 1);
                    tracing::warn!(
                        %address,
                        "lost the connection to Redis, streams stay open: {end}"
                    );
                }
                Err(error) => failures.log(address, &error),
            }
            tokio::time::sleep(failures.next_wait()).await;
        }
    }

    /// Installs the function in Redis, and writes the retention rules that it applies.
    async fn install(&self) {
        let mut commands = self.0.commands.clone();
        let installed = match library::install(&mut commands, None).await {
            Ok(mode) => self.write_rules(&mut commands).await.map(|()| mode),
            Err(error) => Err(error),
        };
        match installed {
            Ok(mode) => self.0.wanted.set_log_mode(LogMode::Available(mode)),
            Err(error) if is_denied(&error) => {
                tracing::warn!(
                    "retention disabled: Redis denies the keys headwater:{{0}}:*, so streams \
                     resume on the same node only ({error})"
                );
                self.0.wanted.set_log_mode(LogMode::Denied);
            }
            Err(error) => tracing::debug!("cannot install the Redis function: {error}"),
        }
    }

    async fn write_rules(&self, commands: &mut Commands) -> RedisResult<()> {
        match &self.0.rules {
            Some(rules) => library::write_rules(commands, rules).await,
            None => Ok(()),
        }
    }
}

/// Consecutive failed attempts.
#[derive(Default)]
struct Failures {
    count: u32,
    logged: Option<String>,
}

impl Failures {
    /// Logs a failure; a repeated one only at the level debug.
    fn log(&mut self, address: &Address, error: &Error) {
        let message = error.to_string();
        if self.logged.as_ref() == Some(&message) {
            tracing::debug!(%address, "Redis: {message}");
            return;
        }
        if error.kind() == ErrorKind::PermissionDenied {
            tracing::error!(%address, "Redis: {message}; retrying until it accepts them");
        } else {
            tracing::warn!(%address, "Redis: {message}; retrying, streams stay open");
        }
        self.logged = Some(message);
    }

    /// The wait before the next attempt: exponential backoff with full jitter.
    fn next_wait(&mut self) -> Duration {
        let longest = RECONNECT_WAIT_MIN.saturating_mul(1 << self.count.min(16));
        self.count += 1;
        longest.min(RECONNECT_WAIT_MAX).mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_between_attempts_are_bounded() {
        let mut failures = Failures::default();
        for count in 0..100 {
            let wait = failures.next_wait();
            assert!(
                wait <= RECONNECT_WAIT_MAX && wait <= RECONNECT_WAIT_MIN * (1 << count.min(20))
            );
        }
    }
}
