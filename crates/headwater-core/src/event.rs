//! Events: what a publisher sends. Look here for the parts of an event and their bounds; `sse`
//! encodes and decodes them.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::error::{Error, ErrorKind};
use crate::limits::{
    EPOCH_DIGITS_MAX, EVENT_ID_BYTES_MAX, EVENT_NAME_BYTES_MAX, OFFSET_MAX, RETRY_MAX, RETRY_MIN,
};

/// What a publisher sends: data, and optionally a [name](EventName), an [id](EventId) and a retry.
///
/// ```
/// use std::time::Duration;
///
/// use headwater::Event;
///
/// let event = Event::new("42 new orders")
///     .with_name("orders")?
///     .with_id("7")?
///     .with_retry(Duration::from_secs(3));
/// assert_eq!(event.data(), "42 new orders");
/// assert_eq!(event.name().unwrap().as_str(), "orders");
/// assert_eq!(event.id().unwrap().as_str(), "7");
/// # Ok::<(), headwater::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub(crate) data: Data,
    pub(crate) name: Option<EventName>,
    pub(crate) id: Option<EventId>,
    pub(crate) retry: Option<Duration>,
}

/// The data of an event.
#[derive(Debug, Clone)]
pub(crate) enum Data {
    Own(String),
    /// Clones share it.
    Shared(Arc<String>),
}

impl Data {
    fn as_str(&self) -> &str {
        match self {
            Self::Own(data) => data,
            Self::Shared(data) => data,
        }
    }
}

impl PartialEq for Data {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Data {}

impl Event {
    /// An event with this data and nothing else.
    ///
    /// The data can be any text, including the empty one. The format cannot carry a carriage
    /// return: CR, LF and CRLF each end a line, and the client receives LF for all three. Encode
    /// the data as JSON, with [`json`](Self::json), if it must arrive byte for byte.
    pub fn new(data: impl Into<String>) -> Self {
        Self { data: Data::Own(data.into()), name: None, id: None, retry: None }
    }

    /// An event whose data is `data` as JSON, on one line.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the value cannot be represented in JSON, such as a map with keys
    /// that are not strings; the cause is in [`source`](std::error::Error::source).
    ///
    /// ```
    /// use headwater::Event;
    ///
    /// let event = Event::json(&[1, 2, 3])?;
    /// assert_eq!(event.data(), "[1,2,3]");
    /// # Ok::<(), headwater::Error>(())
    /// ```
    pub fn json<T: Serialize + ?Sized>(data: &T) -> Result<Self, Error> {
        serde_json::to_string(data).map(Self::new).map_err(|error| {
            Error::invalid(format!(
                "an event's data cannot be represented in JSON: {error}; change its type or how it \
                 is serialized"
            ))
            .with_source(error)
        })
    }

    /// Names the event: a browser dispatches it to the event handlers for that name, and not to
    /// `onmessage`.
    ///
    /// # Errors
    /// Those of [`EventName::new`].
    pub fn with_name(mut self, name: impl AsRef<str>) -> Result<Self, Error> {
        self.name = Some(EventName::new(name)?);
        Ok(self)
    }

    /// Names an event that was published before, by any version or program: a name that
    /// `EventSource` dispatches itself is left out.
    #[doc(hidden)]
    pub fn with_stored_name(self, name: impl AsRef<str>) -> Result<Self, Error> {
        if is_dispatched_by_browsers(name.as_ref()) { Ok(self) } else { self.with_name(name) }
    }

    /// Sets the publisher's id of the event, which clients see in place of its position.
    ///
    /// Without it, the id of a published event is its [`Position`](crate::log::Position), which is
    /// enough to resume. Clients also resume after a publisher's id while the event is retained:
    /// the history is searched for the id, and the oldest event with it is taken.
    ///
    /// # Errors
    /// Those of [`EventId::new`].
    pub fn with_id(mut self, id: impl AsRef<str>) -> Result<Self, Error> {
        self.id = Some(EventId::new(id)?);
        Ok(self)
    }

    /// Sets how long the client waits before it reconnects after its stream closed.
    ///
    /// The format counts whole milliseconds: a fraction is rounded up. The delay applies to all
    /// channels of the stream, so it is bounded: a shorter one becomes 100 ms
    /// ([`RETRY_MIN`]), a longer one 5 min ([`RETRY_MAX`]).
    #[must_use]
    pub fn with_retry(mut self, retry: Duration) -> Self {
        let retry = Duration::from_millis(whole_ms(retry));
        self.retry = Some(retry.clamp(RETRY_MIN, RETRY_MAX));
        self
    }

    /// Lets clones of the event share its data: for an event that is published to several channels,
    /// whose data is then kept once.
    #[must_use]
    pub fn shared(mut self) -> Self {
        if let Data::Own(data) = self.data {
            self.data = Data::Shared(Arc::new(data));
        }
        self
    }

    /// What clones share, after [`shared`](Self::shared).
    #[cfg(feature = "hub")]
    pub(crate) fn shared_data(&self) -> Option<&Arc<String>> {
        match &self.data {
            Data::Own(_) => None,
            Data::Shared(data) => Some(data),
        }
    }

    /// The data, as passed to [`new`](Self::new).
    pub fn data(&self) -> &str {
        self.data.as_str()
    }

    /// The name, if the event has one.
    pub fn name(&self) -> Option<&EventName> {
        self.name.as_ref()
    }

    /// The id: for an event to publish, the publisher's id; for an event decoded from a
    /// [`Frame`](crate::frame::Frame), the id that clients see.
    pub fn id(&self) -> Option<&EventId> {
        self.id.as_ref()
    }

    /// The reconnect delay, in whole milliseconds, if the event has one.
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }
}

/// The duration in whole milliseconds, rounded up, at most [`u64::MAX`].
pub(crate) fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Whether `EventSource` dispatches events of this name itself. A page's handler of `error` or
/// `open` would take such an event for a lost or a new connection.
pub(crate) fn is_dispatched_by_browsers(name: &str) -> bool {
    ["error", "open"].contains(&name)
}

/// The name of an event: 1 to 255 bytes of UTF-8 without control characters, but not `error` or
/// `open`, which `EventSource` dispatches itself.
///
/// Names are compared byte by byte and nothing is trimmed. A clone shares the name.
///
/// ```
/// use headwater::event::EventName;
///
/// assert_eq!(EventName::new("order-created")?.as_str(), "order-created");
/// assert!(EventName::new("a\ndata: forged").is_err());
/// # Ok::<(), headwater::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventName(Arc<str>);

impl EventName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the name is empty, has a control character, such as a line end, or
    /// is `error` or `open`; [`ErrorKind::TooLarge`] if it is longer than 255 bytes. The message
    /// says which.
    pub fn new(name: impl AsRef<str>) -> Result<Self, Error> {
        let name = name.as_ref();
        check_len("name", name, EVENT_NAME_BYTES_MAX)?;
        if let Some((at, found)) = name.char_indices().find(|(_, c)| c.is_control()) {
            return Err(Error::invalid(format!(
                "an event's name has the control character U+{:04X} at byte {at}: leave it out",
                u32::from(found)
            )));
        }
        if is_dispatched_by_browsers(name) {
            return Err(Error::invalid(format!(
                "an event's name is \"{name}\", which browsers use for the connection itself: \
                 choose another name"
            )));
        }
        Ok(Self(name.into()))
    }
}

/// The id of an event: 1 to 255 bytes of visible ASCII, `!` to `~`, that is not written as a
/// position of the log.
///
/// A position (`5f3a9c01d2e7-1042`) is the id of an event without one. A client that shows one
/// resumes there on all of its channels, so a publisher who could choose one could make the clients
/// of others skip events.
///
/// A client that reconnects sends the last id it received as the request header `Last-Event-ID`.
/// That is why an id is stricter than a name: leading and trailing spaces are removed in transit,
/// clients encode non-ASCII characters in different ways, NUL makes a client ignore the id, and a
/// line end would start another field.
///
/// Two more facts matter to cross-origin streams and are not checked here: browsers send a CORS
/// preflight before the reconnect if the id has one of `: " ( ) < > ? @ [ ] { } \` or 128 bytes or
/// more, and some clients fail on those characters. Letters, digits, `.`, `_`, `~` and `-`, at most
/// 64 of them, are safe everywhere.
///
/// ```
/// use headwater::event::EventId;
///
/// assert_eq!(EventId::new("order-7")?.as_str(), "order-7");
/// assert!(EventId::new("order 7").is_err());
/// # Ok::<(), headwater::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(Arc<str>);

impl EventId {
    /// Checks an id.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the id is empty, has anything but visible ASCII, or is written as
    /// a position; [`ErrorKind::TooLarge`] if it is longer than 255 bytes. The message says which.
    pub fn new(id: impl AsRef<str>) -> Result<Self, Error> {
        let id = id.as_ref();
        if is_position(id) {
            return Err(Error::invalid(
                "an event's id is written as a position of the log, EPOCH-OFFSET, which only the \
                 log assigns: choose another id, for example with a prefix",
            ));
        }
        Self::assigned(id)
    }

    /// Checks an id that clients see: a publisher's, or the position that the log assigned.
    pub(crate) fn assigned(id: &str) -> Result<Self, Error> {
        check_len("id", id, EVENT_ID_BYTES_MAX)?;
        if let Some((at, found)) = id.char_indices().find(|(_, c)| !c.is_ascii_graphic()) {
            return Err(Error::invalid(format!(
                "an event's id has U+{:04X} at byte {at}, and clients send it as a request header: \
                 use only visible ASCII without spaces",
                u32::from(found)
            )));
        }
        Ok(Self(id.into()))
    }
}

/// Whether an id is written as a position: `EPOCH-OFFSET`, or `EPOCH-OFFSET~NODE-NUMBER`. Nothing
/// else is parsed as one. `arguments.lua` has the same rule.
#[doc(hidden)]
pub fn is_position(id: &str) -> bool {
    match id.split_once('~') {
        Some((log, ephemeral)) => is_position_part(log) && is_position_part(ephemeral),
        None => is_position_part(id),
    }
}

/// Whether this is an epoch in hexadecimal, a hyphen, and a decimal number, as they are written:
/// in lower case and without leading zeros.
pub(crate) fn is_position_part(text: &str) -> bool {
    let Some((epoch, number)) = text.split_once('-') else { return false };
    let is_epoch = (1..=EPOCH_DIGITS_MAX).contains(&epoch.len())
        && !epoch.starts_with('0')
        && epoch.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_canonical = number == "0" || !number.starts_with(['0', '+']);
    is_epoch && is_canonical && number.parse().is_ok_and(|number: u64| number <= OFFSET_MAX)
}

fn check_len(what: &str, text: &str, bytes_max: usize) -> Result<(), Error> {
    match text.len() {
        0 => Err(Error::invalid(format!("an event's {what} is empty: leave it out instead"))),
        len if len > bytes_max => Err(Error::new(
            ErrorKind::TooLarge,
            format!("an event's {what} has {len} bytes: at most {bytes_max} are allowed"),
        )),
        _ => Ok(()),
    }
}

/// The conversions that checked names and ids share.
macro_rules! text {
    ($type:ident) => {
        impl $type {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                Self::new(text)
            }
        }

        impl TryFrom<&str> for $type {
            type Error = Error;

            fn try_from(text: &str) -> Result<Self, Error> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = Error;

            fn try_from(text: String) -> Result<Self, Error> {
                Self::new(text)
            }
        }
    };
}

text!(EventName);
text!(EventId);

#[cfg(test)]
mod tests;
