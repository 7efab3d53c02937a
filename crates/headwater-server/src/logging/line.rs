//! One line of the log, as text or JSON. Look here for its form, and for what nothing in an event
//! can do to it.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::floods::Floods;
use crate::printable::Printable;
use crate::settings::LogFormat;

/// Writes events as lines. Every text passes through [`Printable`].
pub(super) struct Line {
    format: LogFormat,
    floods: Floods,
}

impl Line {
    pub(super) fn new(format: LogFormat) -> Self {
        Self { format, floods: Floods::default() }
    }
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        // Nothing written is no line.
        let Some(suppressed) = self.floods.admit(metadata) else { return Ok(()) };
        let mut values = Values::default();
        event.record(&mut values);
        if suppressed > 0 {
            values.fields.push(("suppressed", suppressed.into()));
        }
        let target = values.target.as_deref().unwrap_or_else(|| metadata.target());
        match self.format {
            LogFormat::Text => text(&mut writer, *metadata.level(), target, &values),
            LogFormat::Json => json(&mut writer, *metadata.level(), target, &values),
        }
    }
}

/// What an event says.
#[derive(Default)]
struct Values {
    /// Where an event of the crate `log` is from, which has no place of its own.
    target: Option<String>,
    message: Option<String>,
    fields: Vec<(&'static str, Value)>,
}

impl Values {
    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = Some(text),
            ("log.target", Value::String(text)) => self.target = Some(text),
            (name, _) if name.starts_with("log.") => {}
            (name, value) => self.fields.push((name, value)),
        }
    }

    fn add_text(&mut self, field: &Field, text: fmt::Arguments<'_>) {
        let mut printed = String::new();
        // Fails only if the value's own formatting does.
        let _ = Printable::new(&mut printed).write_fmt(text);
        self.add(field, Value::String(printed));
    }
}

impl Visit for Values {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add_text(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add_text(field, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value.into());
    }
}

fn text(writer: &mut Writer<'_>, level: Level, target: &str, values: &Values) -> fmt::Result {
    let dim = Style { code: "2", is_on: writer.has_ansi_escapes() };
    let code = match level {
        Level::ERROR => "31",
        Level::WARN => "33",
        Level::INFO => "32",
        Level::DEBUG => "34",
        Level::TRACE => "35",
    };
    let level = Style { code, ..dim }.of(format!("{:>5}", level.as_str()));
    write!(writer, "{} {level} {}", dim.of(time()?), dim.of(format!("{target}:")))?;
    if let Some(message) = &values.message {
        write!(writer, " {message}")?;
    }
    for (name, value) in &values.fields {
        write!(writer, " {name}{}", dim.of("="))?;
        match value {
            // Where it ends must be seen.
            Value::String(text) if text.is_empty() || text.contains([' ', '"', '=']) => {
                write!(writer, "\"{}\"", text.replace('"', "\\\""))?;
            }
            Value::String(text) => write!(writer, "{text}")?,
            value => write!(writer, "{value}")?,
        }
    }
    writeln!(writer)
}

fn json(writer: &mut Writer<'_>, level: Level, target: &str, values: &Values) -> fmt::Result {
    write!(writer, "{{\"timestamp\":\"{}\",\"level\":\"{level}\"", time()?)?;
    if let Some(message) = &values.message {
        write!(writer, ",\"message\":{}", Value::from(message.as_str()))?;
    }
    for (name, value) in &values.fields {
        write!(writer, ",{}:{value}", Value::from(*name))?;
    }
    writeln!(writer, ",\"target\":{}}}", Value::from(target))
}

fn time() -> Result<String, fmt::Error> {
    let mut time = String::new();
    SystemTime.format_time(&mut Writer::new(&mut time))?;
    Ok(time)
}

/// A style of a terminal, if it has any.
#[derive(Clone, Copy)]
struct Style {
    code: &'static str,
    is_on: bool,
}

impl Style {
    fn of<'a>(self, text: impl Into<Cow<'a, str>>) -> Cow<'a, str> {
        let text = text.into();
        if self.is_on { format!("\u{1b}[{}m{text}\u{1b}[0m", self.code).into() } else { text }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::{fmt, registry};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written of what `log` logs.
    fn written(format: LogFormat, log: impl FnOnce()) -> String {
        let written = Written::default();
        let writer = written.clone();
        let layer = fmt::layer()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .event_format(Line::new(format));
        tracing::subscriber::with_default(registry().with(layer), log);
        String::from_utf8(written.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn nothing_that_is_logged_makes_lines_of_its_own() {
        let evil = "no\n2030-01-01T00:00:00Z  INFO forged: x\r\u{1b}[2J\u{85}\u{2028}\0\u{7f}";
        let log = || {
            tracing::info!("{evil}");
            tracing::info!(evil, "a");
            tracing::info!(shown = %evil, "b");
            tracing::info!(debugged = ?evil, "c");
            tracing::info!(error = &io::Error::other(evil) as &dyn std::error::Error, "d");
            tracing::info!("{}", "x".repeat(1 << 20));
            tracing::info!(bytes = 7_u64, is_good = true, ratio = 0.5, "e");
        };
        for format in [LogFormat::Text, LogFormat::Json] {
            let text = written(format, log);
            assert_eq!(text.lines().count(), 7, "{text}");
            let is_control = |c: char| (c.is_control() && c != '\n') || c == '\u{2028}';
            assert!(!text.contains(is_control), "{text:?}");
            assert!(text.lines().all(|line| line.len() < 3_000), "{text}");
            for line in text.lines() {
                let parsed = serde_json::from_str::<Value>(line);
                assert_eq!(parsed.is_ok(), format == LogFormat::Json, "{line}");
            }
        }
        let last = written(LogFormat::Text, log).lines().last().unwrap().to_owned();
        assert!(
            last.ends_with(
                "headwater_server::logging::line::tests: e bytes=7 is_good=true \
             ratio=0.5"
            ),
            "{last}"
        );
    }

    #[test]
    fn what_is_repeated_is_counted() {
        let flood = || (0..100).for_each(|number| tracing::warn!(number, "the same"));
        let text = written(LogFormat::Text, flood);
        assert_eq!(text.lines().count(), crate::limits::LOG_LINES_MAX as usize, "{text}");
        let all = || (0..100).for_each(|number| tracing::debug!(number, "asked for"));
        assert_eq!(written(LogFormat::Json, all).lines().count(), 100);
    }
}
