//! Retention rules: how much of each channel's history is retained. Look here for the syntax of a
//! rule and for the retention of a channel that no rule matches.

use std::fmt;
use std::time::Duration;

use crate::channel::Channel;
use crate::error::{Error, ErrorKind};
use crate::limits::{
    RETENTION_AGE_DEFAULT, RETENTION_AGE_MAX, RETENTION_AGE_MIN, RETENTION_BYTES_DEFAULT,
    RETENTION_BYTES_MAX, RETENTION_BYTES_MIN, RETENTION_EVENTS_DEFAULT, RETENTION_EVENTS_MAX,
    RETENTION_RULES_MAX,
};
use crate::pattern::ChannelPattern;
use crate::quantity::{self, Bare, DURATION_UNITS, Grammar, SIZE_UNITS};

/// How much of one channel's history is retained. The oldest events are dropped as soon as any of
/// the three bounds is exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Retention {
    /// Maximum number of events, from 1 to 1,000,000. The default is 1,000.
    pub events: usize,
    /// Maximum age of an event, from 1 second to 30 days. The default is 10 minutes.
    pub age: Duration,
    /// Maximum number of bytes of data, from 1 KiB to 1 GiB. The default is 8 MiB. The newest
    /// event is retained even if it alone is larger.
    pub bytes: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            events: RETENTION_EVENTS_DEFAULT,
            age: RETENTION_AGE_DEFAULT,
            bytes: RETENTION_BYTES_DEFAULT,
        }
    }
}

impl Retention {
    /// The default retention.
    pub fn new() -> Self {
        Self::default()
    }

    /// Retains at most this many events; clamped to the bounds of [`events`](Self::events).
    #[must_use]
    pub fn with_events(mut self, events: usize) -> Self {
        self.events = events.clamp(1, RETENTION_EVENTS_MAX);
        self
    }

    /// Retains events up to this age; clamped to the bounds of [`age`](Self::age).
    #[must_use]
    pub fn with_age(mut self, age: Duration) -> Self {
        self.age = age.clamp(RETENTION_AGE_MIN, RETENTION_AGE_MAX);
        self
    }

    /// Retains at most this many bytes; clamped to the bounds of [`bytes`](Self::bytes).
    #[must_use]
    pub fn with_bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes.clamp(RETENTION_BYTES_MIN, RETENTION_BYTES_MAX);
        self
    }
}

/// Ordered retention rules. The first rule that matches a channel applies; a channel that no rule
/// matches has [`Retention::default`].
///
/// A rule is a pattern and its retention, separated by blanks:
///
/// | rule | meaning |
/// |---|---|
/// | `chat:* events=100 age=1h bytes=1MiB` | channels whose names start with `chat:` |
/// | `news age=30d` | the channel `news`; omitted parts have their defaults |
/// | `logs:* off` | no retention |
/// | `* events=50` | all channels that no earlier rule matches |
///
/// A pattern is the name of a channel, or a prefix followed by `*`. It has no blanks: a name with
/// blanks is matched by a prefix that ends before the first one. Ages have the units `ms`, `s`,
/// `m`, `h` and `d`; sizes are in bytes, or have the units `B`, `KiB`, `MiB` and `GiB`.
///
/// ```
/// use headwater::log::RetentionRules;
/// use headwater::Channel;
///
/// let rules = RetentionRules::new()
///     .with_rule("chat:* events=100 age=1h")?
///     .with_rule("logs:* off")?;
/// assert_eq!(rules.for_channel(&Channel::new("chat:7")?).unwrap().events, 100);
/// assert_eq!(rules.for_channel(&Channel::new("logs:7")?), None);
/// assert_eq!(rules.for_channel(&Channel::new("news")?).unwrap().events, 1000);
/// # Ok::<(), headwater::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RetentionRules {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    pattern: ChannelPattern,
    /// `None` for `off`.
    retention: Option<Retention>,
}

impl RetentionRules {
    /// No rules: every channel has [`Retention::default`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a rule after the others, as text.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the text is not a rule, if a value is out of bounds, or if an
    /// earlier rule matches every channel that this one does, so that it would never apply;
    /// [`ErrorKind::TooLarge`] if there are 100 rules already. The message says which.
    pub fn with_rule(mut self, text: impl AsRef<str>) -> Result<Self, Error> {
        self.parse_rule(text.as_ref())?;
        Ok(self)
    }

    /// Adds a rule after the others, as values: a pattern and its retention, `None` for no
    /// retention.
    ///
    /// ```
    /// use headwater::Channel;
    /// use headwater::channel::ChannelPattern;
    /// use headwater::log::{Retention, RetentionRules};
    ///
    /// let rules = RetentionRules::new()
    ///     .with(ChannelPattern::new("chat:*")?, Retention::new().with_events(100))?
    ///     .with(ChannelPattern::new("logs:*")?, None)?;
    /// assert_eq!(rules.for_channel(&Channel::new("chat:7")?).unwrap().events, 100);
    /// # Ok::<(), headwater::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if an earlier rule matches every channel that this one does;
    /// [`ErrorKind::TooLarge`] if there are 100 rules already.
    pub fn with(
        mut self,
        pattern: ChannelPattern,
        retention: impl Into<Option<Retention>>,
    ) -> Result<Self, Error> {
        let name = pattern.to_string();
        self.add(&name, Rule { pattern, retention: retention.into() })?;
        Ok(self)
    }

    /// Adds a rule after the others, in place. After an error the rules are unchanged.
    ///
    /// # Errors
    /// Those of [`with_rule`](Self::with_rule).
    pub fn parse_rule(&mut self, text: &str) -> Result<(), Error> {
        let rule = Rule::parse(text).map_err(|why| Error::invalid(about(text, &why)))?;
        self.add(text, rule)
    }

    fn add(&mut self, text: &str, rule: Rule) -> Result<(), Error> {
        if let Some(earlier) = self.rules.iter().find(|it| it.pattern.covers(&rule.pattern)) {
            let why = format!(
                "it never applies, because the earlier rule `{}` matches all of its channels: \
                 put it first, or remove it",
                earlier.pattern
            );
            return Err(Error::invalid(about(text, &why)));
        }
        if self.rules.len() == RETENTION_RULES_MAX {
            return Err(Error::new(
                ErrorKind::TooLarge,
                about(text, &format!("there are {RETENTION_RULES_MAX} rules already: merge some")),
            ));
        }
        self.rules.push(rule);
        Ok(())
    }

    /// The retention of a channel; `None` if nothing is retained.
    pub fn for_channel(&self, channel: &Channel) -> Option<Retention> {
        match self.rules.iter().find(|rule| rule.pattern.matches(channel)) {
            Some(rule) => rule.retention,
            None => Some(Retention::default()),
        }
    }

    /// The rules in order: each pattern with its retention, `None` for no retention.
    pub fn iter(&self) -> impl Iterator<Item = (&ChannelPattern, Option<Retention>)> {
        self.rules.iter().map(|Rule { pattern, retention }| (pattern, *retention))
    }
}

impl Rule {
    fn parse(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let Some(pattern) = words.next() else { return Err(FORM.to_owned()) };
        let pattern = ChannelPattern::new(pattern).map_err(|error| error.to_string())?;
        let parts: Vec<&str> = words.collect();
        match parts[..] {
            [] => Err(FORM.to_owned()),
            ["off"] => Ok(Self { pattern, retention: None }),
            _ => Ok(Self { pattern, retention: Some(parse_parts(&parts)?) }),
        }
    }
}

const FORM: &str = "it must be a pattern and a retention, like `chat:* events=100 age=1h \
                    bytes=1MiB` or `logs:* off`";

fn parse_parts(parts: &[&str]) -> Result<Retention, String> {
    let mut retention = Retention::default();
    let mut seen: Vec<&str> = Vec::new();
    for part in parts {
        if *part == "off" {
            return Err("`off` excludes the other parts: remove them, or remove `off`".into());
        }
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        if seen.contains(&name) {
            return Err(format!("`{name}` is set twice: remove one of them"));
        }
        seen.push(name);
        match name {
            "events" => retention.events = events(value).map_err(|why| of(part, &why))?,
            "age" => retention.age = age(value).map_err(|why| of(part, &why))?,
            "bytes" => retention.bytes = bytes(value).map_err(|why| of(part, &why))?,
            _ => {
                return Err(format!(
                    "`{part}` is not one of events=COUNT, age=DURATION, bytes=SIZE and off"
                ));
            }
        }
    }
    Ok(retention)
}

fn about(rule: &str, why: &str) -> String {
    format!("the retention rule `{}`: {why}", rule.trim().escape_debug())
}

fn of(part: &str, why: &dyn fmt::Display) -> String {
    format!("`{}`: {why}", part.escape_debug())
}

const AGE: Grammar = Grammar {
    expected: "a duration like 90s, 10m, 24h or 30d",
    units: DURATION_UNITS,
    bare: Bare::Mistake(["s", "m"]),
    blanks: false,
};

const BYTES: Grammar = Grammar {
    expected: "a size like 65536, 64KiB or 8MiB",
    units: SIZE_UNITS,
    bare: Bare::Smallest,
    blanks: false,
};

fn events(text: &str) -> Result<usize, String> {
    quantity::count(text, &(1..=RETENTION_EVENTS_MAX))
}

fn age(text: &str) -> Result<Duration, String> {
    AGE.duration(text, &(RETENTION_AGE_MIN..=RETENTION_AGE_MAX))
}

fn bytes(text: &str) -> Result<usize, String> {
    BYTES.size(text, &(RETENTION_BYTES_MIN..=RETENTION_BYTES_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[track_caller]
    fn check(rule: &str, channel: &str, expected: Result<Option<(usize, Duration, usize)>, &str>) {
        let channel = Channel::new(channel).unwrap();
        match (RetentionRules::new().with_rule(rule), expected) {
            (Ok(rules), Ok(expected)) => {
                let expected =
                    expected.map(|(events, age, bytes)| Retention { events, age, bytes });
                assert_eq!(rules.for_channel(&channel), expected, "{rule}");
            }
            (Err(error), Err(part)) => {
                let text = error.to_string();
                assert!(text.contains(part), "{rule}: {text:?} lacks {part:?}");
                assert!(text.starts_with("the retention rule `"), "{text}");
            }
            (got, expected) => panic!("{rule:?}: got {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn rules_set_the_retention() {
        let usual = (1000, Duration::from_secs(600), 8 << 20);
        let (events, age, bytes) = usual;
        check("chat:* events=100 age=1h bytes=1MiB", "chat:7", Ok(Some((100, HOUR, 1 << 20))));
        check("chat:* bytes=1MiB age=1h events=100", "chat:7", Ok(Some((100, HOUR, 1 << 20))));
        check("chat:* events=100", "chat", Ok(Some(usual)));
        check("chat:* events=100", "chat:", Ok(Some((100, age, bytes))));
        check("  chat:*\tevents=100  ", "chat:7", Ok(Some((100, age, bytes))));
        check("news age=30d", "news", Ok(Some((events, 720 * HOUR, bytes))));
        check("news age=30d", "news2", Ok(Some(usual)));
        check("news age=1500ms", "news", Ok(Some((events, Duration::from_millis(1500), bytes))));
        check("news age=90s", "news", Ok(Some((events, Duration::from_secs(90), bytes))));
        check("news age=2m", "news", Ok(Some((events, Duration::from_secs(120), bytes))));
        check("logs:* off", "logs:7", Ok(None));
        check("logs:* off", "news", Ok(Some(usual)));
        check("* off", "news", Ok(None));
        check("gr\u{fc}\u{df}e;* off", "gr\u{fc}\u{df}e;7", Ok(None));
        check("headwater* off", "headwaters", Ok(None));
        check("a=b off", "a=b", Ok(None));
    }

    #[test]
    fn bounds_are_inclusive() {
        let retention = |rule: &str| {
            let rules = RetentionRules::new().with_rule(rule).unwrap();
            rules.for_channel(&Channel::new("a").unwrap()).unwrap()
        };
        assert_eq!(retention("a events=1").events, 1);
        assert_eq!(retention("a events=1000000").events, 1_000_000);
        assert_eq!(retention("a age=1s").age, Duration::from_secs(1));
        assert_eq!(retention("a age=30d").age, Duration::from_secs(30 * 24 * 3600));
        assert_eq!(retention("a bytes=1KiB").bytes, 1024);
        assert_eq!(retention("a bytes=1024").bytes, 1024);
        assert_eq!(retention("a bytes=1073741824B").bytes, 1 << 30);
        assert_eq!(retention("a bytes=1GiB").bytes, 1 << 30);
        check("a events=0", "a", Err("`events=0`: it must be from 1 to 1000000"));
        check("a events=1000001", "a", Err("from 1 to 1000000"));
        check("a age=999ms", "a", Err("`age=999ms`: it must be from 1s to 30d"));
        check("a age=31d", "a", Err("from 1s to 30d"));
        check("a age=18446744073709551615d", "a", Err("from 1s to 30d"));
        check("a bytes=1023", "a", Err("`bytes=1023`: it must be from 1KiB to 1GiB"));
        check("a bytes=1073741825", "a", Err("from 1KiB to 1GiB"));
        check("a bytes=18446744073709551615GiB", "a", Err("from 1KiB to 1GiB"));
    }

    #[test]
    fn malformed_rules_are_rejected_with_the_expected_form() {
        check("", "a", Err("the retention rule ``: it must be a pattern and a retention, like"));
        check("chat:*", "a", Err("it must be a pattern and a retention"));
        check("events=100", "a", Err("it must be a pattern and a retention"));
        check(
            "chat:* 100",
            "a",
            Err("`100` is not one of events=COUNT, age=DURATION, bytes=SIZE and off"),
        );
        check("chat:* evnts=100", "a", Err("`evnts=100` is not one of events=COUNT"));
        check("my channel off", "a", Err("`channel` is not one of"));
        check("chat:* off events=1", "a", Err("`off` excludes"));
        check("chat:* events=1 off", "a", Err("`off` excludes"));
        check("chat:* events=1 events=2", "a", Err("`events` is set twice"));
        check("chat:* events", "a", Err("`events`: it is not a whole number"));
        check("chat:* events=1e3", "a", Err("not a whole number"));
        check("chat:* events=-1", "a", Err("not a whole number"));
        check("chat:* age=10", "a", Err("`age=10`: it needs a unit: write 10s or 10m"));
        for age in ["", "h", "1.5h", "-1h", "1w", "1H", "18446744073709551616d"] {
            check(&format!("a age={age}"), "a", Err("it is not a duration like 90s"));
        }
        for size in ["", "MiB", "1MB", "1M", "1.5MiB", "-1"] {
            check(&format!("a bytes={size}"), "a", Err("it is not a size like 65536"));
        }
        check("*:chat off", "a", Err("a pattern has a `*` at its end only"));
        check("chat:** off", "a", Err("at its end only"));
        check("headwater:* off", "a", Err("reserved"));
        check("headwater:{0}:seq off", "a", Err("reserved"));
        check(
            "a\u{1}b off",
            "a",
            Err("the retention rule `a\\u{1}b off`: `a\\u{1}b`: a channel's name has"),
        );
        check(&format!("{} off", "x".repeat(256)), "a", Err("256 bytes"));
    }

    #[test]
    fn the_first_matching_rule_applies() {
        let rules = RetentionRules::new()
            .with_rule("chat:vip events=5")
            .and_then(|rules| rules.with_rule("chat:* off"))
            .and_then(|rules| rules.with_rule("* events=7 age=1s bytes=1KiB"))
            .unwrap();
        let events = |name| rules.for_channel(&Channel::new(name).unwrap()).map(|it| it.events);
        assert_eq!(events("chat:vip"), Some(5));
        assert_eq!(events("chat:vip2"), None);
        assert_eq!(events("news"), Some(7));
        let all: Vec<_> =
            rules.iter().map(|(pattern, retention)| (pattern.to_string(), retention)).collect();
        assert_eq!(all[1], ("chat:*".to_owned(), None));
        let small =
            Retention::new().with_events(7).with_age(Duration::from_secs(1)).with_bytes(1024);
        assert_eq!(all[2], ("*".to_owned(), Some(small)));
    }

    #[test]
    fn a_rule_that_never_applies_is_rejected() {
        #[track_caller]
        fn check(first: &str, second: &str, can_apply: bool) {
            let mut rules = RetentionRules::new().with_rule(first).unwrap();
            let before = rules.clone();
            match rules.parse_rule(second) {
                Ok(()) => assert!(can_apply, "{first}, {second}"),
                Err(error) => {
                    let text = error.to_string();
                    assert!(!can_apply && text.contains("it never applies"), "{text}");
                    assert_eq!(rules, before);
                }
            }
        }
        check("* off", "chat:* events=1", false);
        check("chat:* off", "chat:* events=1", false);
        check("chat:* off", "chat:vip:* events=1", false);
        check("chat:* off", "chat:vip events=1", false);
        check("news off", "news events=1", false);
        check("chat:vip:* off", "chat:* events=1", true);
        check("news off", "news* events=1", true);
        check("news off", "news2 events=1", true);
    }

    #[test]
    fn the_number_of_rules_is_bounded() {
        let mut rules = RetentionRules::new();
        for number in 0..RETENTION_RULES_MAX {
            rules.parse_rule(&format!("channel-{number} off")).unwrap();
        }
        let error = rules.parse_rule("news off").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert!(error.to_string().contains("there are 100 rules already"), "{error}");
    }
}
