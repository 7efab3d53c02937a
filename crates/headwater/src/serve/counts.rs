//! Counters of connections: those that have not reached HTTP, and those that the server closed.
//! Look here for what a server counts besides its hubs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the server started: of the outcomes of PROXY protocol headers and TLS handshakes,
/// and of connections that the server closed.
/// Clones share the counters: pass one to
/// [`Serve::with_counts`](crate::serve::Serve::with_counts), and read another.
#[derive(Debug, Clone, Default)]
pub struct ServeCounts(pub(super) Arc<Counters>);

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) proxy_headers_refused: AtomicU64,
    pub(super) tls_handshakes: AtomicU64,
    pub(super) tls_errors: AtomicU64,
    pub(super) tls_plain: AtomicU64,
    closed: [AtomicU64; Closed::ALL.len()],
}

/// Why the server closed a connection over HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Closed {
    /// No complete request came in time.
    HeaderTimeout,
    /// It had no request for long.
    Idle,
    /// The client did not take an answer.
    Stalled,
    /// The client sent too much that carries no part of a request, or that had to be rejected.
    Flood,
    /// The client sent what the protocol forbids.
    ProtocolError,
    /// Too many new connections of an address that floods were waiting; the version is not known.
    FloodingAddress,
}

impl Closed {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::HeaderTimeout,
        Self::Idle,
        Self::Stalled,
        Self::Flood,
        Self::ProtocolError,
        Self::FloodingAddress,
    ];

    /// The reason as a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HeaderTimeout => "header-timeout",
            Self::Idle => "idle",
            Self::Stalled => "stalled",
            Self::Flood => "flood",
            Self::ProtocolError => "protocol-error",
            Self::FloodingAddress => "flooding-address",
        }
    }
}

impl ServeCounts {
    /// Connections closed because the peer is not a trusted proxy, or did not send a valid PROXY
    /// protocol header in time.
    pub fn proxy_headers_refused(&self) -> u64 {
        self.0.proxy_headers_refused.load(Ordering::Relaxed)
    }

    /// TLS handshakes that succeeded.
    pub fn tls_handshakes(&self) -> u64 {
        self.0.tls_handshakes.load(Ordering::Relaxed)
    }

    /// TLS handshakes that failed or timed out.
    pub fn tls_errors(&self) -> u64 {
        self.0.tls_errors.load(Ordering::Relaxed)
    }

    /// Connections that the server closed for a reason.
    pub fn closed(&self, reason: Closed) -> u64 {
        self.0.closed[reason as usize].load(Ordering::Relaxed)
    }

    pub(super) fn close(&self, reason: Closed) {
        self.0.closed[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Connections that sent plain HTTP to a server with TLS.
    pub fn tls_plain(&self) -> u64 {
        self.0.tls_plain.load(Ordering::Relaxed)
    }
}
