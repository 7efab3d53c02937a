//! `headwater-bench-worker`: a generator process without the rest of `headwater bench`, for
//! `headwater-compare` and the tests.

use std::process::ExitCode;

fn main() -> ExitCode {
    match headwater_bench::worker::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
