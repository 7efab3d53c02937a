//! Logs to standard error. Look here for what is never logged.

mod floods;
mod line;

use std::env;
use std::io::{self, IsTerminal as _};

use tracing::Level;
use tracing_subscriber::filter::{EnvFilter, FilterFn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{fmt, registry};

use crate::settings::{LogFormat, LogSettings};
use line::Line;

/// Starts logging for the whole process. Does nothing if it was started already, as in tests.
pub(crate) fn start(settings: &LogSettings) {
    let stderr_shows_colours =
        io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let wanted = EnvFilter::builder().parse_lossy(settings.filter.to_string());
    let is_text = settings.format == LogFormat::Text;
    let layer = fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(is_text && stderr_shows_colours)
        .event_format(Line::new(settings.format));
    let _started_before = registry().with(wanted).with(layer.with_filter(discreet())).try_init();
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
