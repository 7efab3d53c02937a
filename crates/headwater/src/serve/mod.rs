//! Serving an axum router over HTTP/1.1 and HTTP/2, with the limits that long-lived streams need.
//! Look here for accepting connections, timeouts and graceful shutdown.

mod counts;
mod deadline;
mod head;
mod http;
mod options;
mod preface;
mod proxy_header;
mod takeover;
mod throttled_log;
#[cfg(feature = "tls")]
mod tls;

use std::future::{Future, IntoFuture};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use self::http::{Connection, Shared};
use crate::engine::{ConnectionSlot, ConnectionSlots, Engine};
use crate::limits::SHARDS_MAX;
pub use counts::ServeCounts;
use options::ServeOptions;
use preface::Preface;

pub use proxy_header::{ProxyHeader, ProxyHeaderError, ProxyHeaderProgress};

/// Delay before accepting is retried when the process is out of descriptors or memory.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Minimum interval between two log lines about that.
const ACCEPT_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Serves a router on a listener: what `axum::serve` does, with the limits that event streams need.
/// Await the result; it resolves only after
/// [`with_graceful_shutdown`](Serve::with_graceful_shutdown).
///
/// It speaks HTTP/1.1 and HTTP/2, without TLS unless `Serve::tls` is set. Connections whose client
/// sends no request, takes too long to send its header, or accepts no data of a response are
/// closed. Handlers can extract [`ConnectInfo<SocketAddr>`](axum::extract::ConnectInfo).
///
/// A stream of a hub over HTTP/1.1 moves to the engine once all layers of the router have run: a
/// few threads own the sockets of all streams, so that a stream takes a few hundred bytes, and no
/// task or buffer. The bytes of the body are the same. The connection closes with its stream. A
/// stream stays with hyper over HTTP/2, over TLS, over HTTP/1.0, with
/// [`until`](crate::EventSourceResponse::until), with `content-encoding` or another header that
/// describes the body, or behind a layer that changes the body. A layer that changes bytes must not
/// leave the first ones unchanged and also pass on the body's exact size: it would be bypassed.
///
/// ```no_run
/// # async fn example() -> std::io::Result<()> {
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:8000").await?;
/// headwater::serve(listener, axum::Router::new()).await
/// # }
/// ```
pub fn serve(listener: TcpListener, router: Router) -> Serve {
    Serve {
        listener,
        router,
        options: ServeOptions::default(),
        preface: Preface::default(),
        shards: None,
        shutdown: Box::pin(std::future::pending()),
    }
}

/// A configured server, which runs when it is awaited; see [`serve`].
///
/// It resolves to `Ok` only, at present: failures to accept connections are logged and retried.
#[must_use = "a server does nothing until it is awaited"]
pub struct Serve {
    listener: TcpListener,
    router: Router,
    options: ServeOptions,
    preface: Preface,
    /// `None` for one per core.
    shards: Option<usize>,
    shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Serve {
    /// Shuts down when the future resolves: stops accepting connections, and waits until each
    /// connection has completed its response. It waits for event streams without a time limit: end
    /// them with [`Hub::drain`](crate::Hub::drain).
    pub fn with_graceful_shutdown(
        mut self,
        signal: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        self.shutdown = Box::pin(signal);
        self
    }

    /// Maximum number of open connections, at least one; further ones wait in the listener's
    /// backlog. Default 10,000.
    pub fn connections_max(mut self, connections: usize) -> Self {
        self.options.connections_max = connections.clamp(1, tokio::sync::Semaphore::MAX_PERMITS);
        self
    }

    /// How long a client may take to start a request, and to send its header. Default 10 s.
    pub fn header_timeout(mut self, timeout: Duration) -> Self {
        self.options.header_timeout = timeout;
        self
    }

    /// How long a write may make no progress before its connection is closed. For event streams,
    /// see [`EventSourceResponse::send_timeout`](crate::EventSourceResponse::send_timeout). Default
    /// 30 s.
    pub fn send_timeout(mut self, timeout: Duration) -> Self {
        self.options.send_timeout = timeout;
        self
    }

    /// Serves TLS with this configuration; needs the feature `tls`. Offer `h2` and `http/1.1` by
    /// ALPN for both versions of HTTP. To replace a certificate while serving, let the
    /// configuration's resolver return another one: open connections are not affected.
    ///
    /// A handshake may take 10 s. `GET` and `HEAD` requests without TLS are redirected to
    /// `https://`; other requests without TLS get `400` with a hint to use it.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, config: Arc<rustls::ServerConfig>) -> Self {
        self.preface.tls = Some(tls::Tls::new(config));
        self
    }

    /// Requires every connection to start with a header of the PROXY protocol, version 1 or 2, as
    /// HAProxy, nginx and cloud load balancers send it. `ConnectInfo` is then the client's address,
    /// not the proxy's. Connections are closed if `is_proxy` returns false for their peer, or if
    /// their header is invalid or does not arrive within 5 s.
    pub fn proxy_protocol(
        mut self,
        is_proxy: impl Fn(IpAddr) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.preface.proxy = Some(Arc::new(is_proxy));
        self
    }

    /// Counts the outcomes of PROXY protocol headers and TLS handshakes in `counts`.
    pub fn with_counts(mut self, counts: ServeCounts) -> Self {
        self.preface.counts = counts;
        self
    }

    /// Number of threads that own the sockets of streams, per hub, at most
    /// [`limits::SHARDS_MAX`](crate::limits::SHARDS_MAX). They run from the first stream of a hub
    /// until the server ends, and keep the hub alive. Default: one per core. With 0 every stream
    /// stays with hyper, at the cost of a task and two buffers each, for programs that cannot start
    /// threads.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = Some(shards.min(SHARDS_MAX));
        self
    }

    async fn run(self) -> io::Result<()> {
        let Self { listener, router, options, preface, shards, mut shutdown } = self;
        let shards = shards.unwrap_or_else(cores);
        // On Linux accepted sockets inherit it; see `Connection::serve` for other systems.
        let _ = socket2::SockRef::from(&listener).set_tcp_nodelay(true);
        let engine = (shards > 0).then(|| Engine::new(shards));
        let shared = Arc::new(Shared { router, options, preface, engine });
        let slots = ConnectionSlots::new(options.connections_max);
        let (stop, stopping) = watch::channel(());
        // When the log last reported a failure to accept.
        let mut logged_at = None;
        loop {
            let (socket, peer, slot) = tokio::select! {
                () = &mut shutdown => break,
                accepted = accept(&listener, &slots, &mut logged_at) => accepted,
            };
            let (shared, stopping) = (Arc::clone(&shared), stopping.clone());
            let connection = Connection { socket, peer, slot, shared, stopping };
            tokio::spawn(async move {
                if let Err(error) = connection.serve().await {
                    // Routine: clients disconnect at any time.
                    tracing::debug!(%peer, "connection closed: {error}");
                }
            });
        }
        drop((listener, stopping));
        let _ = stop.send(());
        slots.emptied().await;
        Ok(())
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(SHARDS_MAX)
}

impl IntoFuture for Serve {
    type Output = io::Result<()>;
    type IntoFuture = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// Accepts the next connection, once there is a slot for it. Cancel safe: no accepted connection is
/// lost.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<ConnectionSlots>,
    logged_at: &mut Option<Instant>,
) -> (TcpStream, SocketAddr, ConnectionSlot) {
    if slots.is_full() {
        tracing::warn!("connection limit reached: new connections wait until others close");
    }
    let slot = slots.acquire().await;
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => return (socket, peer, slot),
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                // Out of descriptors, each connection that closes lets one in: an accept that
                // succeeds does not end the condition, so it does not reset the interval.
                if logged_at.is_none_or(|at| at.elapsed() >= ACCEPT_LOG_INTERVAL) {
                    *logged_at = Some(Instant::now());
                    tracing::error!(
                        "cannot accept connections, retrying: {error}; if the process is out of \
                         descriptors, raise their limit (ulimit -n) or lower the connection limit"
                    );
                }
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
