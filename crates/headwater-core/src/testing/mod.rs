//! Tests for brokers that are written outside of this crate. Look here before you publish one.

mod suite;

pub use suite::{SUITE_PATIENCE, suite};
