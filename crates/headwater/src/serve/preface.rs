//! The steps of a connection before HTTP: the PROXY protocol header, then the TLS handshake. Look
//! here for what an accepted socket must pass, and for what is counted.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::counts::{Closed, ServeCounts};
use super::deadline::WriteDeadline;
use super::floods::Floods;
use super::proxy_header::{ProxyHeader, ProxyHeaderProgress};
#[cfg(feature = "tls")]
use super::tls::{Tls, TlsSocket};
use crate::limits::PROXY_HEADER_TIMEOUT;
use crate::throttled_log::ThrottledLog;

/// Whether a peer is a trusted proxy.
type IsProxy = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// The steps before HTTP that a server is configured with.
#[derive(Clone, Default)]
pub(super) struct Preface {
    /// If set, every connection must begin with a PROXY protocol header.
    pub(super) proxy: Option<IsProxy>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Tls>,
    pub(super) counts: ServeCounts,
    pub(super) floods: Floods,
    rejections: Arc<ThrottledLog>,
}

/// A connection that is ready for HTTP.
pub(super) struct Accepted {
    pub(super) socket: Socket,
    /// The client's address: the peer's, or the one that the proxy reports.
    pub(super) client: SocketAddr,
}

pub(super) enum Socket {
    /// No byte of HTTP has been read from it.
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(TlsSocket),
}

impl Preface {
    /// Runs the steps. `None` if the connection ends here: rejected, held back for too long, or
    /// answered without TLS.
    ///
    /// # Errors
    /// If the TLS handshake fails or times out.
    pub(super) async fn accept(
        &self,
        mut socket: TcpStream,
        peer: SocketAddr,
        deadline: &WriteDeadline,
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
        if !self.floods.admit(client.ip()).await {
            self.counts.close(Closed::FloodingAddress);
            // A reset leaves nothing behind, not even in the kernel.
            let socket = socket2::SockRef::from(&socket);
            return socket.set_linger(Some(Duration::ZERO)).map(|()| None);
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            let encrypted = tls.accept(socket, deadline, &self.counts).await?;
            return Ok(encrypted.map(|socket| Accepted { socket: Socket::Tls(socket), client }));
        }
        #[cfg(not(feature = "tls"))]
        let _ = deadline;
        Ok(Some(Accepted { socket: Socket::Plain(socket), client }))
    }

    /// The client address that the proxy reports. The error is the reason to reject the connection.
    async fn read_proxy_header(
        &self,
        is_proxy: &IsProxy,
        socket: &mut TcpStream,
        peer: SocketAddr,
    ) -> Result<SocketAddr, String> {
        // The protocol forbids guessing whether a header is present, so other peers cannot be
        // served.
        if !is_proxy(peer.ip().to_canonical()) {
            return Err("the peer is not a trusted proxy, and only those may connect".to_owned());
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
        if let Some(suppressed) = self.rejections.due() {
            tracing::warn!(%peer, suppressed, "connection rejected: {reason}");
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
