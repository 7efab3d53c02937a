//! Patterns of channel names, and sets of them. Look here for the syntax of a pattern and for which
//! channels it matches.

use std::fmt;
use std::str::FromStr;

use crate::channel::Channel;
use crate::error::{Error, ErrorKind};
use crate::limits::CHANNEL_PATTERNS_MAX;

/// The name of a channel, or a prefix followed by `*`. `*` alone matches every channel.
///
/// A pattern compares bytes: nothing in a name is decoded, folded or resolved, so `user:42:*` does
/// not match `User:42:a`, and `..` in a name is two dots.
///
/// ```
/// use headwater::channel::ChannelPattern;
/// use headwater::Channel;
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
    Prefix(String),
}

const STAR: &str = "a pattern has a `*` at its end only";

impl ChannelPattern {
    /// Checks a pattern.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if there is a `*` elsewhere than at the end, or if [`Channel::new`]
    /// rejects the rest.
    pub fn new(text: impl AsRef<str>) -> Result<Self, Error> {
        let text = text.as_ref();
        let of =
            |why: &dyn fmt::Display| Error::invalid(format!("`{}`: {why}", text.escape_debug()));
        let Some(prefix) = text.strip_suffix('*') else {
            if text.contains('*') {
                return Err(Error::invalid(STAR));
            }
            return Channel::new(text).map(|name| Self(Kind::Exact(name))).map_err(|why| of(&why));
        };
        if prefix.contains('*') {
            return Err(Error::invalid(STAR));
        }
        if !prefix.is_empty() {
            Channel::new(prefix).map_err(|why| of(&why))?;
        }
        Ok(Self(Kind::Prefix(prefix.to_owned())))
    }

    /// The pattern that matches this channel and no other, even if its name ends with `*`.
    pub fn exact(channel: Channel) -> Self {
        Self(Kind::Exact(channel))
    }

    /// The pattern that matches every channel whose name starts with this text. Unlike in
    /// [`new`](Self::new), a `*` in the text is literal.
    ///
    /// # Errors
    /// Those of [`Channel::new`], if no name can start with this text.
    pub fn beginning(text: impl Into<String>) -> Result<Self, Error> {
        let text = text.into();
        if !text.is_empty() {
            Channel::new(&text)?;
        }
        Ok(Self(Kind::Prefix(text)))
    }

    /// The pattern that matches every channel.
    pub fn all() -> Self {
        Self(Kind::Prefix(String::new()))
    }

    /// Whether it matches a channel.
    pub fn matches(&self, channel: impl AsRef<str>) -> bool {
        let name = channel.as_ref();
        match &self.0 {
            Kind::Exact(exact) => exact.as_str() == name,
            Kind::Prefix(prefix) => name.starts_with(prefix),
        }
    }

    /// Whether it matches exactly one channel.
    pub fn is_exact(&self) -> bool {
        matches!(self.0, Kind::Exact(_))
    }

    /// Whether it matches every channel that `other` matches.
    pub fn covers(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (_, Kind::Exact(channel)) => self.matches(channel),
            (Kind::Prefix(prefix), Kind::Prefix(other)) => other.starts_with(prefix),
            (Kind::Exact(_), Kind::Prefix(_)) => false,
        }
    }
}

impl fmt::Display for ChannelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Exact(channel) => f.write_str(channel.as_str()),
            Kind::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

impl FromStr for ChannelPattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::new(text)
    }
}

/// A set of channels: those that match at least one of its [patterns](ChannelPattern).
///
/// ```
/// use headwater::channel::ChannelPatterns;
/// use headwater::Hub;
///
/// let prices = ChannelPatterns::new().with("prices:*")?.with("clock")?;
/// assert!(prices.matches("prices:gold") && !prices.matches("clocks"));
/// let hub = Hub::builder().latest_only(prices).build(headwater::broker::MemoryBroker::new());
/// # Ok::<(), headwater::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChannelPatterns {
    patterns: Vec<ChannelPattern>,
}

impl ChannelPatterns {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the channels that match a pattern.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the text is not a pattern; [`ErrorKind::TooLarge`] if there are
    /// 100 patterns already.
    pub fn with(mut self, pattern: impl AsRef<str>) -> Result<Self, Error> {
        self.add(pattern.as_ref())?;
        Ok(self)
    }

    /// Adds the channels that match a pattern, in place.
    ///
    /// # Errors
    /// Those of [`with`](Self::with).
    pub fn add(&mut self, pattern: &str) -> Result<(), Error> {
        if self.patterns.len() == CHANNEL_PATTERNS_MAX {
            let why = format!("there are {CHANNEL_PATTERNS_MAX} patterns already: merge some");
            return Err(Error::new(ErrorKind::TooLarge, why));
        }
        self.patterns.push(ChannelPattern::new(pattern.trim())?);
        Ok(())
    }

    /// Whether the set contains a channel.
    pub fn matches(&self, channel: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(channel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, matching: &[&str], others: &[&str]) {
        let parsed = ChannelPattern::new(pattern).unwrap();
        assert_eq!(parsed.to_string(), pattern);
        for name in matching {
            assert!(parsed.matches(Channel::new(name).unwrap()), "{pattern} should match {name}");
        }
        for name in others {
            assert!(
                !parsed.matches(Channel::new(name).unwrap()),
                "{pattern} should not match {name}"
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
    fn malformed_patterns_are_rejected() {
        for (pattern, part) in [
            ("", "empty"),
            ("*a", "at its end"),
            ("a**", "at its end"),
            ("a\n*", "U+000A"),
            ("headwater:*", "reserved"),
        ] {
            let error = ChannelPattern::new(pattern).unwrap_err().to_string();
            assert!(error.contains(part), "{pattern:?}: {error}");
        }
    }

    #[test]
    fn a_set_matches_what_one_pattern_matches() {
        let patterns = ChannelPatterns::new().with("a").unwrap().with(" b:* ").unwrap();
        for (name, expected) in
            [("a", true), ("aa", false), ("b:", true), ("b:1", true), ("b", false)]
        {
            assert_eq!(patterns.matches(name), expected, "{name}");
        }
        assert!(ChannelPatterns::new().with("*").unwrap().matches("anything"));
        for (bad, part) in [("", "empty"), ("a*b", "at its end"), ("**", "at its end")] {
            let error = ChannelPatterns::new().with(bad).unwrap_err();
            assert!(error.to_string().contains(part), "{bad}: {error}");
        }
        let mut many = ChannelPatterns::new();
        (0..CHANNEL_PATTERNS_MAX).for_each(|number| many.add(&format!("c{number}")).unwrap());
        assert_eq!(many.add("one-more").unwrap_err().kind(), ErrorKind::TooLarge);
    }
}
