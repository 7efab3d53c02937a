//! Signals of the operating system: stop, and reload. Look here for which signals do what.

use std::io;

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT; Ctrl-C where there are no signals.
pub(crate) struct Stops {
    #[cfg(unix)]
    terminate: Signal,
    #[cfg(unix)]
    interrupt: Signal,
}

#[cfg(unix)]
impl Stops {
    /// Installs the handlers.
    pub(crate) fn new() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { terminate, interrupt })
    }

    /// Waits for the next one. Cancel safe.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(not(unix))]
impl Stops {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    pub(crate) async fn next(&mut self) {
        // An error means that there is no handler; then nothing stops the server but its end.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// SIGHUP, which asks to reload; never where there are no signals.
pub(crate) struct Reloads {
    #[cfg(unix)]
    hangups: Signal,
}

impl Reloads {
    /// Installs the handler. Without one, SIGHUP ends the process.
    #[cfg(unix)]
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { hangups: signal(SignalKind::hangup())? })
    }

    #[cfg(not(unix))]
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    /// Waits for the next one. Cancel safe.
    pub(crate) async fn next(&mut self) {
        #[cfg(unix)]
        // `None` cannot come while the handler is installed.
        let _ = self.hangups.recv().await;
        #[cfg(not(unix))]
        std::future::pending::<()>().await;
    }
}
