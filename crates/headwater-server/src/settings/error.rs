//! What is wrong with the settings.

use std::fmt;

use crate::exit::Failure;

/// What is wrong with the settings: where, what, and what to do about it. Never contains the value
/// of a secret.
#[derive(Debug, PartialEq, Eq)]
pub struct SettingsError(pub(crate) String);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SettingsError {}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        Self::Usage(error.to_string())
    }
}
