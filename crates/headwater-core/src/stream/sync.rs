//! The synchronization primitives of `mailbox.rs`. Look here for what `loom_tests.rs` replaces.

pub(super) use std::sync::atomic::AtomicBool;
pub(super) use std::sync::{Mutex, MutexGuard};
