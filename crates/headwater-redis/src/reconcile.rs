//! Compares what Redis has with what this node wants, again and again, and repairs the difference:
//! the function, the retention rules, the position of the log, and the revocations that this node
//! knows. Look here for how a Redis that lost its data, or refused something, gets it again.

use std::time::Duration;

use headwater_core::broker::Part;
use redis::{RedisError, RedisResult};
use tokio::time::sleep;

use crate::commands::Commands;
use crate::desired::Revocations;
use crate::errors::{self, is_denied, is_missing};
use crate::library::{self, Heard, LogMode, Mode};
use crate::limits::{PROBE_INTERVAL, RECONCILE_RETRY};
use crate::node::Node;
use crate::revocations;

/// Reconciles until its task is aborted.
pub(crate) async fn run(node: &Node) {
    let mut generation = None;
    let mut reconciler = Reconciler { node, commands: node.commands.clone(), wrote_rules: false };
    loop {
        let now = reconciler.commands.generation();
        let is_new = generation.replace(now) != Some(now);
        let is_equal = reconciler.reconcile(is_new).await;
        let pause = if is_equal { PROBE_INTERVAL } else { RECONCILE_RETRY };
        wait(node, now, pause).await;
    }
}

/// Waits until it is time to compare again: after a pause, when the connection for commands was
/// replaced, or when the session asks for it.
async fn wait(node: &Node, generation: u64, pause: Duration) {
    tokio::select! {
        () = sleep(pause) => {}
        _ = node.commands.replaced(generation) => {}
        () = node.desired.due() => {}
    }
}

struct Reconciler<'a> {
    node: &'a Node,
    commands: Commands,
    /// Whether this process has written its retention rules. Later they are written again only if
    /// Redis has none, so that nodes with other rules do not overwrite each other's without end.
    wrote_rules: bool,
}

impl Reconciler<'_> {
    /// Compares and repairs everything. Returns whether Redis has all of it.
    async fn reconcile(&mut self, is_new_connection: bool) -> bool {
        let kept = self.keep(is_new_connection).await;
        if let Err(error) = &kept {
            tracing::debug!("Redis lacks what this node needs, retrying: {error}");
        }
        self.set_keeps(match &kept {
            Ok(()) => Part::ok(),
            Err(error) if self.is_off(error) => Part::off(format!("retention is off: {error}")),
            Err(error) => errors::part(error),
        });
        let is_known = self.know_revocations().await;
        kept.is_ok() && is_known
    }

    fn set_keeps(&self, part: Part) {
        let before = self.node.desired.status().keeps;
        if before.is_ok() && !part.is_ok() {
            tracing::warn!("not ready: events cannot be retained: {part}");
        }
        self.node.desired.update_status(|status| status.keeps = part);
    }

    /// Installs the function, proves that a publish would be accepted, and writes the rules.
    async fn keep(&mut self, is_new_connection: bool) -> RedisResult<()> {
        let heard = self.heard();
        let mode = match self.node.desired.log_mode() {
            LogMode::Available(mode) if !is_new_connection => mode,
            _ => self.install(heard).await?,
        };
        match library::probe(&mut self.commands, mode, heard).await {
            // Redis restarted without its data.
            Err(error) if is_missing(&error) => {
                let mode = self.install(heard).await?;
                library::probe(&mut self.commands, mode, heard).await?;
            }
            Err(error) => return Err(self.check_denied(error)),
            Ok(()) => {}
        }
        self.keep_rules().await
    }

    /// Whether the Redis user may not use the log, and nothing was configured that needs it.
    fn is_off(&self, error: &RedisError) -> bool {
        is_denied(error) && self.node.rules.as_deref().is_none_or(str::is_empty)
    }

    fn heard(&self) -> Option<Heard> {
        // Without the log, the position is of this node alone.
        let is_denied = self.node.desired.log_mode() == LogMode::Denied;
        let heard = self.node.sink.heard().filter(|_| !is_denied)?;
        Some((heard.epoch(), heard.offset()))
    }

    async fn install(&mut self, heard: Option<Heard>) -> RedisResult<Mode> {
        match library::install(&mut self.commands, heard).await {
            Ok(mode) => {
                self.node.desired.set_log_mode(LogMode::Available(mode));
                Ok(mode)
            }
            Err(error) => Err(self.check_denied(error)),
        }
    }

    fn check_denied(&self, error: RedisError) -> RedisError {
        if is_denied(&error) {
            self.node.deny_log();
        }
        error
    }

    async fn keep_rules(&mut self) -> RedisResult<()> {
        let Some(rules) = &self.node.rules else { return Ok(()) };
        if !self.wrote_rules || !library::has_rules(&mut self.commands).await? {
            library::write_rules(&mut self.commands, rules).await?;
            self.wrote_rules = true;
        }
        Ok(())
    }

    /// Reads the revocations that this node has missed. Returns whether it knows all of them.
    async fn know_revocations(&mut self) -> bool {
        let desired = &self.node.desired;
        let unread = desired.revocations();
        let lost_ms = match unread {
            Revocations::Known | Revocations::Unsubscribed => return true,
            Revocations::Unread(lost_ms) => lost_ms,
        };
        match revocations::catch_up(&mut self.commands, &self.node.sink, lost_ms).await {
            Ok(()) => {
                desired.revocations_read(unread);
                true
            }
            Err(error) => {
                let part = if self.is_off(&error) {
                    Part::off(format!("revocations are not retained: {error}"))
                } else {
                    errors::part(&error)
                };
                if desired.status().access.is_off() != part.is_off() {
                    tracing::warn!("revocations cannot be read from Redis, retrying: {part}");
                }
                desired.update_status(|status| status.access = part);
                false
            }
        }
    }
}
