//! The core that the attacker has. Look here for what the node is compared with.

use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// Binds this thread to the last core, where the operating system can do that.
pub(super) fn bind_to_last() {
    #[cfg(target_os = "linux")]
    {
        use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

        let Ok(own) = sched_getaffinity(None) else { return };
        let Some(last) = (0..CpuSet::MAX_CPU).rev().find(|core| own.is_set(*core)) else { return };
        let mut only = CpuSet::new();
        only.set(last);
        let _ = sched_setaffinity(None, &only);
    }
}

/// A thread that keeps the attacker's core busy without doing anything to the node, until it is
/// dropped. What the others notice beside it is the scheduler's part.
pub(super) struct Neighbor {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Neighbor {
    pub(super) fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            bind_to_last();
            while !stopped.load(Ordering::Relaxed) {
                spin_loop();
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Neighbor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
