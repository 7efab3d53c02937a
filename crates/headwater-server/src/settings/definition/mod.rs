//! The one definition of every setting of `headwater serve`: flag, environment variable, TOML key,
//! `--help` and docs/configuration.md all come from this table. Look here to add or change a setting.

mod access;
mod tls;

use std::time::Duration;

use headwater::limits;

/// One setting, before it has a value.
#[derive(Debug, Clone, Copy)]
pub struct Definition {
    /// The TOML key. `--name` is the flag; see [`Definition::variable`] for the environment.
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
    /// One of some words.
    Choice(&'static [&'static str]),
    /// Filter directives of the log.
    LogFilter,
    /// `true` or `false`; the flag alone means `true`.
    Switch,
}

impl Definition {
    /// The name of the environment variable.
    pub fn variable(&self) -> String {
        format!("HEADWATER_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    /// Whether several values can be given, and all of them count.
    pub fn is_list(&self) -> bool {
        self.kind.is_list()
    }

    /// Whether the value must never be shown.
    pub fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::RedisUrl | Kind::Secret)
    }
}

impl Kind {
    /// Whether several values can be given, and all of them count.
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

/// The definition of the setting with this name.
pub fn find(name: &str) -> Option<&'static Definition> {
    DEFINITIONS.iter().find(|definition| definition.name == name)
}

const WHERE: &str = "Where";
const PROXY: &str = "Behind a proxy";
const HISTORY: &str = "History";
const STREAMS: &str = "Streams";
const LIMITS: &str = "Limits";
const STOPPING: &str = "Stopping";
const LOGS: &str = "Logs";

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// Every setting, in the order of `--help` and of the documentation.
pub const DEFINITIONS: &[Definition] = &joined::<
    { PLACES.len() + tls::DEFINITIONS.len() + GENERAL.len() + access::DEFINITIONS.len() },
>(&[
    PLACES,
    tls::DEFINITIONS,
    GENERAL,
    access::DEFINITIONS,
]);

/// The tables as one.
const fn joined<const N: usize>(tables: &[&[Definition]]) -> [Definition; N] {
    let mut all = [tables[0][0]; N];
    let (mut at, mut table) = (0, 0);
    while table < tables.len() {
        let mut row = 0;
        while row < tables[table].len() {
            all[at] = tables[table][row];
            at += 1;
            row += 1;
        }
        table += 1;
    }
    assert!(at == N, "every definition has its place");
    all
}

const PLACES: &[Definition] = &[
    Definition {
        name: "listen",
        value_name: "ADDRESS:PORT",
        kind: Kind::Address,
        default: Some("127.0.0.1:8000"),
        example: "127.0.0.1:8080",
        heading: WHERE,
        summary: "Serve streams, publishing and the demo page on this address",
        details: "`localhost` stands for 127.0.0.1, and port 0 takes any free port. An address that \
                  other machines can reach needs access rules, or `open`.",
    },
    Definition {
        name: "admin",
        value_name: "ADDRESS:PORT",
        kind: Kind::Address,
        default: None,
        example: "127.0.0.1:9000",
        heading: WHERE,
        summary: "Serve /health/live, /health/ready and /metrics on this address",
        details: "Without it `listen` serves them itself if it is a loopback address; on any other \
                  address they are then not served at all.",
    },
    Definition {
        name: "redis",
        value_name: "URL",
        kind: Kind::RedisUrl,
        default: None,
        example: "redis://127.0.0.1:6379",
        heading: WHERE,
        summary: "Carry events through this Redis or Valkey",
        details: "Without it the broker in the program itself does, which connects no other node. \
                  Forms: `redis://USER:PASSWORD@HOST:PORT/DB`, `rediss://` for TLS, and \
                  `unix:///path/to/redis.sock?db=0&user=USER&pass=PASSWORD` (`redis+unix://` is the \
                  same). Special characters in a password are percent-encoded. The server starts \
                  without Redis and keeps trying. A command line can be read by every user of the \
                  machine: a URL with a password belongs in the environment or in the file.",
    },
    Definition {
        name: "open",
        value_name: "BOOL",
        kind: Kind::Switch,
        default: Some("false"),
        example: "true",
        heading: WHERE,
        summary: "Let anybody who can reach `listen` listen to every channel and publish to it",
        details: "An address that is not loopback needs this or access rules. It cannot be given together \
                  with access rules, under which nothing is open but what they open.",
    },
];

const GENERAL: &[Definition] = &[
    Definition {
        name: "trusted-proxy",
        value_name: "NETWORK",
        kind: Kind::Networks,
        default: None,
        example: "10.0.0.0/8",
        heading: PROXY,
        summary: "Believe the proxies in this network what they say about a client's address",
        details: "A network, or a single address. The flag can be repeated, `;` stands between \
                  networks in the environment variable, and the file has a list of them. How they \
                  say it is `client-address-header`, `proxy-protocol`, or both.",
    },
    Definition {
        name: "client-address-header",
        value_name: "NAME",
        kind: Kind::Choice(&["X-Forwarded-For", "Forwarded", "X-Real-IP"]),
        default: None,
        example: "X-Forwarded-For",
        heading: PROXY,
        summary: "Take the client's address from this header, if a trusted proxy sends it",
        details: "Of several addresses the last one counts that is not a trusted proxy's.",
    },
    Definition {
        name: "proxy-protocol",
        value_name: "BOOL",
        kind: Kind::Switch,
        default: Some("false"),
        example: "true",
        heading: PROXY,
        summary: "Expect the PROXY protocol, version 1 or 2, on every connection to `listen`",
        details: "Only trusted proxies can connect then. The header comes before TLS.",
    },
    Definition {
        name: "data",
        value_name: "DIRECTORY",
        kind: Kind::Directory,
        default: None,
        example: "headwater-data",
        heading: HISTORY,
        summary: "Keep the embedded broker's history in this directory, over restarts",
        details: "It is made if it is not there, and belongs to Headwater alone: a directory with \
                  other files in it is refused. What was acknowledged to a publisher is still there \
                  after the process was killed. Without it a restart forgets the history, and \
                  clients that come back are told. Redis keeps the history itself, so `data` and \
                  `redis` exclude each other.",
    },
    Definition {
        name: "retention",
        value_name: "RULE",
        kind: Kind::RetentionRules,
        default: None,
        example: "chat:* events=100 age=1h bytes=1MiB",
        heading: HISTORY,
        summary: "Keep this much of the history of these channels",
        details: "A rule is a pattern, which is the name of a channel or the beginning of names and \
                  `*`, and what is kept: `events` (1 to 1000000), `age` (1s to 30d) and `bytes` (1KiB \
                  to 1GiB), or `off`, as in `logs:* off`. The first rule that fits a channel counts, \
                  `*` alone fits all, and there can be 100. What a rule does not say, and a channel \
                  that no rule fits, keeps 1000 events, 10 minutes and 8 MiB. The flag can be \
                  repeated, `;` stands between rules in the environment variable, and the file has a \
                  list of them.",
    },
    Definition {
        name: "heartbeat",
        value_name: "DURATION",
        kind: Kind::Duration { min: SECOND, max: MINUTE.saturating_mul(10), off: true },
        default: Some("15s"),
        example: "30s",
        heading: STREAMS,
        summary: "Send a comment on a stream that was idle for this long",
        details: "It keeps proxies from cutting the stream, which they do after 29 to 100 seconds, \
                  and it is how a client that went away without a word is found.",
    },
    Definition {
        name: "retry",
        value_name: "DURATION",
        kind: Kind::Duration {
            min: Duration::from_millis(100),
            max: MINUTE.saturating_mul(5),
            off: false,
        },
        default: Some("2s"),
        example: "5s",
        heading: STREAMS,
        summary: "Ask clients to wait this long before they reconnect",
        details: "Every stream gets a slightly different time, so that clients do not come back all \
                  at once.",
    },
    Definition {
        name: "linger",
        value_name: "DURATION",
        kind: Kind::Duration { min: Duration::ZERO, max: HOUR, off: false },
        default: Some("60s"),
        example: "2s",
        heading: STREAMS,
        summary: "Stay subscribed to a channel for this long after its last listener left",
        details: "A client that reconnects within this time costs Redis nothing.",
    },
    Definition {
        name: "max-lifetime",
        value_name: "DURATION",
        kind: Kind::Duration { min: SECOND, max: HOUR.saturating_mul(24 * 7), off: true },
        default: Some("off"),
        example: "1h",
        heading: STREAMS,
        summary: "End a stream after this long",
        details: "Its client reconnects by itself. Useful where load should move to new nodes in time.",
    },
    Definition {
        name: "send-timeout",
        value_name: "DURATION",
        kind: Kind::Duration { min: SECOND, max: MINUTE.saturating_mul(10), off: false },
        default: Some("30s"),
        example: "10s",
        heading: STREAMS,
        summary: "End a stream whose client took nothing for this long while something was waiting",
        details: "",
    },
    Definition {
        name: "queue-frames",
        value_name: "COUNT",
        kind: Kind::Count { min: 1, max: 65_536 },
        default: Some("16384"),
        example: "1024",
        heading: STREAMS,
        summary: "End a stream when more events than this are waiting for its client",
        details: "",
    },
    Definition {
        name: "queue-bytes",
        value_name: "BYTES",
        kind: Kind::Bytes { min: 1 << 10, max: 64 << 20 },
        default: Some("1MiB"),
        example: "256KiB",
        heading: STREAMS,
        summary: "End a stream when more bytes than this are waiting for its client",
        details: "One event alone may be larger.",
    },
    Definition {
        name: "latest-only",
        value_name: "PATTERN",
        kind: Kind::ChannelPatterns,
        default: None,
        example: "prices:*",
        heading: LIMITS,
        summary: "Give slow clients only the newest event of these channels",
        details: "For values of which only the last counts. On every other channel a client that is too \
                  slow loses its stream, and gets what it missed when it comes back. A pattern is the \
                  name of a channel or the beginning of names and `*`, and there can be 100. The flag \
                  can be repeated, `;` stands between patterns in the environment variable, and the \
                  file has a list of them.",
    },
    Definition {
        name: "shards",
        value_name: "COUNT",
        kind: Kind::Count { min: 0, max: limits::SHARDS_MAX },
        default: None,
        example: "4",
        heading: LIMITS,
        summary: "Let this many threads own the sockets of streams",
        details: "Without it, one per core. With 0, or over HTTP/2, each stream has a task and buffers of \
                  its own, which cost some 20 times the memory; docs/engine.md says more.",
    },
    Definition {
        name: "max-connections",
        value_name: "COUNT",
        kind: Kind::Count { min: 1, max: 10_000_000 },
        default: Some("10000"),
        example: "50000",
        heading: LIMITS,
        summary: "Take at most this many connections at a time",
        details: "Each needs a file descriptor: `ulimit -n` (in systemd `LimitNOFILE=`) must be \
                  higher than this by about 100.",
    },
    Definition {
        name: "max-streams",
        value_name: "COUNT",
        kind: Kind::Count { min: 1, max: 10_000_000 },
        default: None,
        example: "8000",
        heading: LIMITS,
        summary: "Keep at most this many streams open at a time",
        details: "Without it, as many as `max-connections`. A further one is answered with a stream \
                  that ends at once, so that an EventSource comes back later. Lower than \
                  `max-connections`, it leaves connections to give that answer.",
    },
    Definition {
        name: "max-streams-per-address",
        value_name: "COUNT",
        kind: Kind::Count { min: 1, max: 10_000_000 },
        default: None,
        example: "100",
        heading: LIMITS,
        summary: "Keep at most this many streams of one client address open at a time",
        details: "A further one is refused with 429. An IPv6 /64 counts as one address. Offices and \
                  mobile networks put many people behind one address. Behind a proxy this needs \
                  `trusted-proxy`, or all clients have the proxy's address.",
    },
    Definition {
        name: "max-streams-per-user",
        value_name: "COUNT",
        kind: Kind::Count { min: 1, max: 10_000_000 },
        default: None,
        example: "20",
        heading: LIMITS,
        summary: "Keep at most this many streams of one user open at a time",
        details: "A further one is refused with 429. Who is a user, access rules say.",
    },
    Definition {
        name: "max-publishes-per-address",
        value_name: "RATE",
        kind: Kind::Rate { off: true },
        default: Some("off"),
        example: "100/s",
        heading: LIMITS,
        summary: "Take at most this many events from one client address in this time",
        details: "`100/s`, `6000/m` and so on: so many can also come at once, after a pause. Every \
                  event of a batch and every channel counts; more is refused with 429 and \
                  `Retry-After`. A batch may go beyond the rate, and the client then waits longer.",
    },
    Definition {
        name: "max-publishes-per-user",
        value_name: "RATE",
        kind: Kind::Rate { off: true },
        default: Some("off"),
        example: "100/s",
        heading: LIMITS,
        summary: "Take at most this many events from one user in this time",
        details: "",
    },
    Definition {
        name: "max-failed-logins",
        value_name: "RATE",
        kind: Kind::Rate { off: true },
        default: Some("100/m"),
        example: "10/m",
        heading: LIMITS,
        summary: "Look at credentials from one client address until this many were wrong in this time",
        details: "After that all credentials from there are refused with 429 for a while.",
    },
    Definition {
        name: "max-channels-per-stream",
        value_name: "COUNT",
        kind: Kind::Count { min: 1, max: limits::CHANNELS_PER_STREAM_MAX },
        default: Some("100"),
        example: "10",
        heading: LIMITS,
        summary: "Let one stream listen to at most this many channels",
        details: "",
    },
    Definition {
        name: "max-body",
        value_name: "BYTES",
        kind: Kind::Bytes { min: 1 << 10, max: 64 << 20 },
        default: Some("8MiB"),
        example: "64KiB",
        heading: LIMITS,
        summary: "Refuse to publish a request body larger than this",
        details: "The data of one event is at most 8 MiB in any case; a larger body can only be a \
                  batch.",
    },
    Definition {
        name: "header-timeout",
        value_name: "DURATION",
        kind: Kind::Duration { min: SECOND, max: MINUTE.saturating_mul(5), off: false },
        default: Some("10s"),
        example: "5s",
        heading: LIMITS,
        summary: "Close a connection that does not finish the head of a request in this time",
        details: "",
    },
    Definition {
        name: "drain-timeout",
        value_name: "DURATION",
        kind: Kind::Duration { min: Duration::ZERO, max: MINUTE.saturating_mul(10), off: false },
        default: Some("10s"),
        example: "30s",
        heading: STOPPING,
        summary: "Give streams and requests this long to end when the server is told to stop",
        details: "SIGTERM and SIGINT tell it; a second signal stops it at once.",
    },
    Definition {
        name: "log",
        value_name: "FILTER",
        kind: Kind::LogFilter,
        default: Some("info"),
        example: "info,headwater=debug",
        heading: LOGS,
        summary: "Log from this level on: error, warn, info, debug, trace or off",
        details: "`TARGET=LEVEL`, after a comma, sets another level for one part of the program. \
                  Logs go to standard error.",
    },
    Definition {
        name: "log-format",
        value_name: "FORMAT",
        kind: Kind::Choice(&["text", "json"]),
        default: Some("text"),
        example: "json",
        heading: LOGS,
        summary: "Write logs for people or for programs: text or json",
        details: "",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_texts_fit_their_places() {
        for (at, definition) in DEFINITIONS.iter().enumerate() {
            let name = definition.name;
            assert!(DEFINITIONS[..at].iter().all(|earlier| earlier.name != name), "{name} twice");
            assert!(!definition.summary.ends_with('.'), "{name}: the summary has no full stop");
            let details = definition.details;
            assert!(details.is_empty() || details.ends_with('.'), "{name}: details are sentences");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{name}");
        }
    }
}
