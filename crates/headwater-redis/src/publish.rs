//! Publishes a batch in one round trip. Look here for what is sent for an event, and for how a node
//! knows where it was accepted.
//!
//! The function does not run on a replica, but a replica accepts a `PUBLISH`, which then reaches
//! its own subscribers only: after a failover, that would lose events in silence. So Redis is asked
//! after each batch with a `PUBLISH` whether it is the primary: with `HELLO`, which every user may
//! call that can connect.

use headwater_core::log::{Epoch, Position, RetentionRules};
use headwater_core::{Channel, Error, ErrorKind, Event, Publish, Receipt};
use redis::{Pipeline, RedisError, Value};

use crate::commands::Commands;
use crate::desired::Desired;
use crate::envelope;
use crate::ephemeral::EphemeralChannels;
use crate::errors::{is_replica, publish_error, published_on_replica};
use crate::keys;
use crate::library::{self, Mode};

/// What decides how events are published.
pub(crate) struct Publisher<'a> {
    pub(crate) commands: &'a Commands,
    pub(crate) desired: &'a Desired,
    /// `None` if only Redis has the rules: then the function applies them.
    pub(crate) rules: Option<&'a RetentionRules>,
    pub(crate) ephemeral: &'a EphemeralChannels,
}

impl Publisher<'_> {
    /// Sends a batch; returns the outcome for each event.
    pub(crate) async fn send(
        &self,
        batch: &[&Publish],
        mode: Option<Mode>,
    ) -> Result<Vec<Result<Receipt, RedisError>>, Error> {
        let mut pipeline = redis::pipe();
        let mut has_plain = false;
        for publish in batch {
            has_plain |= !self.add(&mut pipeline, publish, mode)?;
        }
        if mode.is_some() {
            pipeline.cmd("GET").arg(keys::EPOCH);
        }
        if has_plain {
            pipeline.cmd("HELLO");
        }
        let mut commands = self.commands.clone();
        let generation = commands.generation();
        let answers = pipeline.ignore_errors().query_async(&mut commands).await;
        let mut answers: Vec<Result<Value, RedisError>> = answers.map_err(publish_error)?;
        if has_plain && answers.pop().is_some_and(|hello| hello.is_ok_and(|it| is_replica(&it))) {
            if self.commands.generation() == generation {
                self.commands.reset("it leads to a replica");
            }
            return Err(published_on_replica());
        }
        let epoch = mode.and_then(|_| answers.pop()).and_then(epoch_of);
        let answers = batch.iter().zip(answers);
        let receipts: Vec<Result<Receipt, RedisError>> =
            answers.map(|(publish, answer)| Ok(receipt(publish, answer?))).collect();
        if let Some(epoch) = epoch.filter(|_| receipts.iter().any(Result::is_ok)) {
            let positions = receipts.iter().flatten().filter_map(|receipt| receipt.position);
            let of_epoch = positions.filter(|position| position.epoch() == epoch);
            let offset = of_epoch.map(Position::offset).max().unwrap_or(0);
            self.desired.record_accepted(epoch, offset, generation);
        }
        Ok(receipts)
    }

    /// Adds the command for an event. Returns whether the function decides what becomes of it.
    fn add(
        &self,
        pipeline: &mut Pipeline,
        publish: &Publish,
        mode: Option<Mode>,
    ) -> Result<bool, Error> {
        let channel = publish.channel();
        let is_off = self.rules.is_some_and(|rules| rules.for_channel(channel).is_none());
        let needs_log = publish.is_end() || publish.idempotency_key().is_some();
        let may_be_plain = self.ephemeral.contains(channel);
        match mode.filter(|_| !is_off || needs_log) {
            Some(mode) => library::add_publish(pipeline, mode, publish, may_be_plain),
            None if needs_log => return Err(without_log(channel)),
            None => {
                add_publish(pipeline, channel, publish.event(), may_be_plain);
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Adds an event that is not in the log. `may_be_plain` allows a plain `PUBLISH`.
fn add_publish(pipeline: &mut Pipeline, channel: &Channel, event: &Event, may_be_plain: bool) {
    let only_data = event.name().is_none() && event.id().is_none() && event.retry().is_none();
    let command = pipeline.cmd("PUBLISH");
    if only_data && may_be_plain {
        command.arg(channel.as_str()).arg(event.data());
    } else {
        command.arg(keys::envelopes(channel)).arg(envelope::encode(event));
    }
}

/// The error for an end or an idempotency key that cannot be recorded.
fn without_log(channel: &Channel) -> Error {
    Error::new(
        ErrorKind::PermissionDenied,
        format!(
            "Redis denies the keys headwater:{{0}}:*, so neither an end nor an idempotency key of \
             channel {channel} can be recorded: omit them, or give the Redis user the permissions \
             that docs/redis.md lists"
        ),
    )
}

fn epoch_of(answer: Result<Value, RedisError>) -> Option<Epoch> {
    text(answer.ok()?)?.parse().ok()
}

fn receipt(publish: &Publish, answer: Value) -> Receipt {
    // Only the function answers with a position; PUBLISH answers with the number of receivers.
    let position = text(answer).and_then(|id| id.parse::<Position>().ok());
    Receipt::new(publish.channel().clone(), publish.event(), position)
}

fn text(answer: Value) -> Option<String> {
    match answer {
        Value::BulkString(text) => String::from_utf8(text).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text),
        _ => None,
    }
}
