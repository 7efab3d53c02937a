//! What one setting is: its names, the form of its value, its default, its texts.

use std::time::Duration;

/// One setting, before it has a value.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The TOML key. `--name` is the flag; see [`Setting::variable`] for the environment.
    pub name: &'static str,
    /// What stands for the value in `--help`.
    pub value_name: &'static str,
    /// What a value must look like.
    pub kind: Kind,
    /// The default as a user would type it; `None` if the setting is then absent.
    pub default: Option<&'static str>,
    /// A value other than the default that works, for the examples in the documentation.
    pub example: &'static str,
    /// The heading under which `--help` and the documentation list the setting.
    pub heading: &'static str,
    /// What it does, in one sentence without a full stop.
    pub summary: &'static str,
    /// What else there is to know, in whole sentences; may be empty.
    pub details: &'static str,
}

/// What a value must look like, with its bounds, both inclusive.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// An IP address and a port.
    Address,
    /// Where Redis is. Contains a password, so its text is never printed.
    RedisUrl,
    /// A whole number and a unit.
    Duration {
        /// The shortest.
        min: Duration,
        /// The longest.
        max: Duration,
        /// Whether `off` and `0` are values too.
        off: bool,
    },
    /// A number of bytes, with or without a unit.
    Bytes {
        /// The fewest.
        min: usize,
        /// The most.
        max: usize,
    },
    /// A whole number.
    Count {
        /// The lowest.
        min: usize,
        /// The highest.
        max: usize,
    },
    /// The path of a directory.
    Directory,
    /// The path of a file.
    File,
    /// So many per second, minute or hour.
    Rate {
        /// Whether `off` is a value too.
        off: bool,
    },
    /// Networks and addresses: a list, like the rules.
    Networks,
    /// A text that is never printed.
    Secret,
    /// Any text but none.
    Text,
    /// A URL of `http` or `https`.
    HttpUrl,
    /// A URL of a set of keys, or the path of a file with one.
    Jwks,
    /// Patterns of channels with claims in them: a list.
    Templates,
    /// Origins of pages: a list.
    Origins,
    /// Names in the DNS: a list.
    Domains,
    /// Rules of retention: a list. The flag can be repeated, in the environment `;` stands between
    /// rules, and the file has a list of strings.
    RetentionRules,
    /// Patterns of channels: a list, in the same three ways.
    ChannelPatterns,
    /// Parts of readiness, with commas between them.
    ReadyParts,
    /// One of some words.
    Choice(&'static [&'static str]),
    /// Filter directives of the log.
    LogFilter,
    /// `true` or `false`; the flag alone means `true`.
    Switch,
}

impl Setting {
    /// The name of the environment variable.
    pub fn variable(&self) -> String {
        format!("HEADWATER_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    /// Whether it can have several values, all of which apply.
    pub fn is_list(&self) -> bool {
        self.kind.is_list()
    }

    /// Whether the value must never be shown.
    pub fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::RedisUrl | Kind::Secret)
    }
}

impl Kind {
    /// Whether it can have several values, all of which apply.
    pub fn is_list(self) -> bool {
        matches!(
            self,
            Self::RetentionRules
                | Self::ChannelPatterns
                | Self::Networks
                | Self::Templates
                | Self::Origins
                | Self::Domains
        )
    }
}

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(60 * 60);
