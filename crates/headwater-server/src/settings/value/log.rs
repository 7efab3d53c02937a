//! What is logged, and in which form. Look here for the rules of the filter.

use std::fmt::{Display, Formatter, Result as FmtResult};
use std::str::FromStr;

use tracing_subscriber::filter::EnvFilter;

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

    /// A lone word must be a level. The filter itself would interpret a misspelt level as a target,
    /// and the log would be silently empty.
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
