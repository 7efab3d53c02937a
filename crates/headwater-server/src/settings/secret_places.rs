//! Where the secrets in the settings were typed. Look here for what may show them to others.

use std::path::PathBuf;

/// The places that other users of the machine may read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecretPlaces {
    /// The settings file, if it has a secret in it.
    pub file: Option<PathBuf>,
    /// Secrets that were given as flags, by the name of the setting.
    pub flags: Vec<&'static str>,
}
