//! `headwater bench`: measures a server. Look here for how it ends; what it does is in the crate
//! `headwater-bench`.

use anyhow::anyhow;
use headwater_bench::{Error, worker};

use super::output::print;
use crate::exit::Failure;

pub(super) use headwater_bench::options::BenchOptions;

/// Measures, and writes the result to standard output.
pub(super) fn run(options: &BenchOptions) -> Result<(), Failure> {
    if options.is_worker() {
        return worker::run().map_err(Failure::from);
    }
    let outcome = headwater_bench::run::run(options)?;
    print(&outcome.text)?;
    match outcome.fault {
        None => Ok(()),
        Some(fault) => Err(Failure::Failed(anyhow!("{fault}"))),
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Usage(why) => Self::Usage(why),
            failed @ Error::Failed(_) => Self::Failed(failed.into()),
        }
    }
}
