//! A measurement: one server, its streams and its publisher. Look here for the steps of a
//! measurement, which `headwater bench` and the comparison share.

use std::time::Duration;

use crate::control::Counted;
use crate::error::Error;
use crate::generator::{Generator, Opened, Progress, WorkerCommand};
use crate::limits::DRAIN_TIMEOUT;
use crate::process;
use crate::publisher::{Amount, Load, Pace, PublishTarget, Publisher};
use crate::report::{DeliveryReport, OpeningReport, thousands};
use crate::target::HttpTarget;

/// The progress of a load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadProgress {
    /// Published events.
    pub published: u64,
    /// The progress of the streams.
    pub streams: Progress,
}

/// A measurement in progress.
pub struct Session {
    generator: Generator,
    publisher: Publisher,
    /// The processes that are measured.
    pids: Vec<u32>,
    counted: Counted,
    drain_timeout: Duration,
}

impl Session {
    /// Starts the generator. The processes with these ids are measured; there may be none.
    ///
    /// # Errors
    /// When a generator process does not start.
    pub fn start(
        command: &WorkerCommand,
        target: &HttpTarget,
        publish_to: PublishTarget,
        streams: usize,
        channels: usize,
        pids: &[u32],
    ) -> Result<Self, Error> {
        let generator = Generator::start(command, target, streams, channels)?;
        let publisher = Publisher::new(publish_to, channels);
        Ok(Self {
            generator,
            publisher,
            pids: pids.to_vec(),
            counted: Counted::default(),
            drain_timeout: DRAIN_TIMEOUT,
        })
    }

    /// Sets how long to wait for deliveries after the last event. The default is [`DRAIN_TIMEOUT`].
    #[must_use]
    pub fn with_drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Opens all streams, and measures the cost.
    ///
    /// # Errors
    /// When a generator process or a measured process has exited.
    pub fn open(&mut self) -> Result<OpeningReport, Error> {
        let before = self.cpu_ns()?;
        let opened: Opened = self.generator.open(self.publisher.published())?;
        let after = self.cpu_ns()?;
        self.counted = Counted::default();
        Ok(OpeningReport::new(&opened, difference(before, after)))
    }

    /// Publishes a load, waits until it is delivered, and measures the cost.
    ///
    /// # Errors
    /// When publishing fails, or a generator process or a measured process has exited.
    pub fn load(
        &mut self,
        load: &Load,
        mut progress: impl FnMut(LoadProgress),
    ) -> Result<DeliveryReport, Error> {
        self.generator.record()?;
        let before = self.cpu_ns()?;
        // The generator's own cost is optional: it is not what is measured.
        let generator_pids = self.generator.pids();
        let generator_before = process::cpu_ns(&generator_pids).ok();
        let generator = &mut self.generator;
        let result = self.publisher.publish(load, |published| {
            let streams = generator.progress()?;
            progress(LoadProgress { published, streams });
            all_cut(streams).map_or(Ok(()), Err)
        });
        let published = result.map_err(|error| self.cause_of(error))?;
        let counted = self.generator.drain(self.publisher.published(), self.drain_timeout)?;
        let after = self.cpu_ns()?;
        let cpu_ns = difference(before, after);
        let report = DeliveryReport::new(&published, &counted, &self.counted, cpu_ns);
        self.counted = counted;
        let generator_after = process::cpu_ns(&generator_pids).ok();
        Ok(report.with_generator(difference(generator_before, generator_after)))
    }

    /// Publishes a few events before the measurement, so that what the first event allocates
    /// exists.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn warm_up(&mut self, events: u64) -> Result<DeliveryReport, Error> {
        let load = Load {
            pace: Pace::AsAnswered,
            amount: Amount::Events(events),
            event_bytes: 100,
            in_flight: 1,
        };
        self.load(&load, |_| {})
    }

    /// Closes all streams.
    ///
    /// # Errors
    /// When a generator process has exited.
    pub fn close(&mut self) -> Result<(), Error> {
        self.generator.close()
    }

    /// The memory of the measured processes, if there are any.
    ///
    /// # Errors
    /// When one of them has exited.
    pub fn memory(&self) -> Result<Option<process::Memory>, Error> {
        if self.pids.is_empty() { Ok(None) } else { process::memory(&self.pids).map(Some) }
    }

    /// The memory once it no longer changes, or after this long.
    ///
    /// # Errors
    /// When a measured process has exited.
    pub fn settled_memory(&self, within: Duration) -> Result<Option<process::Memory>, Error> {
        let step = Duration::from_millis(100);
        let mut memory = self.memory()?;
        let mut same = 0;
        for _ in 0..within.as_millis() / step.as_millis() {
            std::thread::sleep(step);
            let next = self.memory()?;
            same = if next == memory { same + 1 } else { 0 };
            memory = next;
            if same == 3 {
                break;
            }
        }
        Ok(memory)
    }

    /// When publishing fails because the server is gone, the streams give the clearer error.
    fn cause_of(&mut self, error: Error) -> Error {
        for _ in 0..20 {
            match self.generator.progress().map(all_cut) {
                Ok(Some(cause)) => return cause,
                Ok(None) => std::thread::sleep(Duration::from_millis(50)),
                Err(_) => break,
            }
        }
        error
    }

    fn cpu_ns(&self) -> Result<Option<u64>, Error> {
        if self.pids.is_empty() { Ok(None) } else { process::cpu_ns(&self.pids).map(Some) }
    }
}

/// An error if no stream is left.
fn all_cut(streams: Progress) -> Option<Error> {
    let Progress { open, received, cut } = streams;
    (open == 0 && cut > 0).then(|| {
        let (cut, received) = (thousands(cut as u64), thousands(received));
        let why = format!(
            "the server has gone: {cut} of {cut} streams were cut after {received} deliveries"
        );
        Error::Failed(why)
    })
}

fn difference(before: Option<u64>, after: Option<u64>) -> Option<u64> {
    Some(after?.saturating_sub(before?))
}
