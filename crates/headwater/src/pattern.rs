//! Which channels are meant: a name, or the beginning of names and `*`. Look here for what a pattern may
//! say.

use crate::channel::Channel;
use crate::error::{Error, ErrorKind};
use crate::limits::CHANNEL_PATTERNS_MAX;

/// A set of channels: those that fit one of its patterns. A pattern is the name of a channel, or the
/// beginning of names and `*`.
///
/// ```
/// use headwater::{ChannelPatterns, Hub};
///
/// let prices = ChannelPatterns::new().with("prices:*")?.with("clock")?;
/// assert!(prices.fits("prices:gold") && !prices.fits("clocks"));
/// let hub = Hub::builder().latest_only(prices).build(headwater::MemoryBroker::new());
/// # Ok::<(), headwater::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChannelPatterns {
    patterns: Vec<Pattern>,
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
        let pattern = Pattern::parse(pattern.trim()).map_err(Error::invalid)?;
        self.patterns.push(pattern);
        Ok(())
    }

    /// Whether a channel is one of them.
    pub fn fits(&self, channel: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.fits(channel))
    }
}

/// A name, or the beginning of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pattern {
    Exact(Channel),
    Beginning(String),
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let Some(beginning) = text.strip_suffix('*') else {
            if text.contains('*') {
                return Err(STAR.to_owned());
            }
            return Channel::new(text)
                .map(Self::Exact)
                .map_err(|why| format!("`{}`: {why}", text.escape_debug()));
        };
        if beginning.contains('*') {
            return Err(STAR.to_owned());
        }
        if !beginning.is_empty() {
            Channel::new(beginning).map_err(|why| format!("`{}`: {why}", text.escape_debug()))?;
        }
        Ok(Self::Beginning(beginning.to_owned()))
    }

    pub(crate) fn fits(&self, name: &str) -> bool {
        match self {
            Self::Exact(channel) => channel.as_str() == name,
            Self::Beginning(beginning) => name.starts_with(beginning),
        }
    }

    /// Whether this one fits every channel that `other` does.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exact(channel)) => self.fits(channel.as_str()),
            (Self::Beginning(ours), Self::Beginning(theirs)) => theirs.starts_with(ours),
            (Self::Exact(_), Self::Beginning(_)) => false,
        }
    }

    pub(crate) fn text(&self) -> String {
        match self {
            Self::Exact(channel) => channel.as_str().to_owned(),
            Self::Beginning(beginning) => format!("{beginning}*"),
        }
    }
}

const STAR: &str = "a `*` stands at the end of a pattern and nowhere else";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_checked_and_fit() {
        let patterns = ChannelPatterns::new().with("a").unwrap().with(" b:* ").unwrap();
        for (name, fits) in [("a", true), ("aa", false), ("b:", true), ("b:1", true), ("b", false)]
        {
            assert_eq!(patterns.fits(name), fits, "{name}");
        }
        assert!(ChannelPatterns::new().with("*").unwrap().fits("anything"));
        for (bad, part) in [("", "empty"), ("a*b", "at the end"), ("**", "at the end")] {
            let error = ChannelPatterns::new().with(bad).unwrap_err();
            assert!(error.to_string().contains(part), "{bad}: {error}");
        }
        let mut many = ChannelPatterns::new();
        (0..CHANNEL_PATTERNS_MAX).for_each(|number| many.add(&format!("c{number}")).unwrap());
        assert_eq!(many.add("one-more").unwrap_err().kind(), ErrorKind::TooLarge);
    }
}
