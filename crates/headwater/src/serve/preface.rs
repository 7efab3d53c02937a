//! What precedes HTTP on a connection: the header of a proxy, then TLS. Look here for how an
//! accepted socket becomes one that speaks HTTP, and for what is counted meanwhile.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::counts::ServeCounts;
use super::deadline;
use super::proxy_header::{ProxyHeader, ProxyHeaderProgress};
use super::throttled_log::ThrottledLog;
#[cfg(feature = "tls")]
use super::tls::{Tls, TlsSocket};
use crate::limits::PROXY_HEADER_TIMEOUT;

/// Decides which peers are trusted proxies.
type IsProxy = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// The steps that a connection passes before it speaks HTTP.
#[derive(Clone, Default)]
pub(super) struct Preface {
    /// If set, every connection starts with a header of the PROXY protocol.
    pub(super) proxy: Option<IsProxy>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Tls>,
    pub(super) counts: ServeCounts,
    rejections: Arc<ThrottledLog>,
}

/// A connection that is ready to speak HTTP.
pub(super) struct Accepted {
    pub(super) socket: Socket,
    /// The client's address: the peer's, or the one that the proxy reports.
    pub(super) client: SocketAddr,
}

pub(super) enum Socket {
    /// No byte that belongs to HTTP was read from it.
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(TlsSocket),
}

impl Preface {
    /// Processes what precedes HTTP; `None` if the connection ended here, redirected or rejected.
    pub(super) async fn accept(
        &self,
        mut socket: TcpStream,
        peer: SocketAddr,
        send: &deadline::WriteDeadline,
    ) -> io::Result<Option<Accepted>> {
        let client = match &self.proxy {
            Some(is_proxy) => match self.read_proxy_header(is_proxy, &mut socket, peer).await {
                Ok(client) => client,
                Err(reason) => {
                    self.reject(peer, &reason);
                    return Ok(None);
                }
            },
            None => peer,
        };
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            let accepted = tls.accept(socket, send, &self.counts).await?;
            return Ok(accepted.map(|socket| Accepted { socket: Socket::Tls(socket), client }));
        }
        #[cfg(not(feature = "tls"))]
        let _ = send;
        Ok(Some(Accepted { socket: Socket::Plain(socket), client }))
    }

    /// The address of the client on whose behalf the proxy connects; the error is the reason of the
    /// rejection.
    async fn read_proxy_header(
        &self,
        is_proxy: &IsProxy,
        socket: &mut TcpStream,
        peer: SocketAddr,
    ) -> Result<SocketAddr, String> {
        // The protocol forbids guessing whether a header is present, so other peers are rejected.
        if !is_proxy(peer.ip().to_canonical()) {
            return Err("the peer is not a trusted proxy".to_owned());
        }
        let header = tokio::time::timeout(PROXY_HEADER_TIMEOUT, read_header(socket)).await;
        match header {
            Ok(Ok(ProxyHeader::Client(client))) => Ok(client),
            Ok(Ok(ProxyHeader::Local)) => Ok(peer),
            Ok(Err(error)) => Err(format!("invalid PROXY protocol header: {error}")),
            Err(_) => {
                Err(format!("no PROXY protocol header within {} s", PROXY_HEADER_TIMEOUT.as_secs()))
            }
        }
    }

    fn reject(&self, peer: SocketAddr, reason: &str) {
        self.counts.0.proxy_headers_refused.fetch_add(1, Ordering::Relaxed);
        if let Some(unlogged) = self.rejections.due() {
            tracing::warn!(%peer, unlogged, "connection rejected: {reason}");
        }
    }
}

/// Reads a header, and no byte beyond it.
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
