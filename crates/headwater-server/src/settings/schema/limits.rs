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
        summary: "Give slow clients only the newest event of these channels",
        details: "For values of which only the last counts. On every other channel a client that is too \
                  slow loses its stream, and gets what it missed when it comes back. A pattern is the \
                  name of a channel or the beginning of names and `*`, and there can be 100. The flag \
                  can be repeated, `;` stands between patterns in the environment variable, and the \
                  file has a list of them.",
    },
    Setting {
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
    Setting {
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
    Setting {
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
    Setting {
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
    Setting {
        name: "max-streams-per-user",
        value_name: "COUNT",
        kind: Kind::Count { min: 1, max: 10_000_000 },
        default: None,
        example: "20",
        heading: LIMITS,
        summary: "Keep at most this many streams of one user open at a time",
        details: "A further one is refused with 429. Who is a user, access rules say.",
    },
    Setting {
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
    Setting {
        name: "max-publishes-per-user",
        value_name: "RATE",
        kind: Kind::Rate { off: true },
        default: Some("off"),
        example: "100/s",
        heading: LIMITS,
        summary: "Take at most this many events from one user in this time",
        details: "",
    },
    Setting {
        name: "max-failed-logins",
        value_name: "RATE",
        kind: Kind::Rate { off: true },
        default: Some("100/m"),
        example: "10/m",
        heading: LIMITS,
        summary: "Look at credentials from one client address until this many were wrong in this time",
        details: "After that all credentials from there are refused with 429 for a while.",
    },
    Setting {
        name: "max-channels-per-stream",
        value_name: "COUNT",
        kind: Kind::Count { min: 1, max: limits::CHANNELS_PER_STREAM_MAX },
        default: Some("100"),
        example: "10",
        heading: LIMITS,
        summary: "Let one stream listen to at most this many channels",
        details: "",
    },
    Setting {
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
    Setting {
        name: "header-timeout",
        value_name: "DURATION",
        kind: Kind::Duration { min: SECOND, max: MINUTE.saturating_mul(5), off: false },
        default: Some("10s"),
        example: "5s",
        heading: LIMITS,
        summary: "Close a connection that does not finish the head of a request in this time",
        details: "",
    },
];
