//! The locks that `mailbox.rs` is made of; `loom_tests.rs` replaces them.

pub(super) use std::sync::atomic::AtomicBool;
pub(super) use std::sync::{Mutex, MutexGuard};
