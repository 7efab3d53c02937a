//! The error type of the library. Look here for the kinds of errors and how to distinguish them.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

/// The kind of an error, coarse enough to act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A value is invalid: a channel's name, an event's id, a setting. A retry fails again.
    Invalid,
    /// A value or a count exceeds its limit.
    TooLarge,
    /// The broker or the store cannot be used right now. A later retry may succeed.
    Unavailable,
    /// Access was denied: wrong password, missing permission, a directory that is in use.
    PermissionDenied,
    /// The channel was ended by its publisher and accepts no more events.
    Ended,
    /// The hub is draining and accepts no new streams.
    Draining,
    /// There is no Tokio runtime, and one is needed.
    NoRuntime,
    /// A peer violated a protocol.
    Protocol,
}

/// An error of the library: a [kind](Error::kind), a message that says what failed and what to do,
/// and the cause, if there is one, in [`source`](StdError::source).
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    kind: ErrorKind,
    message: String,
    reason: Option<Cow<'static, str>>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error with this message, which says what failed, why, and what to do.
    ///
    /// ```
    /// use headwater::{Error, ErrorKind};
    ///
    /// let cause = std::io::Error::other("connection reset");
    /// let error = Error::new(ErrorKind::Unavailable, "NATS cannot be reached: publish again")
    ///     .with_source(cause);
    /// assert_eq!(error.kind(), ErrorKind::Unavailable);
    /// ```
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            inner: Box::new(Inner { kind, message: message.into(), reason: None, source: None }),
        }
    }

    /// An error of the kind [`ErrorKind::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn StdError + Send + Sync + 'static>>,
    ) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// Sets the broker's own word for what failed; the message names it too.
    #[must_use]
    pub fn with_reason(mut self, reason: impl Into<Cow<'static, str>>) -> Self {
        self.inner.reason = Some(reason.into());
        self
    }

    /// The broker's own word for what failed, if it has one, to compare and count: the error code
    /// of its server, such as `READONLY` or `OOM`, or `timeout`.
    pub fn reason(&self) -> Option<&str> {
        self.inner.reason.as_deref()
    }

    /// The kind of the error, to act on.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.inner.kind)
            .field("message", &self.inner.message)
            .field("reason", &self.inner.reason)
            .field("source", &self.inner.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}
