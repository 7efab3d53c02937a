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
    summary: "Carry events through this Redis or Valkey",
    details: "Without it the broker in the program itself does, which connects no other node. \
                  Forms: `redis://USER:PASSWORD@HOST:PORT/DB`, `rediss://` for TLS, and \
                  `unix:///path/to/redis.sock?db=0&user=USER&pass=PASSWORD` (`redis+unix://` is the \
                  same). Special characters in a password are percent-encoded. The server starts \
                  without Redis and keeps trying. A command line can be read by every user of the \
                  machine: a URL with a password belongs in the environment or in the file.",
}];

pub(super) const HISTORY: &[Setting] = &[
    Setting {
        name: "data",
        value_name: "DIRECTORY",
        kind: Kind::Directory,
        default: None,
        example: "headwater-data",
        heading: HISTORY_HEADING,
        summary: "Keep the embedded broker's history in this directory, over restarts",
        details: "It is made if it is not there, and belongs to Headwater alone: a directory with \
                  other files in it is refused. What was acknowledged to a publisher is still there \
                  after the process was killed. Without it a restart forgets the history, and \
                  clients that come back are told. Redis keeps the history itself, so `data` and \
                  `redis` exclude each other.",
    },
    Setting {
        name: "retention",
        value_name: "RULE",
        kind: Kind::RetentionRules,
        default: None,
        example: "chat:* events=100 age=1h bytes=1MiB",
        heading: HISTORY_HEADING,
        summary: "Keep this much of the history of these channels",
        details: "A rule is a pattern, which is the name of a channel or the beginning of names and \
                  `*`, and what is kept: `events` (1 to 1000000), `age` (1s to 30d) and `bytes` (1KiB \
                  to 1GiB), or `off`, as in `logs:* off`. The first rule that fits a channel counts, \
                  `*` alone fits all, and there can be 100. What a rule does not say, and a channel \
                  that no rule fits, keeps 1000 events, 10 minutes and 8 MiB. The flag can be \
                  repeated, `;` stands between rules in the environment variable, and the file has a \
                  list of them.",
    },
];
