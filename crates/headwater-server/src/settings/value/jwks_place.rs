//! Where a JSON Web Key Set is: a URL, or a file.

use std::path::PathBuf;
use std::str::FromStr;

use super::http_url::HttpUrl;

/// Where a set of keys is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwksPlace {
    /// On a server.
    Url(HttpUrl),
    /// On this machine.
    File(PathBuf),
}

impl FromStr for JwksPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains("://") {
            return text.parse().map(Self::Url);
        }
        if text.is_empty() {
            return Err("it is empty: write a URL or the path of a file".to_owned());
        }
        Ok(Self::File(text.into()))
    }
}
