//! Channel names, checked once. Look here for the rules of a valid name.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, ErrorKind};
use crate::limits::CHANNEL_BYTES_MAX;

/// The prefix that Headwater reserves for itself: for its keys in a broker, and for channels.
pub(crate) const RESERVED_PREFIX: &str = "headwater:";

/// The name of a channel: 1 to 255 bytes of UTF-8 without control characters, and not starting with
/// `headwater:`, which is reserved for Headwater's own keys in a broker.
///
/// Names are compared byte by byte: no case folding, no Unicode normalisation, nothing is trimmed.
/// A clone shares the name.
///
/// ```
/// use headwater::Channel;
///
/// let channel = Channel::new("orders/42")?;
/// assert_eq!(channel.as_str(), "orders/42");
/// assert!(Channel::new("two\nlines").is_err());
/// # Ok::<(), headwater::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(Arc<str>);

impl Channel {
    /// Checks a name.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the name is empty, has a control character or a reserved prefix;
    /// [`ErrorKind::TooLarge`] if it is longer than 255 bytes. The message says which.
    pub fn new(name: impl AsRef<str>) -> Result<Self, Error> {
        let name = name.as_ref();
        if name.is_empty() {
            return Err(Error::invalid(
                "a channel's name is empty: give it at least one character",
            ));
        }
        if name.len() > CHANNEL_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "a channel's name has {} bytes: at most {CHANNEL_BYTES_MAX} are allowed",
                    name.len()
                ),
            ));
        }
        if let Some((at, found)) = name.char_indices().find(|(_, c)| c.is_control()) {
            return Err(Error::invalid(format!(
                "a channel's name has the control character U+{:04X} at byte {at}: leave it out",
                u32::from(found)
            )));
        }
        if name.starts_with(RESERVED_PREFIX) {
            return Err(Error::invalid(format!(
                "channel names that begin with \"{RESERVED_PREFIX}\" are reserved: choose another \
                 name"
            )));
        }
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Channel {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Channel {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl FromStr for Channel {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::new(name)
    }
}

impl TryFrom<&str> for Channel {
    type Error = Error;

    fn try_from(name: &str) -> Result<Self, Error> {
        Self::new(name)
    }
}

impl TryFrom<String> for Channel {
    type Error = Error;

    fn try_from(name: String) -> Result<Self, Error> {
        Self::new(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: Result<(), &str>) {
        match (Channel::new(name), expected) {
            (Ok(channel), Ok(())) => assert_eq!(channel.as_str(), name),
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "{error} should contain {part}");
            }
            (got, expected) => panic!("{name:?}: got {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn names_are_checked() {
        check("a", Ok(()));
        check("default", Ok(()));
        check(" spaces are preserved ", Ok(()));
        check("grüße/🌊:1", Ok(()));
        check(&"x".repeat(255), Ok(()));
        check(&"x".repeat(256), Err("256 bytes"));
        check(&"ü".repeat(128), Err("256 bytes"));
        check("", Err("empty"));
        check("a\nb", Err("U+000A at byte 1"));
        check("a\0", Err("U+0000"));
        check("a\u{7f}", Err("U+007F"));
        check("a\u{85}", Err("U+0085"));
        check("headwater:{0}:seq", Err("reserved"));
        check("headwater", Ok(()));
    }
}
