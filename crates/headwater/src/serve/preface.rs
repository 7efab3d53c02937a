//! What comes on a connection before HTTP: the header of a proxy, then TLS. Look here for how a socket that was
//! accepted becomes one that speaks HTTP, and for what is counted on the way.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::deadline;
use super::proxy_header::{ProxyHeader, ProxyHeaderProgress};
use super::throttled_log::ThrottledLog;
#[cfg(feature = "tls")]
use super::tls::{Tls, TlsSocket};
use crate::limits::PROXY_HEADER_TIMEOUT;

/// Says which peers are proxies whose word counts.
type IsProxy = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// What a connection has to pass before it speaks HTTP.
#[derive(Clone, Default)]
pub(super) struct Preface {
    /// If there is one, every connection begins with the header of the PROXY protocol.
    pub(super) proxy: Option<IsProxy>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Tls>,
    pub(super) counts: ServeCounts,
    refusals: Arc<ThrottledLog>,
}

/// A connection that is about to speak HTTP.
pub(super) struct Accepted {
    pub(super) socket: Socket,
    /// The client's address: the peer's, or what the proxy before it says.
    pub(super) client: SocketAddr,
}

pub(super) enum Socket {
    /// Nothing was read from it that belongs to HTTP.
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(TlsSocket),
}

impl Preface {
    /// Lets a connection in; `None` if it came to its end here, answered or refused.
    pub(super) async fn enter(
        &self,
        mut socket: TcpStream,
        peer: SocketAddr,
        send: &deadline::WriteDeadline,
    ) -> io::Result<Option<Accepted>> {
        let client = match &self.proxy {
            Some(is_proxy) => match self.read_proxy_header(is_proxy, &mut socket, peer).await {
                Ok(client) => client,
                Err(why) => {
                    self.refuse(peer, &why);
                    return Ok(None);
                }
            },
            None => peer,
        };
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            let entered = tls.enter(socket, send, &self.counts).await?;
            return Ok(entered.map(|socket| Accepted { socket: Socket::Tls(socket), client }));
        }
        #[cfg(not(feature = "tls"))]
        let _ = send;
        Ok(Some(Accepted { socket: Socket::Plain(socket), client }))
    }

    /// The client that the proxy speaks for.
    async fn read_proxy_header(
        &self,
        is_proxy: &IsProxy,
        socket: &mut TcpStream,
        peer: SocketAddr,
    ) -> Result<SocketAddr, String> {
        // The protocol forbids to guess: who may not send a header has no business here.
        if !is_proxy(peer.ip().to_canonical()) {
            return Err("it is not a trusted proxy, and only those may connect".to_owned());
        }
        let header = tokio::time::timeout(PROXY_HEADER_TIMEOUT, read_header(socket)).await;
        match header {
            Ok(Ok(ProxyHeader::Client(client))) => Ok(client),
            Ok(Ok(ProxyHeader::Local)) => Ok(peer),
            Ok(Err(error)) => Err(format!("its PROXY protocol header is none: {error}")),
            Err(_) => Err(format!("no PROXY protocol header came within {PROXY_HEADER_TIMEOUT:?}")),
        }
    }

    fn refuse(&self, peer: SocketAddr, why: &str) {
        self.counts.0.proxy_headers_refused.fetch_add(1, Ordering::Relaxed);
        if let Some(unlogged) = self.refusals.due() {
            tracing::warn!(%peer, unlogged, "a connection is refused: {why}");
        }
    }
}

/// Reads a header and not a byte more.
async fn read_header(socket: &mut TcpStream) -> io::Result<ProxyHeader> {
    let mut bytes = Vec::new();
    loop {
        match ProxyHeader::parse(&bytes).map_err(io::Error::other)? {
            ProxyHeaderProgress::Whole(header, _) => return Ok(header),
            ProxyHeaderProgress::Partial(least) => {
                let missing = u64::try_from(least - bytes.len()).unwrap_or(u64::MAX);
                if (&mut *socket).take(missing).read_buf(&mut bytes).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
    }
}

/// How often connections came to their end before HTTP, and how often not. A clone shares the counts: give
/// one to [`Serve::with_counts`](super::Serve::with_counts), and keep one to ask.
#[derive(Debug, Clone, Default)]
pub struct ServeCounts(pub(super) Arc<Counters>);

#[derive(Debug, Default)]
pub(super) struct Counters {
    proxy_headers_refused: AtomicU64,
    pub(super) tls_handshakes: AtomicU64,
    pub(super) tls_errors: AtomicU64,
    pub(super) tls_plain: AtomicU64,
}

impl ServeCounts {
    /// Connections closed because their peer is no trusted proxy or sent no good PROXY protocol header.
    pub fn proxy_headers_refused(&self) -> u64 {
        self.0.proxy_headers_refused.load(Ordering::Relaxed)
    }

    /// TLS handshakes that succeeded.
    pub fn tls_handshakes(&self) -> u64 {
        self.0.tls_handshakes.load(Ordering::Relaxed)
    }

    /// TLS handshakes that failed or took too long.
    pub fn tls_errors(&self) -> u64 {
        self.0.tls_errors.load(Ordering::Relaxed)
    }

    /// Connections that spoke HTTP without TLS where TLS is spoken.
    pub fn tls_plain(&self) -> u64 {
        self.0.tls_plain.load(Ordering::Relaxed)
    }
}
