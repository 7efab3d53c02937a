//! Settings of limits. Look here to add or change one.

use headwater::limits;

use super::setting::{Kind, MINUTE, SECOND, Setting};

const LIMITS: &str = "Limits";

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "latest-only",
        value_name: "PATTERN",
        kind: Kind::ChannelPatterns,
        default: None,
        example: "prices:*",
        heading: LIMITS,
        summary: "Channels whose slow clients receive only the newest event",
        details: "For values of which only the latest matters. On every other channel a client \
                  that is too slow is disconnected, and receives what it missed when it \
                  reconnects. A pattern is a channel name, or a prefix and `*`, and there can be \
                  100. The flag can be repeated, `;` stands between patterns in the environment \
                  variable, and the file has a list of them.",
    },
    Setting {
        name: "shards",
        value_name: "COUNT",
        kind: Kind::Count { min: 0, max: limits::SHARDS_MAX },
        default: None,
        example: "4",
        heading: LIMITS,
        summary: "Number of I/O threads for streams",
        details: "Without it, one per core. With 0, or over HTTP/2, each stream has its own task \
                  and buffers, which cost some 20 times the memory; see docs/engine.md.",
    },
    Setting {
        name: "max-connections",
        value_name: "COUNT",
        kind: Kind::Count { min: 1, max: 10_000_000 },
        default: Some("10000"),
        example: "50000",
        heading: LIMITS,
        summary: "Maximum number of connections",
        details: "Each needs a file descriptor: `ulimit -n` (in systemd `LimitNOFILE=`) must be \
                  higher than this by about 100.",
    },
    Setting {
        name: "max-streams",
        value_name: "COUNT",
        kind: Kind::Count { min: 1, max: 10_000_000 },
        default: None,
        example: "8000",
        heading: LIMITS,
        summary: "Maximum number of open streams",
        details: "Without it, as many as `max-connections`. Further requests get a stream that \
                  ends at once, so that an EventSource reconnects later. A value below \
                  `max-connections` leaves connections for that response.",
    },
    Setting {
        name: "max-streams-per-address",
        value_name: "COUNT",
        kind: Kind::Count { min: 1, max: 10_000_000 },
        default: None,
        example: "100",
        heading: LIMITS,
        summary: "Maximum number of open streams per client address",
        details: "Further ones are rejected with 429. An IPv6 /64 counts as one address, and \
                  a /48 as eight. Offices \
                  and mobile networks put many people behind one address. Behind a proxy this \
                  needs `trusted-proxy`; otherwise all clients have the proxy's address.",
    },
    Setting {
        name: "max-streams-per-user",
        value_name: "COUNT",
        kind: Kind::Count { min: 1, max: 10_000_000 },
        default: None,
        example: "20",
        heading: LIMITS,
        summary: "Maximum number of open streams per user",
        details: "Further ones are rejected with 429. Access rules determine the user.",
    },
    Setting {
        name: "max-publishes-per-address",
        value_name: "RATE",
        kind: Kind::Rate { off: true },
        default: Some("off"),
        example: "100/s",
        heading: LIMITS,
        summary: "Maximum rate of events that one client address publishes",
        details: "For example `100/s` or `6000/m`; as many may also arrive at once, after a pause. \
                  Each event of a batch and each channel counts; excess is rejected with 429 and \
                  `Retry-After`. A batch may exceed the rate, and the client then waits longer.",
    },
    Setting {
        name: "max-publishes-per-user",
        value_name: "RATE",
        kind: Kind::Rate { off: true },
        default: Some("off"),
        example: "100/s",
        heading: LIMITS,
        summary: "Maximum rate of events that one user publishes",
        details: "",
    },
    Setting {
        name: "max-failed-logins",
        value_name: "RATE",
        kind: Kind::Rate { off: true },
        default: Some("100/m"),
        example: "10/m",
        heading: LIMITS,
        summary: "Maximum rate of invalid credentials from one client address",
        details: "Beyond it, the application is asked only about credentials from that address \
                  that it accepted lately; others get 429. A token is verified in any case. The \
                  rate also applies to one credential from any address. See docs/limits.md.",
    },
    Setting {
        name: "max-channels-per-stream",
        value_name: "COUNT",
        kind: Kind::Count { min: 1, max: limits::CHANNELS_PER_STREAM_MAX },
        default: Some("100"),
        example: "10",
        heading: LIMITS,
        summary: "Maximum number of channels on one stream",
        details: "",
    },
    Setting {
        name: "memory",
        value_name: "BYTES",
        kind: Kind::Bytes { min: limits::BUDGET_BYTES_MIN, max: 1 << 46 },
        default: None,
        example: "512MiB",
        heading: LIMITS,
        summary: "Memory for what the server keeps: events, channels, bodies and others",
        details: "Without it, 70 % of the memory of its cgroup or, if that has no limit, of the \
                  machine. It is divided into shares; when one is full, its oldest goes, or \
                  requests are rejected with 503. A body of maximum size counts three times, and \
                  must fit three quarters of a tenth. See docs/limits.md.",
    },
    Setting {
        name: "max-body",
        value_name: "BYTES",
        kind: Kind::Bytes { min: 1 << 10, max: 64 << 20 },
        default: Some("8MiB"),
        example: "64KiB",
        heading: LIMITS,
        summary: "Maximum size of a request body",
        details: "The data of one event is at most 8 MiB in any case; a larger body can only be a \
                  batch.",
    },
    Setting {
        name: "header-timeout",
        value_name: "DURATION",
        kind: Kind::Duration { min: SECOND, max: MINUTE.saturating_mul(5), off: false },
        default: Some("10s"),
        example: "5s",
        heading: LIMITS,
        summary: "Timeout for the head of a request",
        details: "The connection is closed when it expires.",
    },
];
