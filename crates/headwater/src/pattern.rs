//! Patterns of channel names, and sets of them: one name, or the beginning of names. Look here for what a
//! pattern may say and which channels it fits.

use std::fmt;
use std::str::FromStr;

use crate::channel::Channel;
use crate::error::{Error, ErrorKind};
use crate::limits::CHANNEL_PATTERNS_MAX;

/// A name of a channel, or the beginning of names and `*`. `*` alone fits every channel.
///
/// A pattern compares bytes: nothing in a name is decoded, folded or resolved, so `user:42:*` does not
/// fit `User:42:a`, and `..` in a name is two dots.
///
/// ```
/// use headwater::{Channel, ChannelPattern};
///
/// let pattern: ChannelPattern = "user:42:*".parse()?;
/// assert!(pattern.matches(&Channel::new("user:42:inbox")?));
/// assert!(!pattern.matches(&Channel::new("user:421")?));
/// # Ok::<(), headwater::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ChannelPattern(Kind);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Kind {
    Exact(Channel),
    Beginning(String),
}

const STAR: &str = "a `*` stands at the end of a pattern and nowhere else";

impl ChannelPattern {
    /// Checks a pattern.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if a `*` stands elsewhere than at the end, and
    /// what [`Channel::new`] says of the rest.
    pub fn new(text: impl AsRef<str>) -> Result<Self, Error> {
        let text = text.as_ref();
        let of =
            |why: &dyn fmt::Display| Error::invalid(format!("`{}`: {why}", text.escape_debug()));
        let Some(beginning) = text.strip_suffix('*') else {
            if text.contains('*') {
                return Err(Error::invalid(STAR));
            }
            return Channel::new(text).map(|name| Self(Kind::Exact(name))).map_err(|why| of(&why));
        };
        if beginning.contains('*') {
            return Err(Error::invalid(STAR));
        }
        if !beginning.is_empty() {
            Channel::new(beginning).map_err(|why| of(&why))?;
        }
        Ok(Self(Kind::Beginning(beginning.to_owned())))
    }

    /// The pattern that fits this channel and no other, also if its name ends with `*`.
    pub fn exact(channel: Channel) -> Self {
        Self(Kind::Exact(channel))
    }

    /// The pattern that fits every channel whose name begins like this. Other than with
    /// [`new`](Self::new), a `*` in the text is a `*`.
    ///
    /// # Errors
    /// What [`Channel::new`] says of a text that no name can begin with.
    pub fn beginning(text: impl Into<String>) -> Result<Self, Error> {
        let text = text.into();
        if !text.is_empty() {
            Channel::new(&text)?;
        }
        Ok(Self(Kind::Beginning(text)))
    }

    /// The pattern that fits every channel.
    pub fn all() -> Self {
        Self(Kind::Beginning(String::new()))
    }

    /// Whether it fits a channel.
    pub fn matches(&self, channel: impl AsRef<str>) -> bool {
        let name = channel.as_ref();
        match &self.0 {
            Kind::Exact(exact) => exact.as_str() == name,
            Kind::Beginning(beginning) => name.starts_with(beginning),
        }
    }

    /// Whether it fits one channel only.
    pub fn is_exact(&self) -> bool {
        matches!(self.0, Kind::Exact(_))
    }

    /// Whether it fits every channel that `other` does.
    pub fn covers(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (_, Kind::Exact(channel)) => self.matches(channel),
            (Kind::Beginning(ours), Kind::Beginning(theirs)) => theirs.starts_with(ours),
            (Kind::Exact(_), Kind::Beginning(_)) => false,
        }
    }
}

impl fmt::Display for ChannelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Exact(channel) => f.write_str(channel.as_str()),
            Kind::Beginning(beginning) => write!(f, "{beginning}*"),
        }
    }
}

impl FromStr for ChannelPattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::new(text)
    }
}

/// A set of channels: those that fit one of its patterns. A pattern is the name of a channel, or the
/// beginning of names and `*`.
///
/// ```
/// use headwater::{ChannelPatterns, Hub};
///
/// let prices = ChannelPatterns::new().with("prices:*")?.with("clock")?;
/// assert!(prices.matches("prices:gold") && !prices.matches("clocks"));
/// let hub = Hub::builder().latest_only(prices).build(headwater::MemoryBroker::new());
/// # Ok::<(), headwater::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChannelPatterns {
    patterns: Vec<ChannelPattern>,
}

impl ChannelPatterns {
    /// No channel.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the channels that fit a pattern.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the text is no pattern; [`ErrorKind::TooLarge`] if there are 100 already.
    pub fn with(mut self, pattern: impl AsRef<str>) -> Result<Self, Error> {
        self.add(pattern.as_ref())?;
        Ok(self)
    }

    /// Adds the channels that fit a pattern, in place.
    ///
    /// # Errors
    /// Those of [`with`](Self::with).
    pub fn add(&mut self, pattern: &str) -> Result<(), Error> {
        if self.patterns.len() == CHANNEL_PATTERNS_MAX {
            let why = format!("there are {CHANNEL_PATTERNS_MAX} patterns already: join some");
            return Err(Error::new(ErrorKind::TooLarge, why));
        }
        self.patterns.push(ChannelPattern::new(pattern.trim())?);
        Ok(())
    }

    /// Whether a channel is one of them.
    pub fn matches(&self, channel: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(channel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, fits: &[&str], fits_not: &[&str]) {
        let parsed = ChannelPattern::new(pattern).unwrap();
        assert_eq!(parsed.to_string(), pattern);
        for name in fits {
            assert!(parsed.matches(Channel::new(name).unwrap()), "{pattern} should fit {name}");
        }
        for name in fits_not {
            assert!(
                !parsed.matches(Channel::new(name).unwrap()),
                "{pattern} should not fit {name}"
            );
        }
    }

    #[test]
    fn patterns_compare_bytes() {
        check("news", &["news"], &["News", "news2", "new", "n\u{435}ws", "news "]);
        check("user:42:*", &["user:42:a", "user:42:"], &["user:42", "user:421", "USER:42:a"]);
        check("user/42/*", &["user/42/../43"], &["user/43/a", "user%2F42/a"]);
        check("*", &["a", "*", "\u{1f30a}"], &[]);
        let name = Channel::new("a*").unwrap();
        let exact = ChannelPattern::exact(name.clone());
        assert!(exact.matches(&name) && !exact.matches(Channel::new("ab").unwrap()));
        assert!(ChannelPattern::all().covers(&exact));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for (pattern, part) in [
            ("", "empty"),
            ("*a", "at the end"),
            ("a**", "at the end"),
            ("a\n*", "U+000A"),
            ("headwater:*", "reserved"),
        ] {
            let error = ChannelPattern::new(pattern).unwrap_err().to_string();
            assert!(error.contains(part), "{pattern:?}: {error}");
        }
    }

    #[test]
    fn a_set_fits_what_one_of_it_does() {
        let patterns = ChannelPatterns::new().with("a").unwrap().with(" b:* ").unwrap();
        for (name, fits) in [("a", true), ("aa", false), ("b:", true), ("b:1", true), ("b", false)]
        {
            assert_eq!(patterns.matches(name), fits, "{name}");
        }
        assert!(ChannelPatterns::new().with("*").unwrap().matches("anything"));
        for (bad, part) in [("", "empty"), ("a*b", "at the end"), ("**", "at the end")] {
            let error = ChannelPatterns::new().with(bad).unwrap_err();
            assert!(error.to_string().contains(part), "{bad}: {error}");
        }
        let mut many = ChannelPatterns::new();
        (0..CHANNEL_PATTERNS_MAX).for_each(|number| many.add(&format!("c{number}")).unwrap());
        assert_eq!(many.add("one-more").unwrap_err().kind(), ErrorKind::TooLarge);
    }
}
