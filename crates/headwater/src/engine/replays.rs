//! The replays of a shard that are running; does no IO. Look here for how a page finds its stream.

use std::collections::HashMap;

use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// The replays of a shard, by the keys of their streams.
#[derive(Default)]
pub(super) struct Replays {
    running: HashMap<u32, Running>,
    count: u32,
}

struct Running {
    /// The replay's number: its count, and the stream's key, so that a page for a stream that is
    /// closed does not reach another one with the same key.
    number: u64,
    /// Asks for the next page when it is sent; ends the replay when it is dropped.
    written: Option<oneshot::Sender<()>>,
    /// The task that reads. It may be reading for a long time when the stream is closed.
    task: Option<AbortHandle>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Replays {
    pub(super) fn start(&mut self, key: u32) -> u64 {
        self.count = self.count.wrapping_add(1);
        let number = u64::from(self.count) << 32 | u64::from(key);
        self.running.insert(key, Running { number, written: None, task: None });
        number
    }

    /// Records the task of the stream's replay.
    pub(super) fn run(&mut self, key: u32, task: AbortHandle) {
        if let Some(running) = self.running.get_mut(&key) {
            running.task = Some(task);
        }
    }

    /// The key of the stream, if this replay is running.
    pub(super) fn key_of(&self, number: u64) -> Option<u32> {
        let key = u32::try_from(number & u64::from(u32::MAX)).ok()?;
        self.running.get(&key).is_some_and(|it| it.number == number).then_some(key)
    }

    /// Ends the replay of a stream that is closed.
    pub(super) fn remove(&mut self, key: u32) {
        if !self.running.is_empty() {
            self.running.remove(&key);
        }
    }

    pub(super) fn wait(&mut self, key: u32, written: oneshot::Sender<()>) {
        if let Some(running) = self.running.get_mut(&key) {
            running.written = Some(written);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Asks for the next page of a stream whose socket has accepted everything.
    pub(super) fn next(&mut self, key: u32) {
        let written = self.running.get_mut(&key).and_then(|running| running.written.take());
        if let Some(written) = written {
            // The replay may have ended.
            let _ = written.send(());
        }
    }
}
