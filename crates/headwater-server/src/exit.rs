//! How commands fail: the only place that knows exit codes, and how an error and its causes are
//! written.

use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::printable::printable;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An argument or a setting is invalid.
    Usage(String),
    /// The operation failed.
    Failed(anyhow::Error),
    /// The user pressed Ctrl-C.
    Interrupted,
    /// The reader of standard output stopped reading, as `head` does.
    OutputClosed,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

/// The exit code of a command, once its error is on standard error.
pub(crate) fn exit_code(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) | Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Err(Failure::Failed(error)) => {
            // A cause may repeat what another server said.
            complain(&printable(error_chain(&error)));
            ExitCode::from(1)
        }
        Err(Failure::Usage(message)) => {
            complain(&message);
            ExitCode::from(2)
        }
        // 128 and the number of SIGINT, as a shell reports it.
        Err(Failure::Interrupted) => ExitCode::from(130),
    }
}

/// The error and its causes. Some causes are part of the text of what they caused already.
pub(crate) fn error_chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.ends_with(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}

fn complain(message: &str) {
    // stderr may be closed.
    let _ = writeln!(io::stderr(), "error: {message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cause_is_repeated() {
        let error = anyhow::anyhow!("gone").context("lost: gone").context("cannot publish");
        assert_eq!(error_chain(&error), "cannot publish: lost: gone");
    }
}
