//! Logs: what is written, in which form, to standard error. Look here for the filter's rules.

use std::env;
use std::fmt::{Display, Formatter, Result as FmtResult};
use std::io::{self, IsTerminal as _};
use std::str::FromStr;

use tracing::Level;
use tracing_subscriber::filter::{EnvFilter, FilterFn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{fmt, registry};

/// Filter directives, checked: a level, and `TARGET=LEVEL` for parts of the program, with commas
/// between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people: one line an event, coloured on a terminal.
    Text,
    /// For programs: one JSON object an event.
    Json,
}

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

impl FromStr for LogFilter {
    type Err = String;

    /// A lone word must be a level. The filter itself would take a misspelt level for the name of a
    /// target, and the log would be empty without a word about it.
    fn from_str(text: &str) -> Result<Self, String> {
        let directives: Vec<&str> = text.split(',').map(str::trim).collect();
        for directive in directives.iter().filter(|directive| !directive.contains(['=', '['])) {
            if !LEVELS.contains(&directive.to_ascii_lowercase().as_str()) {
                return Err(format!(
                    "`{directive}` is none of the levels {}; for one part of the program write \
                     TARGET=LEVEL",
                    LEVELS.join(", ")
                ));
            }
        }
        let text = directives.join(",");
        let checked = EnvFilter::builder().parse(&text);
        checked
            .map_err(|error| format!("it is not a filter like info,headwater=debug: {error}"))?;
        Ok(Self(text))
    }
}

impl Display for LogFilter {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        f.write_str(&self.0)
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("it is neither text nor json".to_owned()),
        }
    }
}

/// Starts logging for the whole process. Does nothing if somebody started it already, as tests do.
pub fn start(filter: &LogFilter, format: LogFormat) {
    let stderr_shows_colours =
        io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let wanted = EnvFilter::builder().parse_lossy(&filter.0);
    let layer = fmt::layer().with_writer(io::stderr).with_ansi(stderr_shows_colours);
    let registry = registry().with(wanted);
    let _started_before = match format {
        LogFormat::Text => registry.with(layer.compact().with_filter(discreet())).try_init(),
        LogFormat::Json => {
            registry.with(layer.json().flatten_event(true).with_filter(discreet())).try_init()
        }
    };
}

/// Libraries that see tokens, cookies and passwords, and may write what they see to their log.
const LIBRARIES: [&str; 8] =
    ["h2", "hyper", "hyper_util", "redis", "rustls", "tokio_rustls", "tokio_util", "tower"];

/// What is logged at all, whatever the filter says: of those libraries, nothing below `info`.
fn discreet() -> FilterFn {
    FilterFn::new(|metadata| {
        let library = metadata.target().split("::").next().unwrap_or_default();
        *metadata.level() <= Level::INFO || !LIBRARIES.contains(&library)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<(), &str>) {
        match (text.parse::<LogFilter>(), expected) {
            (Ok(filter), Ok(())) => assert_eq!(filter.to_string(), text.replace(' ', "")),
            (Err(message), Err(part)) => {
                assert!(message.contains(part), "{message:?} lacks {part:?}");
            }
            (got, expected) => panic!("{text:?}: got {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn filters_are_checked() {
        check("info", Ok(()));
        check("OFF", Ok(()));
        check("warn, headwater=debug", Ok(()));
        check("headwater::broker=trace", Ok(()));
        check("inof", Err("`inof` is none of the levels error, warn"));
        check("info,headwater", Err("write TARGET=LEVEL"));
        check("info,,warn", Err("`` is none"));
        check("headwater=loud", Err("not a filter"));
    }
}
