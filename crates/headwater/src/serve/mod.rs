//! Serving an axum router over HTTP/1.1 and HTTP/2, with limits that long-lived streams need. Look here for
//! accepting, timeouts and the graceful end.

mod chunked;
mod connection;
mod deadline;
mod engine;
mod preface;
mod proxy_header;
mod slots;
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

use crate::limits::{CONNECTIONS_MAX, HEADER_TIMEOUT_DEFAULT, SEND_TIMEOUT_DEFAULT, SHARDS_MAX};
use connection::{Connection, Shared};
use engine::Engine;
use preface::Preface;
use slots::{ConnectionSlot, ConnectionSlots};

pub use preface::ServeCounts;
pub use proxy_header::{ProxyHeader, ProxyHeaderError, ProxyHeaderProgress};

/// How long accepting rests when the process is out of descriptors or memory.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// How often the log says that it is.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Serves a router on a listener: what `axum::serve` does, with the limits that event streams need. Await
/// it; it ends only through [`with_graceful_shutdown`](Serve::with_graceful_shutdown).
///
/// HTTP/1.1 and HTTP/2, without TLS unless [`tls`](Serve::tls) is set. Connections that send no request, that take too long over its header, or that take
/// nothing of a response are closed. Handlers can extract
/// [`ConnectInfo<SocketAddr>`](axum::extract::ConnectInfo).
///
/// A stream of a hub that goes out over HTTP/1.1 is taken over by the engine, when all layers of the router
/// have run: a few threads own the sockets of all streams, so that a stream is a few hundred bytes, without a
/// task or a buffer of its own. The bytes of the body are the same. The connection closes with its stream.
/// A stream stays with hyper over HTTP/2, over TLS, over HTTP/1.0, with
/// [`until`](crate::EventSourceResponse::until), with `content-encoding` or another header about the
/// body, or behind a layer that changes the body. A layer must not change bytes only after the first ones
/// and pass on the body's exact size: it would be passed over.
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
        settings: Settings {
            connections_max: CONNECTIONS_MAX,
            header_timeout: HEADER_TIMEOUT_DEFAULT,
            send_timeout: SEND_TIMEOUT_DEFAULT,
        },
        preface: Preface::default(),
        shards: None,
        shutdown: Box::pin(std::future::pending()),
    }
}

/// A server that is set up and not yet running; see [`serve`].
#[must_use = "a server does nothing until it is awaited"]
pub struct Serve {
    listener: TcpListener,
    router: Router,
    settings: Settings,
    preface: Preface,
    /// `None` for as many as there are cores.
    shards: Option<usize>,
    shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
}

#[derive(Clone, Copy)]
struct Settings {
    connections_max: usize,
    header_timeout: Duration,
    send_timeout: Duration,
}

impl Serve {
    /// Stops accepting when the future resolves, lets each connection end its response, and then ends. It
    /// waits for streams of events without a bound: end them with
    /// [`Hub::drain`](crate::Hub::drain).
    pub fn with_graceful_shutdown(
        mut self,
        signal: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        self.shutdown = Box::pin(signal);
        self
    }

    /// Most connections at a time; further ones wait in the listener's backlog. Default 10,000.
    pub fn connections_max(mut self, connections: usize) -> Self {
        self.settings.connections_max = connections.clamp(1, tokio::sync::Semaphore::MAX_PERMITS);
        self
    }

    /// How long a client may take to begin a request, and to send its header. Default 10 s.
    pub fn header_timeout(mut self, timeout: Duration) -> Self {
        self.settings.header_timeout = timeout;
        self
    }

    /// How long a write may make no progress before its connection is closed. A stream of events has a
    /// timeout of its own. Default 30 s.
    pub fn send_timeout(mut self, timeout: Duration) -> Self {
        self.settings.send_timeout = timeout;
        self
    }

    /// Speaks TLS, with this configuration; needs the feature `tls`. Offer `h2` and `http/1.1` by ALPN for both
    /// versions of HTTP. To change a certificate while serving, let the configuration's resolver
    /// answer with another one: open connections stay.
    ///
    /// A handshake may take 10 s. Whoever speaks HTTP without TLS is redirected to `https://`, or told
    /// to go there.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, config: Arc<rustls::ServerConfig>) -> Self {
        self.preface.tls = Some(tls::Tls::new(config));
        self
    }

    /// Expects every connection to begin with a header of the PROXY protocol, version 1 or 2, as
    /// HAProxy, nginx and cloud load balancers send it. `ConnectInfo` is then the client's
    /// address, not the proxy's. Connections from peers for which `is_proxy` says no, and those
    /// whose header is wrong or does not come within 5 s, are closed.
    pub fn proxy_protocol(
        mut self,
        is_proxy: impl Fn(IpAddr) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.preface.proxy = Some(Arc::new(is_proxy));
        self
    }

    /// Counts here what happens on the way to HTTP.
    pub fn with_counts(mut self, counts: ServeCounts) -> Self {
        self.preface.counts = counts;
        self
    }

    /// How many threads own the sockets of streams, at most [`limits::SHARDS_MAX`](crate::limits::SHARDS_MAX);
    /// each hub has its own, from its first stream on until the server is gone, and lives as long. Default:
    /// one per core. With 0 every stream stays with hyper: a task and two
    /// buffers each, for programs that cannot have further threads.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = Some(shards.min(SHARDS_MAX));
        self
    }

    async fn run(self) -> io::Result<()> {
        let Self { listener, router, settings, preface, shards, mut shutdown } = self;
        let shards = shards.unwrap_or_else(cores);
        // Accepted sockets have it from the listener on Linux; see `Connection::serve` for others.
        let _ = socket2::SockRef::from(&listener).set_tcp_nodelay(true);
        let engine = (shards > 0).then(|| Engine::new(shards));
        let shared = Arc::new(Shared { router, settings, preface, engine });
        let room = ConnectionSlots::new(settings.connections_max);
        let (stop, stopping) = watch::channel(());
        // When the log said last that accepting fails.
        let mut told_at = None;
        loop {
            let (socket, peer, place) = tokio::select! {
                () = &mut shutdown => break,
                accepted = accept(&listener, &room, &mut told_at) => accepted,
            };
            let (shared, stopping) = (Arc::clone(&shared), stopping.clone());
            let connection = Connection { socket, peer, place, shared, stopping };
            tokio::spawn(async move {
                if let Err(error) = connection.serve().await {
                    // Clients come and go; that is no news.
                    tracing::debug!(%peer, "a connection ended: {error}");
                }
            });
        }
        drop((listener, stopping));
        let _ = stop.send(());
        room.emptied().await;
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

/// The next connection, as soon as there is room for one. Cancel safe: nothing accepted is lost.
async fn accept(
    listener: &TcpListener,
    room: &Arc<ConnectionSlots>,
    told_at: &mut Option<Instant>,
) -> (TcpStream, SocketAddr, ConnectionSlot) {
    if room.is_full() {
        tracing::warn!("the limit of connections is reached: new ones wait until others close");
    }
    let place = room.enter().await;
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => return (socket, peer, place),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // At the limit, every connection that closes lets one in: that is still the same trouble.
                if told_at.is_none_or(|told_at| told_at.elapsed() >= TELL_AGAIN) {
                    *told_at = Some(Instant::now());
                    tracing::error!(
                        "cannot accept connections, trying again until it works: {error}; \
                         if descriptors ran out, raise the limit (ulimit -n) or lower that of connections"
                    );
                }
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
