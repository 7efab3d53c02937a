//! The error of the crate.

use std::fmt;

/// Why a benchmark could not be run, as a message for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The options are invalid.
    Usage(String),
    /// The benchmark was started and failed.
    Failed(String),
}

impl Error {
    /// A [`Failed`](Self::Failed) with this message.
    pub fn failed(why: impl Into<String>) -> Self {
        Self::Failed(why.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(why) | Self::Failed(why) => formatter.write_str(why),
        }
    }
}

impl std::error::Error for Error {}

/// Adds what was being done to an error.
pub(crate) trait Context<T> {
    /// The error becomes `what: error`.
    fn context(self, what: impl fmt::Display) -> Result<T, Error>;
}

impl<T, E: fmt::Display> Context<T> for Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T, Error> {
        self.map_err(|error| Error::Failed(format!("{what}: {error}")))
    }
}
