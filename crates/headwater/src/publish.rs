//! One event on its way to a channel, with what the publisher asks beside it. Look here for ends and
//! idempotency keys.

use crate::channel::Channel;
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::limits::IDEMPOTENCY_KEY_BYTES_MAX;

/// An event on its way to a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "it is published by Hub::publish_all"]
pub struct Publish {
    pub(crate) channel: Channel,
    pub(crate) event: Event,
    pub(crate) end: bool,
    pub(crate) key: Option<IdempotencyKey>,
}

impl Publish {
    /// An event for a channel.
    pub fn new(channel: Channel, event: Event) -> Self {
        Self { channel, event, end: false, key: None }
    }

    /// Makes it the last event of its channel: listeners get it, then their streams end, and whoever
    /// comes back is told not to. Publishing to the channel afterwards is an error.
    pub fn end(mut self, end: bool) -> Self {
        self.end = end;
        self
    }

    /// Names the publishing, so that it can be repeated safely: within ten minutes the same key for the
    /// same channel gives the first receipt again, and publishes nothing.
    pub fn key(mut self, key: IdempotencyKey) -> Self {
        self.key = Some(key);
        self
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

    /// The idempotency key, if it has one.
    pub fn idempotency_key(&self) -> Option<&IdempotencyKey> {
        self.key.as_ref()
    }
}

impl From<(Channel, Event)> for Publish {
    fn from((channel, event): (Channel, Event)) -> Self {
        Self::new(channel, event)
    }
}

/// A publisher's name for one publishing: 1 to 255 bytes of visible ASCII, such as a UUID. Source: the
/// IETF draft "The Idempotency-Key HTTP Header Field".
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Box<str>);

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
                    "an idempotency key has {} bytes: at most {IDEMPOTENCY_KEY_BYTES_MAX} are allowed",
                    key.len()
                ),
            ));
        }
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::invalid(
                "an idempotency key is visible ASCII, at least one character: send a UUID, for example",
            ));
        }
        Ok(Self(key.into()))
    }

    /// The key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
