//! Signals to processes that a test started.

use std::process::Command;

/// Sends a signal by its name without SIG. Uses the shell's `kill`, because a minimal system has no
/// such program.
pub(crate) fn send_signal(process: u32, signal: &str) {
    let sent = Command::new("/bin/sh")
        .args(["-c", "kill -\"$0\" \"$1\"", signal, &process.to_string()])
        .status()
        .is_ok_and(|status| status.success());
    assert!(sent, "cannot send SIG{signal} to process {process}");
}
