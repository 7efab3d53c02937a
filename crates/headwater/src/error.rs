//! The one error type of the library. Look here for what can go wrong and how to tell it apart.

use std::error::Error as StdError;
use std::fmt;

/// What went wrong, coarse enough to act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A value broke a rule: a channel's name, an event's id, a setting. Trying again is useless.
    Invalid,
    /// A value or a number of things is over its limit.
    TooLarge,
    /// The broker cannot be reached right now. Trying again later makes sense.
    Unavailable,
    /// The broker understood and said no: wrong password, missing permission.
    PermissionDenied,
    /// The channel was ended by its publisher and takes no more events.
    Ended,
    /// The hub is ending its streams and takes no new ones.
    Draining,
    /// A Tokio runtime was needed and there was none.
    NoRuntime,
    /// A peer broke a protocol.
    Protocol,
}

/// An error of the library: a [kind](Error::kind), a sentence that says what happened and what to do
/// about it, and the cause, if there is one, in [`source`](StdError::source).
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { inner: Box::new(Inner { kind, message: message.into(), source: None }) }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    pub(crate) fn with_source(
        mut self,
        source: impl Into<Box<dyn StdError + Send + Sync + 'static>>,
    ) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// What went wrong, to act on.
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
            .field("source", &self.inner.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}
