//! Compares what Redis has with what this node wants, again and again, and repairs the difference:
//! the function, the retention rules, the position of the log, and the revocations that this node
//! knows. Look here for how a Redis that lost its data, or refused something, gets it again.

use std::time::Duration;

use headwater_core::broker::Part;
use headwater_core::log::Epoch;
use redis::{RedisError, RedisResult};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::commands::Commands;
use crate::desired::Revocations;
use crate::errors::{self, is_denied, is_missing};
use crate::history;
use crate::library::{self, Heard, LogMode, Mode};
use crate::limits::{RECONCILE_INTERVAL, RECONCILE_RETRY};
use crate::node::Node;
use crate::revocations;

/// Reconciles until its task is aborted. Sends to `tried` after the first attempt to install the
/// function.
pub(crate) async fn run(node: &Node, tried: oneshot::Sender<()>) {
    let mut tried = Some(tried);
    let mut last_generation = None;
    let commands = node.commands.clone();
    let mut reconciler = Reconciler { node, commands, generation: 0, must_compare_rules: true };
    loop {
        reconciler.generation = reconciler.commands.generation();
        let generation = reconciler.generation;
        let is_new = last_generation.replace(generation) != Some(generation);
        let is_equal = reconciler.reconcile(is_new, tried.take()).await;
        let pause = if is_equal { RECONCILE_INTERVAL } else { RECONCILE_RETRY };
        wait(node, generation, pause).await;
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
    /// The generation of the connection when the comparison began.
    generation: u64,
    /// Whether Redis must have this node's retention rules, and not only some: so that nodes with
    /// other rules do not overwrite each other's without end, only once on each connection.
    must_compare_rules: bool,
}

impl Reconciler<'_> {
    /// Compares and repairs everything. Returns whether Redis has all of it.
    async fn reconcile(
        &mut self,
        is_new_connection: bool,
        tried: Option<oneshot::Sender<()>>,
    ) -> bool {
        let node = self.node;
        let is_kept = self.check_keeps(is_new_connection).await;
        // The receiver may be gone.
        let _ = tried.map(|tried| tried.send(()));
        let (is_read, is_known) = tokio::join!(check_reads(node), know_revocations(node));
        is_kept && is_read && is_known
    }

    async fn check_keeps(&mut self, is_new_connection: bool) -> bool {
        let kept = self.keep(is_new_connection).await;
        if let Err(error) = &kept {
            tracing::debug!("Redis lacks what this node needs, retrying: {error}");
        }
        self.set_keeps(match &kept {
            Ok(()) => Part::ok(),
            Err(error) if is_off(self.node, error) => {
                Part::off(format!("retention is off: {error}"))
            }
            Err(error) => errors::part(error),
        });
        kept.is_ok()
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
        let before = self.node.desired.heard_before();
        let mut heard = before.clone().or_else(|| self.node.heard());
        let accepted = self.node.desired.accepted(self.generation);
        if let Some(heard) = &mut heard {
            heard.accepted.clone_from(&accepted);
        }
        let heard = heard.as_ref();
        let mode = match self.node.desired.log_mode() {
            LogMode::Available(mode) if !is_new_connection => mode,
            _ => self.install(heard).await?,
        };
        let epoch = match library::probe(&mut self.commands, mode, heard).await {
            // Redis restarted without its data.
            Err(error) if is_missing(&error) => {
                let mode = self.install(heard).await?;
                library::probe(&mut self.commands, mode, heard).await?
            }
            Err(error) => return Err(self.check_denied(error)),
            Ok(epoch) => epoch,
        };
        // Otherwise it may be another Redis that has answered.
        let is_same = self.commands.generation() == self.generation;
        if let Some(epoch) = epoch.filter(|_| is_same && heard.is_some()) {
            self.node.desired.forget_accepted(&accepted, self.generation, epoch);
            self.repeat_revocations(epoch).await?;
        }
        if before.is_some() && before == self.node.desired.heard_before() {
            self.node.desired.forget_heard_before();
        }
        self.keep_rules(is_new_connection).await
    }

    /// Redis gets the revocations of this node again in a new epoch: it may have lost them.
    async fn repeat_revocations(&mut self, epoch: Epoch) -> RedisResult<()> {
        let own = self.node.desired.revocations_not_in(epoch);
        if let Some(now) = revocations::publish_again(&mut self.commands, &own).await? {
            self.node.desired.revocations_are_in(&own, now);
        }
        Ok(())
    }

    async fn install(&mut self, heard: Option<&Heard>) -> RedisResult<Mode> {
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

    /// Writes the rules, if Redis has none; on a new connection, also if it has others: Redis may
    /// have lost these.
    async fn keep_rules(&mut self, is_new_connection: bool) -> RedisResult<()> {
        self.must_compare_rules |= is_new_connection;
        let Some(rules) = &self.node.rules else { return Ok(()) };
        let found = library::read_rules(&mut self.commands).await?;
        let is_equal = found.as_ref().is_some_and(|found| found == rules.as_bytes());
        if found.is_none() || self.must_compare_rules && !is_equal {
            library::write_rules(&mut self.commands, rules).await?;
        }
        self.must_compare_rules = false;
        Ok(())
    }
}

/// Whether the node works without the log, since the Redis user may not use it, and nothing was
/// configured that needs it.
fn is_off(node: &Node, error: &RedisError) -> bool {
    let is_needed = node.rules.as_deref().is_some_and(|rules| !rules.is_empty());
    is_denied(error) && node.desired.log_mode() == LogMode::Denied && !is_needed
}

/// Proves that histories can be read. Returns whether they can.
async fn check_reads(node: &Node) -> bool {
    let read = history::probe(&mut node.commands.clone()).await;
    let part = match &read {
        _ if node.desired.log_mode() == LogMode::Denied => {
            Part::off("Redis denies the keys headwater:{0}:*, so there is no history")
        }
        Ok(()) => Part::ok(),
        Err(error) => errors::part(error),
    };
    if node.desired.status().reads.is_ok() && !part.is_ok() {
        tracing::warn!("not ready: retained events cannot be read: {part}");
    }
    node.desired.update_status(|status| status.reads = part);
    read.is_ok()
}

/// Reads the revocations that this node has missed. Returns whether it knows all of them.
async fn know_revocations(node: &Node) -> bool {
    let desired = &node.desired;
    let unread = desired.revocations();
    let missed_since_ms = match unread {
        Revocations::Known | Revocations::Unsubscribed => return true,
        Revocations::Unread { since_ms, .. } => since_ms,
    };
    match revocations::catch_up(&mut node.commands.clone(), &node.sink, missed_since_ms).await {
        Ok(()) => {
            desired.revocations_read(unread);
            true
        }
        Err(error) => {
            let part = if is_off(node, &error) {
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
