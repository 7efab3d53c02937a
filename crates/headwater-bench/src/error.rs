//! What can go wrong in a benchmark. Look here for the one error of the crate.

use std::fmt;

/// Why a benchmark could not be done, in words for whoever started it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// What was asked for makes no sense.
    Usage(String),
    /// It was tried and did not work.
    Failed(String),
}

impl Error {
    /// The shorthand for what was tried and did not work.
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

/// Says what was being done when something of the system failed.
pub(crate) trait Context<T> {
    /// The error becomes `what: error`.
    fn context(self, what: impl fmt::Display) -> Result<T, Error>;
}

impl<T, E: fmt::Display> Context<T> for Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T, Error> {
        self.map_err(|error| Error::Failed(format!("{what}: {error}")))
    }
}
