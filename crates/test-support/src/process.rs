//! Signals to processes that a test started.

use std::process::Command;

/// Sends a signal by its name without SIG, through the program `kill`.
pub(crate) fn send_signal(process: u32, signal: &str) {
    let sent = Command::new("kill")
        .args([format!("-{signal}"), process.to_string()])
        .status()
        .is_ok_and(|status| status.success());
    assert!(sent, "cannot send SIG{signal} to process {process}");
}
