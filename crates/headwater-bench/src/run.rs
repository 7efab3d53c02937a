//! `headwater bench`: from the options to the report. Look here for the order of its steps.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::error::{Context as _, Error};
use crate::generator::WorkerCommand;
use crate::options::BenchOptions;
use crate::process;
use crate::publisher::{Amount, Load, Pace, PublishTarget};
use crate::report::{MemoryReport, OpeningReport, Report, thousands};
use crate::server::Server;
use crate::session::Session;
use crate::target::{HttpTarget, RedisTarget};

/// How long the memory may take to settle after the streams are open.
const SETTLE_MEMORY: Duration = Duration::from_secs(1);

/// The outcome of a benchmark.
pub struct Outcome {
    /// The report, as a table or JSON.
    pub text: String,
    /// Why the benchmark counts as failed, if it does.
    pub fault: Option<String>,
}

/// Runs a benchmark. The running program is also started as the server to measure, and as the
/// generator processes.
///
/// # Errors
/// When the options are invalid, or the benchmark cannot be completed.
pub fn run(options: &BenchOptions) -> Result<Outcome, Error> {
    let load = options.load()?;
    let redis = options.redis.as_deref().map(RedisTarget::from_url).transpose()?;
    let command = WorkerCommand::this_program(&["bench", "--worker"])?;
    let bar = Bar::new();
    let (server, target) = if let Some(url) = &options.url {
        (None, HttpTarget::from_url(url)?)
    } else {
        bar.message("starting a server");
        let redis = options.redis.as_deref();
        let server = Server::start(&command.program, options.streams(), redis)?;
        let target = HttpTarget::headwater(vec![server.address()]);
        (Some(server), target)
    };
    let (stream_path, publish_path) =
        (options.stream_path.as_deref(), options.publish_path.as_deref());
    let target = target.with_paths(stream_path, publish_path)?;
    let pids = match &server {
        Some(server) if process::IS_SUPPORTED => vec![server.pid()],
        Some(_) => Vec::new(),
        None => options.pid.clone(),
    };
    let publish_to =
        redis.map_or_else(|| PublishTarget::Http(target.clone()), PublishTarget::Redis);
    let (streams, channels) = (options.streams(), options.channels());
    let session = Session::start(&command, &target, publish_to, streams, channels, &pids)?;
    let report = measure(session, options, &load, &bar)?;
    bar.clear();
    let text = if options.json {
        serde_json::to_string(&report).context("the report")? + "\n"
    } else {
        report.table()
    };
    Ok(Outcome { text, fault: report.fault() })
}

fn measure(
    mut session: Session,
    options: &BenchOptions,
    load: &Load,
    bar: &Bar,
) -> Result<Report, Error> {
    bar.message(&format!("opening {} streams", thousands(options.streams)));
    let before = session.memory()?;
    let opening = session.open()?;
    if opening.open == 0 {
        return Err(nothing_opened(&opening));
    }
    let idle = session.settled_memory(SETTLE_MEMORY)?;
    bar.start(load);
    let delivery = session.load(load, |progress| {
        bar.advance(progress.published, progress.streams.received);
    })?;
    let after = session.memory()?;
    let memory = match (before, idle, after) {
        (Some(before), Some(idle), Some(after)) => Some(MemoryReport { before, idle, after }),
        _ => None,
    };
    Ok(Report { load: describe(options, load), opening, memory, delivery })
}

fn nothing_opened(opening: &OpeningReport) -> Error {
    let why = opening.why.as_deref().unwrap_or("unknown reason");
    Error::Failed(format!("no stream could be opened: {why}"))
}

fn describe(options: &BenchOptions, load: &Load) -> String {
    let plural = |count: u64, noun: &str| {
        format!("{} {noun}{}", thousands(count), if count == 1 { "" } else { "s" })
    };
    let pace = match load.pace {
        Pace::PerSecond(rate) => format!("{rate} events/s"),
        Pace::AsAnswered => format!("as fast as answered, {} in flight,", load.in_flight),
    };
    format!(
        "{} on {}, {pace} of {} B {} for {} s",
        plural(options.streams, "stream"),
        plural(options.channels, "channel"),
        load.event_bytes,
        if options.redis.is_some() { "by Redis PUBLISH" } else { "over HTTP" },
        options.duration,
    )
}

/// A progress bar on a terminal; nothing elsewhere.
struct Bar {
    bar: ProgressBar,
}

impl Bar {
    fn new() -> Self {
        // It is hidden when standard error is not a terminal.
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner} {msg}").expect("a valid template");
        bar.set_style(style);
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar }
    }

    fn message(&self, text: &str) {
        self.bar.set_message(text.to_owned());
    }

    fn start(&self, load: &Load) {
        let length = match load.amount {
            Amount::Events(events) => events,
            Amount::Time(time) => match load.pace {
                Pace::PerSecond(rate) => (rate * time.as_secs_f64()) as u64,
                // The number of events is unknown.
                Pace::AsAnswered => return,
            },
        };
        let template = "{spinner} [{bar:30}] {pos} of {len} events, {msg}";
        let style = ProgressStyle::with_template(template).expect("a valid template");
        self.bar.set_style(style.progress_chars("=> "));
        self.bar.set_length(length);
    }

    fn advance(&self, published: u64, received: u64) {
        self.bar.set_position(published);
        self.message(&format!("{} deliveries", thousands(received)));
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
