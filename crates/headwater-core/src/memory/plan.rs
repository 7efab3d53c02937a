//! What a batch will do to the log, before anything is changed. Look here for repeated keys and
//! ended channels, also within one batch. It takes time in proportion to the batch.

use std::collections::{HashMap, HashSet};

use crate::channel::Channel;
use crate::error::{Error, ErrorKind};
use crate::memory::store::Record;
use crate::publish::{Publish, PublisherKey, Receipt};

/// The records that a batch appends, and the outcome of each of its events.
pub(super) struct Plan {
    pub(super) records: Vec<Record>,
    pub(super) outcomes: Vec<Outcome>,
}

/// The outcome that a batch has for one of its events.
pub(super) enum Outcome {
    /// The event is the new record at this index.
    New(usize),
    /// The event's key was used before, for the event with this receipt.
    Repeated(Receipt),
}

/// What the log knows of an event to publish.
pub(super) struct Facts {
    /// The receipt of the event that used its key first.
    pub(super) repeated: Option<Receipt>,
    /// The offset of the channel's last event.
    pub(super) last: u64,
    /// Whether that event ended the channel.
    pub(super) is_ended: bool,
    /// False for an end that cannot be kept, because retention is off.
    pub(super) keeps_end: bool,
}

/// What the batch itself has of keys and channels, up to an event.
#[derive(Default)]
struct Earlier {
    /// The record of each key.
    keys: HashMap<(Channel, PublisherKey), usize>,
    /// The last offset of each channel.
    lasts: HashMap<Channel, u64>,
    ended: HashSet<Channel>,
    count: usize,
}

impl Plan {
    /// Plans a batch, whose events follow the offset `last`. `facts` asks the log.
    ///
    /// # Errors
    /// If one of the events publishes to a channel that ended before the batch or within it: then
    /// nothing of it is published.
    pub(super) fn of(
        batch: Vec<Publish>,
        last: u64,
        facts: impl Fn(&Publish) -> Facts,
        now_ms: u64,
    ) -> Result<Self, Error> {
        let mut plan = Self {
            records: Vec::with_capacity(batch.len()),
            outcomes: Vec::with_capacity(batch.len()),
        };
        let mut earlier = Earlier::default();
        for publish in batch {
            let key = publish.publisher_key();
            let facts = facts(&publish);
            let known = facts.last;
            let outcome = earlier.judge(&publish, key.as_ref(), facts)?;
            if let Outcome::New(index) = outcome
                && index == plan.records.len()
            {
                let offset = last + plan.records.len() as u64 + 1;
                let Publish { channel, event, end, .. } = publish;
                let prev = earlier.lasts.insert(channel.clone(), offset).unwrap_or(known);
                let key = key.map(|key| key.to_text());
                plan.records.push(Record {
                    offset,
                    prev,
                    time_ms: now_ms,
                    end,
                    channel,
                    event,
                    key,
                });
            }
            plan.outcomes.push(outcome);
        }
        Ok(plan)
    }

    /// Whether a batch can be planned.
    pub(super) fn check(batch: &[Publish], facts: impl Fn(&Publish) -> Facts) -> Result<(), Error> {
        let mut earlier = Earlier::default();
        for publish in batch {
            earlier.judge(publish, publish.publisher_key().as_ref(), facts(publish))?;
        }
        Ok(())
    }
}

impl Earlier {
    fn judge(
        &mut self,
        publish: &Publish,
        key: Option<&PublisherKey>,
        facts: Facts,
    ) -> Result<Outcome, Error> {
        if let Some(receipt) = facts.repeated {
            return Ok(Outcome::Repeated(receipt));
        }
        let channel = &publish.channel;
        let key = key.map(|key| (channel.clone(), key.clone()));
        if let Some(index) = key.as_ref().and_then(|key| self.keys.get(key)) {
            return Ok(Outcome::New(*index));
        }
        if !facts.keeps_end {
            return Err(Error::invalid(format!(
                "retention is off for channel {channel}, so its end cannot be kept: leave out end, \
                 or change the retention rules"
            )));
        }
        if facts.is_ended || self.ended.contains(channel) {
            return Err(Error::new(
                ErrorKind::Ended,
                format!("channel {channel} was ended by its publisher: publish to another channel"),
            ));
        }
        if publish.end {
            self.ended.insert(channel.clone());
        }
        let index = self.count;
        self.count += 1;
        if let Some(key) = key {
            self.keys.insert(key, index);
        }
        Ok(Outcome::New(index))
    }
}
