//! Settings of streams. Look here to add or change one.

use std::time::Duration;

use headwater::limits;

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
        summary: "Interval of heartbeat comments on an idle stream",
        details: "They keep proxies from closing the stream, which they do after 29 to 100 \
                  seconds, and detect clients that have vanished.",
    },
    Setting {
        name: "retry",
        value_name: "DURATION",
        kind: Kind::Duration { min: limits::RETRY_MIN, max: limits::RETRY_MAX, off: false },
        default: Some("2s"),
        example: "5s",
        heading: STREAMS,
        summary: "Reconnection delay for clients",
        details: "Each stream gets a slightly different delay, so that clients do not reconnect \
                  all at once.",
    },
    Setting {
        name: "linger",
        value_name: "DURATION",
        kind: Kind::Duration { min: Duration::ZERO, max: HOUR, off: false },
        default: Some("60s"),
        example: "2s",
        heading: STREAMS,
        summary: "How long a channel stays subscribed in the broker after its last subscriber has \
                  left",
        details: "A client that reconnects within this time costs Redis nothing.",
    },
    Setting {
        name: "max-lifetime",
        value_name: "DURATION",
        kind: Kind::Duration { min: SECOND, max: HOUR.saturating_mul(24 * 7), off: true },
        default: Some("off"),
        example: "1h",
        heading: STREAMS,
        summary: "Maximum lifetime of a stream",
        details: "The client then reconnects automatically. This moves load to new nodes over \
                  time.",
    },
    Setting {
        name: "send-timeout",
        value_name: "DURATION",
        kind: Kind::Duration { min: SECOND, max: MINUTE.saturating_mul(10), off: false },
        default: Some("30s"),
        example: "10s",
        heading: STREAMS,
        summary: "Disconnect a client that accepts no data for this long",
        details: "The time counts only while data is waiting to be sent.",
    },
    Setting {
        name: "queue-frames",
        value_name: "COUNT",
        kind: Kind::Count { min: 1, max: 65_536 },
        default: Some("16384"),
        example: "1024",
        heading: STREAMS,
        summary: "Maximum number of events queued for one stream; a slower client is disconnected",
        details: "",
    },
    Setting {
        name: "queue-bytes",
        value_name: "BYTES",
        kind: Kind::Bytes { min: 1 << 10, max: 64 << 20 },
        default: Some("1MiB"),
        example: "256KiB",
        heading: STREAMS,
        summary: "Maximum number of bytes queued for one stream; a slower client is disconnected",
        details: "A single event may be larger.",
    },
];
