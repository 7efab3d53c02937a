//! Settings of what carries and retains events. Look here to add or change one.

use super::server::WHERE;
use super::setting::{Kind, Setting};

const HISTORY_HEADING: &str = "History";

pub(super) const CONNECTION: &[Setting] = &[Setting {
    name: "redis",
    value_name: "URL",
    kind: Kind::RedisUrl,
    default: None,
    example: "redis://127.0.0.1:6379",
    heading: WHERE,
    summary: "Redis or Valkey that carries events",
    details: "Without it, the embedded broker carries them, on this node only. Forms: \
              `redis://USER:PASSWORD@HOST:PORT/DB`, `rediss://` for TLS, and \
              `unix:///path/to/redis.sock?db=0&user=USER&pass=PASSWORD` (`redis+unix://` is the \
              same). Special characters in a password are percent-encoded. The server starts even \
              if Redis is unavailable, and keeps trying. All users of the machine can read command \
              lines: put a URL with a password in the environment or in the file.",
}];

pub(super) const HISTORY: &[Setting] = &[
    Setting {
        name: "data",
        value_name: "DIRECTORY",
        kind: Kind::Directory,
        default: None,
        example: "headwater-data",
        heading: HISTORY_HEADING,
        summary: "Directory in which the embedded broker retains its history across restarts",
        details: "It is created if it does not exist, and must contain nothing else. Acknowledged \
                  events survive a crash, even `kill -9`. Without it, a restart discards the \
                  history, and clients that reconnect receive a gap event. It cannot be combined \
                  with `redis`, where Redis stores the history.",
    },
    Setting {
        name: "retention",
        value_name: "RULE",
        kind: Kind::RetentionRules,
        default: None,
        example: "chat:* events=100 age=1h bytes=1MiB",
        heading: HISTORY_HEADING,
        summary: "Retention rules: how much history channels retain",
        details: "A rule is a pattern, which is a channel name, or a prefix and `*`, followed by \
                  what is retained: `events` (1 to 1000000), `age` (1s to 30d) and `bytes` (1KiB \
                  to 1GiB), or `off`, as in `logs:* off`. The first rule that matches a channel \
                  applies, `*` alone matches all, and there can be 100 rules. What a rule omits, \
                  and a channel that no rule matches, gets 1000 events, 10 minutes and 8 MiB. The \
                  flag can be repeated, `;` stands between rules in the environment variable, and \
                  the file has a list of them.",
    },
];
