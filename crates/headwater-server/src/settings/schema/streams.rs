//! Settings of streams. Look here to add or change one.

use std::time::Duration;

use super::setting::{HOUR, Kind, MINUTE, SECOND, Setting};

const STREAMS: &str = "Streams";

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
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
    Setting {
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
    Setting {
        name: "linger",
        value_name: "DURATION",
        kind: Kind::Duration { min: Duration::ZERO, max: HOUR, off: false },
        default: Some("60s"),
        example: "2s",
        heading: STREAMS,
        summary: "Stay subscribed to a channel for this long after its last listener left",
        details: "A client that reconnects within this time costs Redis nothing.",
    },
    Setting {
        name: "max-lifetime",
        value_name: "DURATION",
        kind: Kind::Duration { min: SECOND, max: HOUR.saturating_mul(24 * 7), off: true },
        default: Some("off"),
        example: "1h",
        heading: STREAMS,
        summary: "End a stream after this long",
        details: "Its client reconnects by itself. Useful where load should move to new nodes in time.",
    },
    Setting {
        name: "send-timeout",
        value_name: "DURATION",
        kind: Kind::Duration { min: SECOND, max: MINUTE.saturating_mul(10), off: false },
        default: Some("30s"),
        example: "10s",
        heading: STREAMS,
        summary: "End a stream whose client took nothing for this long while something was waiting",
        details: "",
    },
    Setting {
        name: "queue-frames",
        value_name: "COUNT",
        kind: Kind::Count { min: 1, max: 65_536 },
        default: Some("16384"),
        example: "1024",
        heading: STREAMS,
        summary: "End a stream when more events than this are waiting for its client",
        details: "",
    },
    Setting {
        name: "queue-bytes",
        value_name: "BYTES",
        kind: Kind::Bytes { min: 1 << 10, max: 64 << 20 },
        default: Some("1MiB"),
        example: "256KiB",
        heading: STREAMS,
        summary: "End a stream when more bytes than this are waiting for its client",
        details: "One event alone may be larger.",
    },
];
