//! The one subscriber connection of a node: connect, serve a session, connect again. Look here for
//! reconnecting.

use std::time::Duration;

use headwater_core::clock::now_ms;
use headwater_core::{Error, ErrorKind};
use redis::RedisResult;
use redis::aio::ConnectionManager;

use crate::connect::Address;
use crate::errors::is_denied;
use crate::library::{self, LogMode};
use crate::limits::RECONNECT_WAIT_MAX;
use crate::node::{Known, Node};
use crate::session::Session;

/// The first wait before connecting again; doubled up to the limit. Chosen to be kind to a Redis that restarts.
const RECONNECT_WAIT_MIN: Duration = Duration::from_millis(50);

/// Keeps a node subscribed until its task is aborted.
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
                    let lost = Session::new(connection, node, &mut known).run().await;
                    known.lost_ms = Some(now_ms());
                    self.0.wanted.end();
                    self.0.wanted.update_status(|status| status.reconnects += 1);
                    tracing::warn!(%address, "lost the connection to Redis, streams stay open: {lost}");
                }
                Err(error) => failures.log(address, &error),
            }
            tokio::time::sleep(failures.next_wait()).await;
        }
    }

    /// Brings the function into Redis, and the retention rules that it goes by.
    async fn install(&self) {
        let mut commands = self.0.commands.clone();
        let installed = match library::install(&mut commands).await {
            Ok(mode) => self.write_rules(&mut commands).await.map(|()| mode),
            Err(error) => Err(error),
        };
        match installed {
            Ok(mode) => self.0.wanted.set_log_mode(LogMode::Available(mode)),
            Err(error) if is_denied(&error) => {
                tracing::warn!(
                    "events are not kept: the Redis user may not use the keys headwater:{{0}}:*, so streams resume on the same node only ({error})"
                );
                self.0.wanted.set_log_mode(LogMode::Denied);
            }
            Err(error) => tracing::debug!("the Redis function could not be installed: {error}"),
        }
    }

    async fn write_rules(&self, commands: &mut ConnectionManager) -> RedisResult<()> {
        match &self.0.rules {
            Some(rules) => library::write_rules(commands, rules).await,
            None => Ok(()),
        }
    }
}

/// Attempts that failed in a row.
#[derive(Default)]
struct Failures {
    count: u32,
    logged: Option<String>,
}

impl Failures {
    /// Says the same thing once.
    fn log(&mut self, address: &Address, error: &Error) {
        let message = error.to_string();
        if self.logged.as_ref() == Some(&message) {
            tracing::debug!(%address, "Redis: {message}");
            return;
        }
        if error.kind() == ErrorKind::PermissionDenied {
            tracing::error!(%address, "Redis: {message}; trying again until it accepts them");
        } else {
            tracing::warn!(%address, "Redis: {message}; trying again, streams stay open");
        }
        self.logged = Some(message);
    }

    /// Nothing after a loss, then longer and longer, with full jitter.
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
    fn waits_grow_and_are_bounded() {
        let mut failures = Failures::default();
        for count in 0..100 {
            let wait = failures.next_wait();
            assert!(
                wait <= RECONNECT_WAIT_MAX && wait <= RECONNECT_WAIT_MIN * (1 << count.min(20))
            );
        }
    }
}
