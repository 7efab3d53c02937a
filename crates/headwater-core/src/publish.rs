//! A publish: an event, its channel, the publisher's options, and the receipt. Look here for ends
//! and idempotency keys.

use std::sync::Arc;

use crate::channel::Channel;
use crate::error::{Error, ErrorKind};
use crate::event::{Event, EventId};
use crate::limits::IDEMPOTENCY_KEY_BYTES_MAX;
use crate::log::Position;

/// An event to publish, with its channel and the publisher's options.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "it is published by Hub::publish_all"]
pub struct Publish {
    pub(crate) channel: Channel,
    pub(crate) event: Event,
    pub(crate) end: bool,
    pub(crate) key: Option<IdempotencyKey>,
    pub(crate) publisher: Option<Arc<str>>,
}

impl Publish {
    /// An event for a channel.
    ///
    /// ```
    /// use headwater::event::IdempotencyKey;
    /// use headwater::{Channel, Event, Publish};
    ///
    /// let publish = Publish::to(Channel::new("job:7")?, Event::new("done"))
    ///     .with_key(IdempotencyKey::new("job-7-done")?)
    ///     .with_end(true);
    /// assert!(publish.is_end());
    /// # Ok::<(), headwater::Error>(())
    /// ```
    pub fn to(channel: Channel, event: Event) -> Self {
        Self { channel, event, end: false, key: None, publisher: None }
    }

    /// Whether the event ends its channel: subscribers receive it, then their streams close, and
    /// clients that are up to date and reconnect are answered `204`. Publishing to the channel
    /// afterwards is an error, [`ErrorKind::Ended`].
    pub fn with_end(mut self, end: bool) -> Self {
        self.end = end;
        self
    }

    /// Makes the publish safe to retry: within ten minutes, the same key of the same
    /// [publisher](Self::with_publisher) on the same channel publishes nothing and returns the
    /// first receipt again.
    pub fn with_key(mut self, key: IdempotencyKey) -> Self {
        self.key = Some(key);
        self
    }

    /// Names the publisher, to whom the idempotency key belongs: the same key of another publisher
    /// is another key. Set it wherever publishers do not trust each other. Publishers without a
    /// name have their keys in common.
    pub fn with_publisher(mut self, name: impl Into<Arc<str>>) -> Self {
        self.publisher = Some(name.into());
        self
    }

    /// The publisher's name, if it was set.
    pub fn publisher(&self) -> Option<&str> {
        self.publisher.as_deref()
    }

    /// The key within the namespace of its publisher.
    pub(crate) fn publisher_key(&self) -> Option<PublisherKey> {
        let key = self.key.clone()?;
        Some(PublisherKey { publisher: self.publisher.clone(), key })
    }

    /// The channel.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// The event.
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// Whether it is the last event of its channel.
    pub fn is_end(&self) -> bool {
        self.end
    }

    /// The idempotency key, if there is one.
    pub fn idempotency_key(&self) -> Option<&IdempotencyKey> {
        self.key.as_ref()
    }
}

impl From<(Channel, Event)> for Publish {
    fn from((channel, event): (Channel, Event)) -> Self {
        Self::to(channel, event)
    }
}

/// Identifies one publish, so that it can be retried: 1 to 255 bytes of visible ASCII, such as a
/// UUID. Source: the IETF draft "The Idempotency-Key HTTP Header Field".
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Arc<str>);

impl IdempotencyKey {
    /// Checks a key.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if it is empty or has a character that is not visible ASCII;
    /// [`ErrorKind::TooLarge`] if it is longer than 255 bytes.
    pub fn new(key: impl AsRef<str>) -> Result<Self, Error> {
        let key = key.as_ref();
        if key.len() > IDEMPOTENCY_KEY_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "an idempotency key has {} bytes: at most {IDEMPOTENCY_KEY_BYTES_MAX} are \
                     allowed",
                    key.len()
                ),
            ));
        }
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::invalid(
                "an idempotency key is visible ASCII, at least one character: send a UUID, for \
                 example",
            ));
        }
        Ok(Self(key.into()))
    }

    /// The key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An idempotency key, and the publisher that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PublisherKey {
    pub(crate) publisher: Option<Arc<str>>,
    pub(crate) key: IdempotencyKey,
}

impl PublisherKey {
    /// As the log on disk has it: a key has no spaces, so the last one ends the publisher's name.
    pub(crate) fn to_text(&self) -> String {
        match &self.publisher {
            Some(publisher) => format!("{publisher} {}", self.key.as_str()),
            None => self.key.as_str().to_owned(),
        }
    }

    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let (publisher, key) = match text.rsplit_once(' ') {
            Some((publisher, key)) => (Some(publisher.into()), key),
            None => (None, text),
        };
        Some(Self { publisher, key: IdempotencyKey::new(key).ok()? })
    }
}

/// The acknowledgement of one published event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// The channel that the event was published to.
    pub channel: Channel,
    /// The id under which clients see the event: the publisher's own, else the position. `None` for
    /// an ephemeral event without its own, since each node numbers it itself.
    pub id: Option<EventId>,
    /// The position of the event in the log; `None` for an ephemeral event.
    pub position: Option<Position>,
}

impl Receipt {
    /// A receipt for a published event.
    pub fn new(channel: Channel, event: &Event, position: Option<Position>) -> Self {
        let from_position =
            || position.and_then(|position| EventId::assigned(&position.to_string()).ok());
        let id = event.id().cloned().or_else(from_position);
        Self { channel, id, position }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_publishers_are_distinguished_as_text() {
        let key = |publisher: Option<&str>, key: &str| {
            let key = IdempotencyKey::new(key).unwrap();
            PublisherKey { publisher: publisher.map(Arc::from), key }
        };
        let all = [
            key(None, "k"),
            key(Some(""), "k"),
            key(Some("u"), "k"),
            key(Some("u k"), "k"),
            key(Some("u\n"), "k"),
        ];
        for (at, key) in all.iter().enumerate() {
            assert_eq!(PublisherKey::from_text(&key.to_text()).as_ref(), Some(key));
            assert!(all[..at].iter().all(|other| other.to_text() != key.to_text()));
        }
        assert_eq!(PublisherKey::from_text(""), None);
    }
}
