//! One connection, from its first byte until it closes or becomes a stream of the engine. Look here
//! for how hyper is configured.

use std::convert::Infallible;
use std::error::Error as _;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::IntoResponse as _;
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
use tokio::time::interval;

use super::activity::{Activity, Inactive};
use super::counts::Closed;
use super::deadline::{DeadlineSocket, HttpVersion, WriteDeadline};
use super::floods::CloseReport;
use super::http2_guard::Http2Guard;
use super::options::ServeOptions;
use super::preface::{Accepted, Preface, Socket};
use super::request_room::RequestRoom;
use super::takeover::{self, Detached, Reply, Slot};
use crate::engine::{ConnectionSlot, Engine};
use crate::limits::{
    HTTP1_BUFFER_BYTES, HTTP2_CHECK_INTERVAL_MAX, HTTP2_CONNECTION_WINDOW_BYTES,
    HTTP2_ERROR_RESETS_MAX, HTTP2_HEADER_BYTES, HTTP2_PENDING_RESETS_MAX, HTTP2_SEND_BUFFER_BYTES,
    HTTP2_STREAM_WINDOW_BYTES, HTTP2_STREAMS_MAX, KEEP_ALIVE_INTERVAL, TICK,
};
use crate::response::StreamHandle;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What all connections of a server share.
pub(super) struct Shared {
    pub(super) router: Router,
    pub(super) options: ServeOptions,
    pub(super) preface: Preface,
    pub(super) requests: RequestRoom,
    /// `None` if hyper writes every stream.
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
    /// The engine takes over: the socket, the bytes read from it and not consumed, and the
    /// response.
    Detached(S, Bytes, Box<Detached>),
}

impl Connection {
    /// Serves the connection until it closes, or until the engine has its stream.
    ///
    /// # Errors
    /// If the connection fails or exceeds a timeout.
    pub(super) async fn serve(self) -> Result<(), BoxError> {
        let Self { socket, peer, slot, shared, mut stopping } = self;
        if !cfg!(target_os = "linux") {
            socket.set_nodelay(true)?;
        }
        let deadline = WriteDeadline::new(shared.options.send_timeout);
        let accepted = tokio::select! {
            // Boxed, so that the task does not retain the space of this future.
            accepted = Box::pin(shared.preface.accept(socket, peer, &deadline)) => accepted?,
            // No request is pending yet.
            _ = stopping.changed() => return Ok(()),
        };
        let Some(Accepted { socket, client }) = accepted else { return Ok(()) };
        match socket {
            Socket::Plain(socket) => {
                let engine = shared.engine.as_ref();
                let outcome =
                    serve_http(socket, client, &shared, deadline, engine, stopping).await?;
                if let Outcome::Detached(socket, read, detached) = outcome {
                    takeover::hand_over(socket, &read, *detached, slot);
                }
            }
            // The engine writes to the socket directly and cannot encrypt.
            #[cfg(feature = "tls")]
            Socket::Tls(socket) => {
                serve_http(socket, client, &shared, deadline, None, stopping).await?;
            }
        }
        Ok(())
    }
}

/// Serves HTTP in the client's version until the connection closes or, if there is an engine, until
/// the engine takes over a stream.
async fn serve_http<S>(
    socket: S,
    client: SocketAddr,
    shared: &Shared,
    deadline: WriteDeadline,
    engine: Option<&Engine>,
    mut stopping: watch::Receiver<()>,
) -> Result<Outcome<S>, BoxError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let slot = Arc::new(Slot::default());
    let timeout = shared.options.header_timeout;
    let mut socket = DeadlineSocket::new(socket, timeout, deadline.clone(), Arc::clone(&slot));
    let version = tokio::select! {
        version = socket.version() => version?,
        // No request is pending yet.
        _ = stopping.changed() => return Ok(Outcome::Closed),
    };
    // Boxed, so that the task is small until the version is known.
    match version {
        None => Ok(Outcome::Closed),
        Some(HttpVersion::Http2) => {
            let Preface { counts, floods, .. } = shared.preface.clone();
            let report = CloseReport { counts, floods, client: client.ip() };
            let socket = Http2Guard::new(socket, timeout, report.clone());
            Box::pin(serve_http2(socket, client, shared, report, stopping)).await?;
            Ok(Outcome::Closed)
        }
        Some(HttpVersion::Http1) => {
            Box::pin(serve_http1(socket, client, shared, deadline, &slot, engine, stopping)).await
        }
    }
}

async fn serve_http1<S>(
    socket: DeadlineSocket<S>,
    client: SocketAddr,
    shared: &Shared,
    deadline: WriteDeadline,
    slot: &Arc<Slot>,
    engine: Option<&Engine>,
    mut stopping: watch::Receiver<()>,
) -> Result<Outcome<S>, BoxError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let router = TowerToHyperService::new(shared.router.clone());
    let service_slot = Arc::clone(slot);
    let requests = shared.requests.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(client));
        let engine = engine.filter(|_| takeover::is_eligible(&request));
        let takeover = engine.map(|engine| (engine, Arc::clone(&service_slot)));
        let room = requests.take_http1(&request);
        let responding = room.map(|room| (router.call(request), room));
        let response = async {
            match responding {
                Ok((responding, _room)) => responding.await,
                Err(full) => Ok(full.into_response()),
            }
        };
        respond_http1(response, deadline.clone(), takeover)
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
                let parts = http.take().expect("the pattern matched `Some`").into_parts();
                let (socket, unread) = parts.io.into_inner().into_parts();
                let read = if unread.is_empty() { parts.read_buf } else { unread };
                Poll::Ready(Ok(Outcome::Detached(socket, read, Box::new(detached))))
            }
            _ => Poll::Pending,
        }
    })
    .await
}

/// Awaits a response. HTTP/1.1 responses do not share the socket, so the socket can apply the send
/// timeout of an event stream, and the engine can take over the stream through the slot.
async fn respond_http1(
    response: impl Future<Output = Result<Response<Body>, Infallible>>,
    deadline: WriteDeadline,
    takeover: Option<(&Engine, Arc<Slot>)>,
) -> Result<Response<Reply>, Infallible> {
    let response = response.await?;
    deadline.begin(response.extensions().get::<StreamHandle>().cloned());
    match takeover {
        Some((engine, slot)) => Ok(takeover::respond(response, engine, &slot).await),
        None => Ok(response.map(Reply::from)),
    }
}

/// Many requests share the socket over HTTP/2, so a blocked write says nothing about a single one.
async fn serve_http2<S>(
    socket: Http2Guard<S>,
    client: SocketAddr,
    shared: &Shared,
    report: CloseReport,
    mut stopping: watch::Receiver<()>,
) -> Result<(), BoxError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let router = TowerToHyperService::new(shared.router.clone());
    let activity = Activity::new();
    let of_requests = activity.clone();
    let requests = shared.requests.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(client));
        let room = requests.take_http2(&request);
        let responding = room.map(|room| (router.call(request), room));
        let mut begun = of_requests.begin();
        async move {
            let response = match responding {
                Ok((responding, room)) => {
                    begun.hold(room);
                    responding.await?
                }
                Err(full) => full.into_response(),
            };
            let stream = response.extensions().get::<StreamHandle>();
            let is_stream = stream.is_some_and(|stream| stream.send_timeout().is_some());
            Ok::<_, Infallible>(response.map(|body| begun.answer(body, is_stream)))
        }
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
    let send_timeout = shared.options.send_timeout;
    let mut checks = interval((send_timeout / 2).clamp(TICK, HTTP2_CHECK_INTERVAL_MAX));
    let mut is_stopping = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Some(reason) = ended.as_ref().err().and_then(reason_of) {
                    report.closed(reason);
                }
                return Ok(ended?);
            }
            _ = stopping.changed(), if !is_stopping => {
                is_stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            _ = checks.tick() => match activity.check(send_timeout) {
                Some(Inactive::Stalled) => {
                    report.closed(Closed::Stalled);
                    return Err("send timeout: the client does not take an answer".into());
                }
                Some(Inactive::Idle) if !is_stopping => {
                    is_stopping = true;
                    report.closed(Closed::Idle);
                    connection.as_mut().graceful_shutdown();
                }
                _ => {}
            },
        }
    }
}

/// Why the HTTP library closed a connection, if what the client sent is the reason.
fn reason_of(error: &hyper::Error) -> Option<Closed> {
    let error: &h2::Error = error.source()?.downcast_ref()?;
    if !error.is_library() {
        return None;
    }
    let is_flood = error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM);
    Some(if is_flood { Closed::Flood } else { Closed::ProtocolError })
}
