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
    details: "Without it the embedded broker carries them, which connects no other node. \
                  Forms: `redis://USER:PASSWORD@HOST:PORT/DB`, `rediss://` for TLS, and \
                  `unix:///path/to/redis.sock?db=0&user=USER&pass=PASSWORD` (`redis+unix://` is \
                  the same). Special characters in a password are percent-encoded. The server \
                  starts without Redis and keeps trying. Every user of the machine can read a \
                  command line: a URL with a password belongs in the environment or in the file.",
}];

pub(super) const HISTORY: &[Setting] = &[
    Setting {
        name: "data",
        value_name: "DIRECTORY",
        kind: Kind::Directory,
        default: None,
        example: "headwater-data",
        heading: HISTORY_HEADING,
        summary: "Directory in which the embedded broker retains its history over restarts",
        details: "It is made if it does not exist, and belongs to Headwater alone: a directory \
                  with other files in it is rejected. Events that were acknowledged to a publisher \
                  survive a crash, `kill -9` included. Without it a restart drops the history, and \
                  clients that reconnect receive a gap event. Redis retains the history itself, so \
                  `data` and `redis` exclude each other.",
    },
    Setting {
        name: "retention",
        value_name: "RULE",
        kind: Kind::RetentionRules,
        default: None,
        example: "chat:* events=100 age=1h bytes=1MiB",
        heading: HISTORY_HEADING,
        summary: "Retention rules: how much history which channels keep",
        details: "A rule is a pattern, which is the name of a channel or the beginning of names \
                  and `*`, and what is retained: `events` (1 to 1000000), `age` (1s to 30d) and \
                  `bytes` (1KiB to 1GiB), or `off`, as in `logs:* off`. The first rule that \
                  matches a channel counts, `*` alone matches all, and there can be 100. What a \
                  rule leaves out, and a channel that no rule matches, retains 1000 events, 10 \
                  minutes and 8 MiB. The flag can be repeated, `;` stands between rules in the \
                  environment variable, and the file has a list of them.",
    },
];
