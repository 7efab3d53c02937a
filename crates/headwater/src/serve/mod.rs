//! Serving an axum router over HTTP/1.1 and HTTP/2, with limits that long-lived streams need. Look here for
//! accepting, timeouts and the graceful end.

mod entrance;
mod guard;
mod proxy_header;
mod seldom;
#[cfg(feature = "tls")]
mod tls;

use std::convert::Infallible;
use std::future::{Future, IntoFuture};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::limits::{
    CONNECTIONS_MAX, HEADER_TIMEOUT_DEFAULT, HTTP1_BUFFER_BYTES, HTTP2_CONNECTION_WINDOW_BYTES,
    HTTP2_ERROR_RESETS_MAX, HTTP2_HEADER_BYTES, HTTP2_PENDING_RESETS_MAX, HTTP2_SEND_BUFFER_BYTES,
    HTTP2_STREAM_WINDOW_BYTES, HTTP2_STREAMS_MAX, KEEP_ALIVE_INTERVAL, SEND_TIMEOUT_DEFAULT,
};
use crate::response::Watch;
use entrance::{Entered, Entrance, Socket};
use guard::Guard;

pub use entrance::ServeCounts;
pub use proxy_header::{ProxyHeader, ProxyHeaderError, ProxyHeaderProgress};

/// How long accepting rests when the process is out of descriptors or memory.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Serves a router on a listener: what `axum::serve` does, with the limits that event streams need. Await
/// it; it ends only through [`with_graceful_shutdown`](Serve::with_graceful_shutdown).
///
/// HTTP/1.1 and HTTP/2, without TLS unless [`tls`](Serve::tls) is set. Connections that send no request, that take too long over its header, or that take
/// nothing of a response are closed. Handlers can extract
/// [`ConnectInfo<SocketAddr>`](axum::extract::ConnectInfo).
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
        entrance: Entrance::default(),
        shutdown: Box::pin(std::future::pending()),
    }
}

/// A server that is set up and not yet running; see [`serve`].
#[must_use = "a server does nothing until it is awaited"]
pub struct Serve {
    listener: TcpListener,
    router: Router,
    settings: Settings,
    entrance: Entrance,
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
        self.settings.connections_max = connections.clamp(1, Semaphore::MAX_PERMITS);
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
        self.entrance.tls = Some(tls::Tls::new(config));
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
        self.entrance.proxy = Some(Arc::new(is_proxy));
        self
    }

    /// Counts here what happens on the way to HTTP.
    pub fn with_counts(mut self, counts: ServeCounts) -> Self {
        self.entrance.counts = counts;
        self
    }

    async fn run(self) -> io::Result<()> {
        let Self { listener, router, settings, entrance, mut shutdown } = self;
        let room = Arc::new(Semaphore::new(settings.connections_max));
        // Every connection holds a receiver; the sender waits until all are gone.
        let (stop, stopping) = watch::channel(());
        loop {
            let (socket, peer, place) = tokio::select! {
                () = &mut shutdown => break,
                accepted = accept(&listener, &room) => accepted,
            };
            let (entrance, router) = (entrance.clone(), router.clone());
            let connection = connect(socket, peer, entrance, router, settings, stopping.clone());
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    // Clients come and go; that is no news.
                    tracing::debug!(%peer, "a connection ended: {error}");
                }
                drop(place);
            });
        }
        drop((listener, stopping));
        let _ = stop.send(());
        stop.closed().await;
        Ok(())
    }
}

impl IntoFuture for Serve {
    type Output = io::Result<()>;
    type IntoFuture = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

type Place = tokio::sync::OwnedSemaphorePermit;

/// The next connection, as soon as there is room for one. Cancel safe: nothing accepted is lost.
async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> (TcpStream, SocketAddr, Place) {
    if room.available_permits() == 0 {
        tracing::warn!("the limit of connections is reached: new ones wait until others close");
    }
    // The semaphore is never closed, so this is always a permit.
    let place = loop {
        if let Ok(place) = Arc::clone(room).acquire_owned().await {
            break place;
        }
    };
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => return (socket, peer, place),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::error!("cannot accept a connection, trying again: {error}");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Serves one connection to its end.
async fn connect(
    socket: TcpStream,
    peer: SocketAddr,
    entrance: Entrance,
    router: Router,
    settings: Settings,
    mut stopping: watch::Receiver<()>,
) -> Result<(), Failure> {
    socket.set_nodelay(true)?;
    let send = guard::Send::new(settings.send_timeout);
    let entered = tokio::select! {
        // Boxed: what it needs is given back when it is done, and streams last long.
        entered = Box::pin(entrance.enter(socket, peer, &send)) => entered?,
        // It has not asked for anything yet.
        _ = stopping.changed() => return Ok(()),
    };
    let Some(Entered { socket, client }) = entered else { return Ok(()) };
    match socket {
        Socket::Plain(socket) => speak(socket, client, send, router, settings, stopping).await,
        #[cfg(feature = "tls")]
        Socket::Tls(socket) => speak(socket, client, send, router, settings, stopping).await,
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Speaks HTTP on a socket, to the end.
async fn speak(
    socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    client: SocketAddr,
    send: guard::Send,
    router: Router,
    settings: Settings,
    mut stopping: watch::Receiver<()>,
) -> Result<(), Failure> {
    let io = TokioIo::new(Guard::new(socket, settings.header_timeout, send.clone()));
    let service = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(client));
        // Over HTTP/2 the socket carries other streams too, and says nothing about one of them. The
        // response does not know: its version is that of its builder.
        let watched = (request.version() < Version::HTTP_2).then(|| send.clone());
        answer(service.call(request), watched)
    });
    let http = http(settings);
    let connection = http.serve_connection(io, service);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        _ = stopping.changed() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// Awaits a response; if the socket is the stream's alone, it is watched for it.
async fn answer<B>(
    response: impl Future<Output = Result<Response<B>, Infallible>>,
    watched: Option<guard::Send>,
) -> Result<Response<B>, Infallible> {
    let mut response = response.await?;
    let watch = response.extensions_mut().remove::<Watch>();
    if let Some(send) = watched {
        send.begin(watch);
    }
    Ok(response)
}

fn http(settings: Settings) -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.header_timeout)
        .max_buf_size(HTTP1_BUFFER_BYTES);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_send_buf_size(HTTP2_SEND_BUFFER_BYTES)
        .max_header_list_size(HTTP2_HEADER_BYTES)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .max_pending_accept_reset_streams(HTTP2_PENDING_RESETS_MAX)
        .max_local_error_reset_streams(HTTP2_ERROR_RESETS_MAX)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_INTERVAL);
    http
}
