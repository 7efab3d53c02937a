//! The findings of `headwater check`, line by line.

use crate::cli::output::print;
use crate::exit::{Failure, error_chain};
use crate::printable::printable;

/// The findings, line by line.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) good: usize,
    pub(super) failures: usize,
    pub(super) warnings: usize,
}

impl Findings {
    pub(super) fn good(&mut self, text: &str) -> Result<(), Failure> {
        self.good += 1;
        print(&format!("  ok    {}\n", printable(text)))
    }

    pub(super) fn warn(&mut self, text: &str) -> Result<(), Failure> {
        self.warnings += 1;
        print(&format!("  warn  {}\n", printable(text)))
    }

    pub(super) fn fail(&mut self, text: &str) -> Result<(), Failure> {
        self.failures += 1;
        print(&format!("  FAIL  {}\n", printable(text)))
    }

    /// What worked, or why it did not.
    pub(super) fn add(&mut self, result: Result<String, anyhow::Error>) -> Result<(), Failure> {
        match result {
            Ok(text) => self.good(&text),
            Err(error) => self.fail(&error_chain(&error)),
        }
    }
}
