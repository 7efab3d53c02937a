//! Settings of logs. Look here to add or change one.

use super::setting::{Kind, Setting};

const LOGS: &str = "Logs";

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "log",
        value_name: "FILTER",
        kind: Kind::LogFilter,
        default: Some("info"),
        example: "info,headwater=debug",
        heading: LOGS,
        summary: "Lowest level that is logged: error, warn, info, debug, trace or off",
        details: "`TARGET=LEVEL`, after a comma, sets another level for one part of the program. \
                  Logs go to standard error.",
    },
    Setting {
        name: "log-format",
        value_name: "FORMAT",
        kind: Kind::Choice(&["text", "json"]),
        default: Some("text"),
        example: "json",
        heading: LOGS,
        summary: "Format of logs: text for people, json for programs",
        details: "",
    },
];
