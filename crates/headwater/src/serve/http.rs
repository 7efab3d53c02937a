//! One connection, from its first byte to its end or until the engine takes it. Look here for the
//! configuration of hyper.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::deadline::{self, DeadlineSocket, HttpVersion};
use super::options::ServeOptions;
use super::preface::{Accepted, Preface, Socket};
use super::takeover::{self, Detached, Reply, Slot};
use crate::engine::{ConnectionSlot, Engine};
use crate::limits::{
    HTTP1_BUFFER_BYTES, HTTP2_CONNECTION_WINDOW_BYTES, HTTP2_ERROR_RESETS_MAX, HTTP2_HEADER_BYTES,
    HTTP2_PENDING_RESETS_MAX, HTTP2_SEND_BUFFER_BYTES, HTTP2_STREAM_WINDOW_BYTES,
    HTTP2_STREAMS_MAX, KEEP_ALIVE_INTERVAL,
};
use crate::response::Watch;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What all connections of a server share.
pub(super) struct Shared {
    pub(super) router: Router,
    pub(super) options: ServeOptions,
    pub(super) preface: Preface,
    /// `None` if every stream stays with hyper.
    pub(super) engine: Option<Engine>,
}

/// An accepted connection.
pub(super) struct Connection {
    pub(super) socket: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) slot: ConnectionSlot,
    pub(super) shared: Arc<Shared>,
    pub(super) stopping: watch::Receiver<()>,
}

/// How hyper's part of a connection ended.
enum Outcome<S> {
    Closed,
    /// The socket, the bytes that hyper read and did not consume, and the stream for the engine.
    Detached(S, Bytes, Box<Detached>),
}

impl Connection {
    /// Serves the connection to its end.
    pub(super) async fn serve(self) -> Result<(), BoxError> {
        let Self { socket, peer, slot, shared, mut stopping } = self;
        if !cfg!(target_os = "linux") {
            socket.set_nodelay(true)?;
        }
        let send = deadline::WriteDeadline::new(shared.options.send_timeout);
        let accepted = tokio::select! {
            // Boxed, so that the task shrinks when it is done.
            accepted = Box::pin(shared.preface.accept(socket, peer, &send)) => accepted?,
            // There was no request yet.
            _ = stopping.changed() => return Ok(()),
        };
        let Some(Accepted { socket, client }) = accepted else { return Ok(()) };
        match socket {
            Socket::Plain(socket) => {
                let engine = shared.engine.as_ref();
                let outcome = serve_http(socket, client, &shared, send, engine, stopping).await?;
                if let (Outcome::Detached(socket, read, detached), Some(engine)) = (outcome, engine)
                {
                    takeover::run(socket, read, *detached, engine, slot).await;
                }
            }
            // The engine writes to raw sockets, so TLS streams stay with hyper.
            #[cfg(feature = "tls")]
            Socket::Tls(socket) => {
                serve_http(socket, client, &shared, send, None, stopping).await?;
            }
        }
        Ok(())
    }
}

/// Serves the HTTP version that the client speaks, until the connection closes or carries a stream
/// for the engine.
async fn serve_http<S>(
    socket: S,
    client: SocketAddr,
    shared: &Shared,
    send: deadline::WriteDeadline,
    engine: Option<&Engine>,
    mut stopping: watch::Receiver<()>,
) -> Result<Outcome<S>, BoxError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let slot = Arc::new(Slot::default());
    let timeout = shared.options.header_timeout;
    let mut socket = DeadlineSocket::new(socket, timeout, send.clone(), Arc::clone(&slot));
    let version = tokio::select! {
        version = socket.version() => version?,
        // There was no request yet.
        _ = stopping.changed() => return Ok(Outcome::Closed),
    };
    // Boxed, so that the task shrinks when a stream has only its replay left.
    match version {
        None => Ok(Outcome::Closed),
        Some(HttpVersion::Http2) => {
            Box::pin(serve_http2(socket, client, shared, stopping)).await?;
            Ok(Outcome::Closed)
        }
        Some(HttpVersion::Http1) => {
            let has_engine = engine.is_some();
            let serving = serve_http1(socket, client, shared, send, &slot, has_engine, stopping);
            Box::pin(serving).await
        }
    }
}

async fn serve_http1<S>(
    socket: DeadlineSocket<S>,
    client: SocketAddr,
    shared: &Shared,
    send: deadline::WriteDeadline,
    slot: &Arc<Slot>,
    has_engine: bool,
    mut stopping: watch::Receiver<()>,
) -> Result<Outcome<S>, BoxError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let router = TowerToHyperService::new(shared.router.clone());
    let service_slot = Arc::clone(slot);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(client));
        let slot =
            (has_engine && takeover::is_eligible(&request)).then(|| Arc::clone(&service_slot));
        answer_http1(router.call(request), send.clone(), slot)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(shared.options.header_timeout)
        .max_buf_size(HTTP1_BUFFER_BYTES);
    let mut connection = Some(http.serve_connection(TokioIo::new(socket), service));
    let mut stopping = pin!(stopping.changed());
    let mut is_stopping = false;
    poll_fn(|context| {
        let Some(http) = &mut connection else { return Poll::Ready(Ok(Outcome::Closed)) };
        if !is_stopping && stopping.as_mut().poll(context).is_ready() {
            is_stopping = true;
            Pin::new(&mut *http).graceful_shutdown();
        }
        if let Poll::Ready(ended) = Pin::new(&mut *http).poll(context) {
            return Poll::Ready(ended.map(|()| Outcome::Closed).map_err(Into::into));
        }
        match (slot.take(), &mut connection) {
            (Some(detached), http @ Some(_)) => {
                let parts = http.take().expect("matched as some").into_parts();
                let (socket, unread) = parts.io.into_inner().into_parts();
                let read = if unread.is_empty() { parts.read_buf } else { unread };
                Poll::Ready(Ok(Outcome::Detached(socket, read, Box::new(detached))))
            }
            _ => Poll::Pending,
        }
    })
    .await
}

/// Awaits a response. Over HTTP/1 the socket carries one response at a time, so the socket is
/// watched on behalf of a stream, and a stream may be put into the slot.
async fn answer_http1(
    response: impl Future<Output = Result<Response<Body>, Infallible>>,
    send: deadline::WriteDeadline,
    slot: Option<Arc<Slot>>,
) -> Result<Response<Reply>, Infallible> {
    let mut response = response.await?;
    send.begin(response.extensions_mut().remove::<Watch>());
    match slot {
        Some(slot) => Ok(takeover::answer(response, &slot).await),
        None => Ok(response.map(Reply::from)),
    }
}

/// Serves HTTP/2. The socket carries many streams, so its progress says nothing about any of them.
async fn serve_http2<S>(
    socket: DeadlineSocket<S>,
    client: SocketAddr,
    shared: &Shared,
    mut stopping: watch::Receiver<()>,
) -> Result<(), BoxError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let router = TowerToHyperService::new(shared.router.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(client));
        router.call(request)
    });
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_send_buf_size(HTTP2_SEND_BUFFER_BYTES)
        .max_header_list_size(HTTP2_HEADER_BYTES)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .max_pending_accept_reset_streams(HTTP2_PENDING_RESETS_MAX)
        .max_local_error_reset_streams(HTTP2_ERROR_RESETS_MAX)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_INTERVAL);
    let mut connection = pin!(http.serve_connection(TokioIo::new(socket), service));
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        _ = stopping.changed() => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}
