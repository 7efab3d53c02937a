//! One server, its streams and its publisher under measurement. Look here for the order of a measurement, which
//! `headwater bench` and the comparison share.

use std::time::Duration;

use crate::control::Counted;
use crate::error::Error;
use crate::generator::{Generator, Opened, Progress, WorkerCommand};
use crate::limits::DRAIN_TIMEOUT;
use crate::process;
use crate::publisher::{Amount, Load, Publisher, Road};
use crate::report::{DeliveryReport, OpeningReport, thousands};
use crate::target::HttpTarget;

/// How far a load is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadProgress {
    /// Events that were published.
    pub published: u64,
    /// What the streams have.
    pub streams: Progress,
}

/// A measurement under way.
pub struct Session {
    generator: Generator,
    publisher: Publisher,
    /// The processes that are measured.
    pids: Vec<u32>,
    counted: Counted,
    drain_timeout: Duration,
}

impl Session {
    /// Starts the generator. Measured are the processes with these ids, which may be none.
    ///
    /// # Errors
    /// When its processes do not start.
    pub fn start(
        command: &WorkerCommand,
        target: &HttpTarget,
        road: Road,
        streams: usize,
        channels: usize,
        pids: &[u32],
    ) -> Result<Self, Error> {
        let generator = Generator::start(command, target, streams, channels)?;
        let publisher = Publisher::new(road, channels);
        Ok(Self {
            generator,
            publisher,
            pids: pids.to_vec(),
            counted: Counted::default(),
            drain_timeout: DRAIN_TIMEOUT,
        })
    }

    /// Sets how long deliveries are waited for when the last event is published. The default is
    /// [`DRAIN_TIMEOUT`].
    #[must_use]
    pub fn with_drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Opens all streams, and measures what that costs.
    ///
    /// # Errors
    /// When the generator or a measured process has ended.
    pub fn open(&mut self) -> Result<OpeningReport, Error> {
        let before = self.cpu_ns()?;
        let opened: Opened = self.generator.open(self.publisher.published())?;
        let after = self.cpu_ns()?;
        self.counted = Counted::default();
        Ok(OpeningReport::new(&opened, difference(before, after)))
    }

    /// Publishes a load, waits until all of it has come, and measures what that costs.
    ///
    /// # Errors
    /// When publishing fails, or the generator or a measured process has ended.
    pub fn load(
        &mut self,
        load: &Load,
        mut progress: impl FnMut(LoadProgress),
    ) -> Result<DeliveryReport, Error> {
        self.generator.record()?;
        let before = self.cpu_ns()?;
        // Where it is not known it is not told; it is not what is measured.
        let generator_pids = self.generator.pids();
        let generator_before = process::cpu_ns(&generator_pids).ok();
        let generator = &mut self.generator;
        let result = self.publisher.publish(load, |published| {
            let streams = generator.progress()?;
            progress(LoadProgress { published, streams });
            gone(streams).map_or(Ok(()), Err)
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

    /// Publishes a few events that are not measured, so that what is built at the first one exists.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn warm_up(&mut self, events: u64) -> Result<DeliveryReport, Error> {
        let load = Load {
            pace: crate::publisher::Pace::AsAnswered,
            amount: Amount::Events(events),
            event_bytes: 100,
            in_flight: 1,
        };
        self.load(&load, |_| {})
    }

    /// Closes all streams.
    ///
    /// # Errors
    /// When the generator has ended.
    pub fn close(&mut self) -> Result<(), Error> {
        self.generator.close()
    }

    /// The memory of the measured processes, if there are any.
    ///
    /// # Errors
    /// When one of them has ended.
    pub fn memory(&self) -> Result<Option<process::Memory>, Error> {
        if self.pids.is_empty() { Ok(None) } else { process::memory(&self.pids).map(Some) }
    }

    /// The memory once it does not change any more, or after this long.
    ///
    /// # Errors
    /// When a measured process has ended.
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

    /// When publishing fails because the server has gone, the streams tell it more plainly.
    fn cause_of(&mut self, error: Error) -> Error {
        for _ in 0..20 {
            match self.generator.progress().map(gone) {
                Ok(Some(gone)) => return gone,
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

/// Whether no stream is left.
fn gone(streams: Progress) -> Option<Error> {
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
