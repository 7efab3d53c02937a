//! A server for axum routers over HTTP/1.1 and HTTP/2, with the limits that long-lived streams
//! need. Look here for accepting, the settings of a server, and graceful shutdown.

mod activity;
mod counts;
mod deadline;
mod floods;
mod head;
mod http;
mod http2_guard;
mod options;
mod preface;
mod proxy_header;
mod request_room;
mod takeover;
#[cfg(feature = "tls")]
mod tls;

use std::future::{Future, IntoFuture};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use headwater_core::budget::{Budget, Share};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use self::http::{Connection, Shared};
use crate::engine::{ConnectionSlot, ConnectionSlots, Engine};
use crate::limits::SHARDS_MAX;
use crate::throttled_log::ThrottledLog;
pub use counts::{Closed, ServeCounts};
use options::ServeOptions;
use preface::Preface;
use request_room::RequestRoom;

pub use proxy_header::{ProxyHeader, ProxyHeaderError, ProxyHeaderProgress};

/// Pause before accepting again when the process is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves a router on a listener, as `axum::serve` does, with the limits that event streams need.
/// The server runs while it is awaited, and completes only after
/// [`with_graceful_shutdown`](Serve::with_graceful_shutdown).
///
/// Serves HTTP/1.1 and HTTP/2, without TLS unless `Serve::tls` is called. Connections that
/// send no request, that do not complete its header in time, or that accept no data of a response
/// are closed. Handlers can extract [`ConnectInfo<SocketAddr>`](axum::extract::ConnectInfo).
///
/// # The engine
///
/// The engine takes over the streams of a hub over HTTP/1.1 once all layers of the router have run:
/// a few threads own the sockets of all streams, so a stream takes a few hundred bytes, and has
/// neither a task nor a buffer. The bytes of the body are the same. The connection closes when its
/// stream ends.
///
/// hyper writes a stream over HTTP/2, TLS or HTTP/1.0, with
/// [`until`](crate::EventSourceResponse::until), with `content-encoding` or another header about
/// the body, or behind a layer that changes the body. A layer that leaves the first bytes and the
/// exact size of the body unchanged must not change later bytes: the engine would bypass it.
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
        requests: RequestRoom::default(),
        shards: None,
        shutdown: Box::pin(std::future::pending()),
    }
}

/// A configured server, which runs when awaited; see [`serve`].
///
/// Its future never resolves to an error: failures to accept are logged and retried, and failures
/// of single connections are logged at level `debug`.
#[must_use = "a server does nothing until it is awaited"]
pub struct Serve {
    listener: TcpListener,
    router: Router,
    options: ServeOptions,
    preface: Preface,
    requests: RequestRoom,
    /// `None` for one per core.
    shards: Option<usize>,
    shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Serve {
    /// Stops accepting when the future resolves, lets each connection complete its response, and
    /// then completes. The wait for event streams is unbounded: end them with
    /// [`Hub::drain`](crate::Hub::drain).
    pub fn with_graceful_shutdown(
        mut self,
        signal: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        self.shutdown = Box::pin(signal);
        self
    }

    /// Maximum concurrent connections; at least 1. Further ones wait in the listener's backlog.
    /// Default 10,000.
    pub fn connections_max(mut self, connections: usize) -> Self {
        self.options.connections_max = connections.clamp(1, tokio::sync::Semaphore::MAX_PERMITS);
        self
    }

    /// How long a client may take to begin a request, and to send its header, before its connection
    /// is closed. Default 10 s.
    pub fn header_timeout(mut self, timeout: Duration) -> Self {
        self.options.header_timeout = timeout;
        self
    }

    /// How long a write may make no progress before its connection is closed. An event stream has a
    /// separate timeout, [`send_timeout`](crate::EventSourceResponse::send_timeout). Default 30 s.
    pub fn send_timeout(mut self, timeout: Duration) -> Self {
        self.options.send_timeout = timeout;
        self
    }

    /// Serves over TLS with this configuration; needs the feature `tls`. Offer `h2` and `http/1.1`
    /// by ALPN to serve both HTTP versions. To change a certificate while serving, let the
    /// configuration's resolver return another one; open connections are not affected.
    ///
    /// A handshake may take 10 s. A plain HTTP request is redirected to `https://` if it is a `GET`
    /// or `HEAD` request with a valid `Host`; others are answered with `400` and a hint to use
    /// `https://`.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, config: Arc<rustls::ServerConfig>) -> Self {
        self.preface.tls = Some(tls::Tls::new(config));
        self
    }

    /// Requires every connection to begin with a PROXY protocol header, version 1 or 2, as sent by
    /// HAProxy, nginx and cloud load balancers. `ConnectInfo` is then the client's address, not the
    /// proxy's. A connection is closed if `is_proxy` returns false for its peer, or if its header
    /// is invalid or does not arrive within 5 s.
    pub fn proxy_protocol(
        mut self,
        is_proxy: impl Fn(IpAddr) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.preface.proxy = Some(Arc::new(is_proxy));
        self
    }

    /// Addresses that many clients share, such as those of proxies. New connections of others wait
    /// while connections of their address are closed again and again because they flood.
    pub fn shared_addresses(
        mut self,
        is_shared: impl Fn(IpAddr) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.preface.floods.is_shared = Some(Arc::new(is_shared));
        self
    }

    /// Sets the counters of what happens to connections before HTTP, and of those that it closes.
    pub fn with_counts(mut self, counts: ServeCounts) -> Self {
        self.preface.counts = counts;
        self
    }

    /// Bounds the memory of requests that are answered, by the share
    /// [`Connections`](crate::budget::Share::Connections) of this budget: their heads, and over
    /// HTTP/2 what is kept for each. When it is full, further requests are answered with `503` and
    /// `Retry-After` before any handler sees them. Without it, [`connections_max`] alone bounds
    /// them.
    ///
    /// [`connections_max`]: Self::connections_max
    pub fn with_budget(mut self, budget: &Budget) -> Self {
        self.requests = RequestRoom::new(budget.account(Share::Connections).clone());
        self
    }

    /// How many threads own the sockets of streams, at most
    /// [`limits::SHARDS_MAX`](crate::limits::SHARDS_MAX). Each hub has a separate set of threads,
    /// from its first stream until the server is dropped, and they keep the hub alive. Default: one
    /// per core.
    ///
    /// With 0, hyper writes every stream, at the cost of a task and two buffers each. This is for
    /// applications that cannot have further threads.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = Some(shards.min(SHARDS_MAX));
        self
    }

    async fn run(self) -> io::Result<()> {
        let Self { listener, router, options, preface, requests, shards, mut shutdown } = self;
        let shards = shards.unwrap_or_else(cores);
        // Accepted sockets inherit these on Linux only; `Connection::serve` sets nodelay elsewhere.
        let socket = socket2::SockRef::from(&listener);
        let _ = socket.set_tcp_nodelay(true);
        let engine = (shards > 0).then(|| Engine::new(shards));
        let shared = Arc::new(Shared { router, options, preface, requests, engine });
        let slots = ConnectionSlots::new(options.connections_max);
        let (stop, stopping) = watch::channel(());
        let logs = AcceptLogs::default();
        loop {
            let (socket, peer, slot) = tokio::select! {
                () = &mut shutdown => break,
                accepted = accept(&listener, &slots, &logs) => accepted,
            };
            let (shared, stopping) = (Arc::clone(&shared), stopping.clone());
            let connection = Connection { socket, peer, slot, shared, stopping };
            tokio::spawn(async move {
                if let Err(error) = connection.serve().await {
                    // Clients disconnect all the time, so this is not worth a higher level.
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

/// What any client can make happen again and again.
#[derive(Default)]
struct AcceptLogs {
    full: ThrottledLog,
    failed: ThrottledLog,
}

/// Accepts the next connection once a slot is free. Cancel safe: no accepted connection is lost.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<ConnectionSlots>,
    logs: &AcceptLogs,
) -> (TcpStream, SocketAddr, ConnectionSlot) {
    if slots.is_full()
        && let Some(suppressed) = logs.full.due()
    {
        tracing::warn!(
            suppressed,
            "connection limit reached: new connections wait until others close"
        );
    }
    let slot = slots.acquire().await;
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => return (socket, peer, slot),
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                // Not reset by a success: at the descriptor limit, each connection that closes lets
                // another one in, and the failure persists.
                if let Some(suppressed) = logs.failed.due() {
                    tracing::error!(
                        suppressed,
                        "cannot accept connections, retrying: {error}; if descriptors ran out, \
                         raise their limit (ulimit -n) or lower the connection limit"
                    );
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether only the accepted connection failed, and not the listener or the process.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
