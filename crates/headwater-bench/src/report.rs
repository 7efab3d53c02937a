//! The report of a benchmark: a table for people, JSON for programs. Look here for what each figure
//! means.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::control::{Counted, new_histogram};
use crate::generator::Opened;
use crate::process::Memory;
use crate::publisher::Published;

/// All figures of one benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The load, in words.
    pub load: String,
    /// The opening of the streams.
    pub opening: OpeningReport,
    /// Memory of the measured processes; `None` if no process was measured.
    pub memory: Option<MemoryReport>,
    /// What was published and delivered.
    pub delivery: DeliveryReport,
}

/// The opening of the streams.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpeningReport {
    /// Streams that were opened.
    pub open: usize,
    /// Streams that could not be opened.
    pub failed: usize,
    /// Why the first of them failed.
    pub why: Option<String>,
    /// The duration in seconds.
    pub seconds: f64,
    /// Processor time of the measured processes per stream, in nanoseconds.
    pub cpu_ns_per_stream: Option<f64>,
}

/// Memory of the measured processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryReport {
    /// Before the first stream.
    pub before: Memory,
    /// With all streams open, before the first event.
    pub idle: Memory,
    /// After the events.
    pub after: Memory,
}

/// What was published and delivered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeliveryReport {
    /// Events that were published.
    pub published: u64,
    /// Events that the server rejected.
    pub refused: u64,
    /// Why the first of them was rejected.
    pub why: Option<String>,
    /// Expected deliveries: one per event and stream of its channel.
    pub expected: u64,
    /// Deliveries, without duplicates.
    pub received: u64,
    /// Deliveries that did not arrive in time.
    pub missing: u64,
    /// Repeated deliveries of an event to a stream.
    pub duplicates: u64,
    /// Events on the streams that this benchmark did not publish.
    pub foreign: u64,
    /// Streams that the server ended.
    pub cut: usize,
    /// From the first event to the last delivery.
    pub seconds: f64,
    /// Processor time of the measured processes per delivery, in nanoseconds.
    pub cpu_ns_per_delivery: Option<f64>,
    /// Processor time of the measured processes divided by `seconds`: 1 is a full core.
    pub cores: Option<f64>,
    /// Processor time of the generator per delivery, in nanoseconds: the cost of measuring.
    pub generator_cpu_ns_per_delivery: Option<f64>,
    /// The latency from the publisher to the stream.
    pub latency: Latency,
}

/// Percentiles of the latency, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// The median.
    pub p50_ns: u64,
    /// The 99th percentile.
    pub p99_ns: u64,
    /// The 99.9th percentile.
    pub p999_ns: u64,
    /// The maximum.
    pub max_ns: u64,
}

impl OpeningReport {
    /// A report of what the generator counted, and the processor time of the measured processes.
    pub fn new(opened: &Opened, cpu_ns: Option<u64>) -> Self {
        Self {
            open: opened.open,
            failed: opened.failed,
            why: opened.why.clone(),
            seconds: opened.took.as_secs_f64(),
            cpu_ns_per_stream: cpu_ns.and_then(|cpu_ns| per(cpu_ns, opened.open as u64)),
        }
    }
}

impl MemoryReport {
    /// Bytes per stream while idle, and after the events, from the proportional set size.
    pub fn per_stream(&self, streams: usize) -> (f64, f64) {
        let added = |memory: Memory| {
            let bytes = memory.pss_bytes as f64 - self.before.pss_bytes as f64;
            bytes / streams.max(1) as f64
        };
        (added(self.idle), added(self.after))
    }
}

impl DeliveryReport {
    /// A report of one load: what was published, the counts after and before the load, and the
    /// processor time of the measured processes.
    pub(crate) fn new(
        published: &Published,
        counted: &Counted,
        before: &Counted,
        cpu_ns: Option<u64>,
    ) -> Self {
        let expected = counted.expected - before.expected;
        let received = counted.received - before.received;
        let took_ns = counted.last_at_ns.saturating_sub(published.began_at_ns);
        let seconds = (took_ns as f64 / 1e9).max(published.took.as_secs_f64());
        Self {
            published: published.events,
            refused: published.rejected,
            why: published.why.clone(),
            expected,
            received,
            missing: expected.saturating_sub(received),
            duplicates: counted.duplicates - before.duplicates,
            foreign: counted.foreign - before.foreign,
            cut: counted.cut - before.cut,
            seconds,
            cpu_ns_per_delivery: cpu_ns.and_then(|cpu_ns| per(cpu_ns, received)),
            cores: cpu_ns.map(|cpu_ns| cpu_ns as f64 / 1e9 / seconds),
            generator_cpu_ns_per_delivery: None,
            latency: Latency::of(&counted.latencies),
        }
    }

    /// Adds the processor time of the generator.
    pub(crate) fn with_generator(mut self, cpu_ns: Option<u64>) -> Self {
        self.generator_cpu_ns_per_delivery = cpu_ns.and_then(|cpu_ns| per(cpu_ns, self.received));
        self
    }

    /// Deliveries per second.
    pub fn rate(&self) -> f64 {
        if self.received == 0 { 0.0 } else { self.received as f64 / self.seconds }
    }

    /// What is wrong with the deliveries, if anything.
    pub fn fault(&self) -> Option<String> {
        let mut faults = Vec::new();
        for (count, what) in [
            (self.refused, "events rejected"),
            (self.missing, "deliveries missing"),
            (self.duplicates, "duplicates"),
            (self.cut as u64, "streams ended by the server"),
        ] {
            if count > 0 {
                faults.push(format!("{} {what}", thousands(count)));
            }
        }
        (!faults.is_empty()).then(|| faults.join(", "))
    }
}

impl Latency {
    fn of(recorded: &[(u64, u64)]) -> Self {
        let mut histogram: Histogram<u64> = new_histogram();
        for (value, count) in recorded {
            histogram.saturating_record_n(*value, *count);
        }
        if histogram.is_empty() {
            return Self::default();
        }
        Self {
            p50_ns: histogram.value_at_quantile(0.5),
            p99_ns: histogram.value_at_quantile(0.99),
            p999_ns: histogram.value_at_quantile(0.999),
            max_ns: histogram.max(),
        }
    }
}

impl Report {
    /// The report as a table.
    pub fn table(&self) -> String {
        let mut text = format!("{}\n\n", self.load);
        let mut line = |name: &str, what: String| text += &format!("{name:<12}{what}\n");
        line("opening", self.opening.line());
        if let Some(memory) = &self.memory {
            let (idle, after) = memory.per_stream(self.opening.open);
            line(
                "memory",
                format!(
                    "{} per stream idle, {} after the events; {} in total",
                    bytes(idle),
                    bytes(after),
                    bytes(memory.after.pss_bytes as f64)
                ),
            );
        }
        let delivery = &self.delivery;
        line(
            "published",
            format!(
                "{} events, {} rejected",
                thousands(delivery.published),
                thousands(delivery.refused)
            ),
        );
        line(
            "delivered",
            format!(
                "{} of {}, {} missing, {} duplicate, {} streams cut",
                thousands(delivery.received),
                thousands(delivery.expected),
                thousands(delivery.missing),
                thousands(delivery.duplicates),
                thousands(delivery.cut as u64),
            ),
        );
        line(
            "rate",
            format!("{} deliveries/s for {:.2} s", whole(delivery.rate()), delivery.seconds),
        );
        if let (Some(ns), Some(cores)) = (delivery.cpu_ns_per_delivery, delivery.cores) {
            line(
                "processor",
                format!("{} per delivery, {:.0} % of a core", time(ns), 100.0 * cores),
            );
        }
        line("latency", delivery.latency.line());
        text
    }

    /// What is wrong, if anything.
    pub fn fault(&self) -> Option<String> {
        if self.opening.failed > 0 {
            let why = self.opening.why.as_deref().unwrap_or("unknown reason");
            let failed = thousands(self.opening.failed as u64);
            return Some(format!("{failed} streams could not be opened: {why}"));
        }
        let fault = self.delivery.fault()?;
        Some(match &self.delivery.why {
            Some(why) => format!("{fault}; the first rejection: {why}"),
            None => fault,
        })
    }
}

impl OpeningReport {
    fn line(&self) -> String {
        let mut line = format!("{} streams in {:.2} s", thousands(self.open as u64), self.seconds);
        if let Some(ns) = self.cpu_ns_per_stream {
            line += &format!(", {} of processor time each", time(ns));
        }
        if self.failed > 0 {
            line += &format!(", {} failed", thousands(self.failed as u64));
        }
        line
    }
}

impl Latency {
    fn line(&self) -> String {
        let [p50, p99, p999, max] =
            [self.p50_ns, self.p99_ns, self.p999_ns, self.max_ns].map(|ns| time(ns as f64));
        format!("p50 {p50}, p99 {p99}, p99.9 {p999}, max {max}")
    }
}

fn per(cpu_ns: u64, count: u64) -> Option<f64> {
    (count > 0).then(|| cpu_ns as f64 / count as f64)
}

/// 1234567 as `1,234,567`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(crate) fn whole(number: f64) -> String {
    thousands(number.round() as u64)
}

/// A time with a suitable unit.
pub(crate) fn time(ns: f64) -> String {
    match ns {
        ..1e3 => format!("{ns:.0} ns"),
        ..1e6 => format!("{:.2} us", ns / 1e3),
        ..1e9 => format!("{:.2} ms", ns / 1e6),
        _ => format!("{:.2} s", ns / 1e9),
    }
}

/// A size with a suitable unit.
pub(crate) fn bytes(bytes: f64) -> String {
    match bytes {
        ..1024.0 => format!("{bytes:.0} B"),
        ..1_048_576.0 => format!("{:.2} KiB", bytes / 1024.0),
        _ => format!("{:.1} MiB", bytes / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn report() -> Report {
        let opened = Opened { open: 2_000, failed: 0, why: None, took: Duration::from_millis(250) };
        let published = Published {
            events: 50,
            rejected: 0,
            why: None,
            took: Duration::from_secs(5),
            began_at_ns: 1_000_000_000,
        };
        let counted = Counted {
            expected: 100_000,
            received: 100_000,
            last_at_ns: 6_010_000_000,
            latencies: vec![(1_000_000, 98), (20_000_000, 1), (30_000_000, 1)],
            ..Counted::default()
        };
        let memory = |mib: u64| Memory { pss_bytes: mib << 20, rss_bytes: mib << 20 };
        Report {
            load: "2,000 streams".to_owned(),
            opening: OpeningReport::new(&opened, Some(80_000_000)),
            memory: Some(MemoryReport { before: memory(10), idle: memory(13), after: memory(14) }),
            delivery: DeliveryReport::new(
                &published,
                &counted,
                &Counted::default(),
                Some(800_000_000),
            ),
        }
    }

    #[test]
    fn the_table_is_exact() {
        let expected = "\
2,000 streams

opening     2,000 streams in 0.25 s, 40.00 us of processor time each
memory      1.54 KiB per stream idle, 2.05 KiB after the events; 14.0 MiB in total
published   50 events, 0 rejected
delivered   100,000 of 100,000, 0 missing, 0 duplicate, 0 streams cut
rate        19,960 deliveries/s for 5.01 s
processor   8.00 us per delivery, 16 % of a core
latency     p50 1.00 ms, p99 20.00 ms, p99.9 30.02 ms, max 30.02 ms
";
        assert_eq!(report().table(), expected);
        assert_eq!(report().fault(), None);
    }

    #[test]
    fn faults_are_listed() {
        let mut report = report();
        report.delivery.missing = 1_234;
        report.delivery.duplicates = 1;
        assert_eq!(report.fault().as_deref(), Some("1,234 deliveries missing, 1 duplicates"));
        report.delivery.refused = 2;
        report.delivery.why = Some("status 413: too large".to_owned());
        let fault = report.fault().expect("faults");
        assert!(fault.ends_with("; the first rejection: status 413: too large"), "{fault}");
        report.opening.failed = 7;
        report.opening.why = Some("cannot connect".to_owned());
        let fault = report.fault();
        assert_eq!(fault.as_deref(), Some("7 streams could not be opened: cannot connect"));
    }

    #[test]
    fn json_survives_a_round_trip() {
        let json = serde_json::to_string(&report()).expect("JSON");
        assert_eq!(serde_json::from_str::<Report>(&json).expect("a report"), report());
    }

    #[test]
    fn numbers_are_formatted_with_units() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([5.0, 1_500.0, 2e6, 3e9].map(time), ["5 ns", "1.50 us", "2.00 ms", "3.00 s"]);
        assert_eq!([-5.0, 5.0, 2048.0, 3e6].map(bytes), ["-5 B", "5 B", "2.00 KiB", "2.9 MiB"]);
    }
}
