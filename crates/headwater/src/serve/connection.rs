//! One connection, from its first byte to its end or until it is a stream of the engine. Look here for what hyper is
//! told.

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
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::Settings;
use super::engine::Engine;
use super::guard::{self, Guard, Spoken};
use super::room::Place;
use super::takeover::{self, Reply, Slot, Taken};
use crate::limits::{
    HTTP1_BUFFER_BYTES, HTTP2_HEADER_BYTES, HTTP2_SEND_BUFFER_BYTES, HTTP2_STREAMS_MAX,
    KEEP_ALIVE_INTERVAL,
};
use crate::response::Watch;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What all connections of a server share.
pub(super) struct Shared {
    pub(super) router: Router,
    pub(super) settings: Settings,
    /// `None` if every stream stays with hyper.
    pub(super) engine: Option<Engine>,
}

/// A connection that was accepted.
pub(super) struct Connection {
    pub(super) socket: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) place: Place,
    pub(super) shared: Arc<Shared>,
    pub(super) stopping: watch::Receiver<()>,
}

/// How hyper's part of a connection ended.
enum Outcome {
    Over,
    Taken(TcpStream, Bytes, Box<Taken>),
}

impl Connection {
    /// Serves it to its end.
    pub(super) async fn serve(self) -> Result<(), BoxError> {
        let Self { socket, peer, place, shared, mut stopping } = self;
        if !cfg!(target_os = "linux") {
            socket.set_nodelay(true)?;
        }
        let settings = shared.settings;
        let slot = Arc::new(Slot::default());
        let send = guard::Send::new(settings.send_timeout);
        let mut guard =
            Guard::new(socket, settings.header_timeout, send.clone(), Arc::clone(&slot));
        let version = tokio::select! {
            version = guard.version() => version?,
            // Nothing was asked yet.
            _ = stopping.changed() => return Ok(()),
        };
        // In boxes, so that the task is small again when a stream has only its replay to do.
        let taken = match version {
            None => return Ok(()),
            Some(Spoken::Http2) => {
                return Box::pin(serve_http2(guard, peer, &shared, stopping)).await;
            }
            Some(Spoken::Http1) => {
                let serving = serve_http1(guard, peer, &shared, send, &slot, stopping);
                Box::pin(serving).await?
            }
        };
        if let (Outcome::Taken(socket, read, taken), Some(engine)) = (taken, &shared.engine) {
            takeover::run(socket, read, *taken, engine, place).await;
        }
        Ok(())
    }
}

async fn serve_http1(
    guard: Guard<TcpStream>,
    peer: SocketAddr,
    shared: &Shared,
    send: guard::Send,
    slot: &Arc<Slot>,
    mut stopping: watch::Receiver<()>,
) -> Result<Outcome, BoxError> {
    let router = TowerToHyperService::new(shared.router.clone());
    let has_engine = shared.engine.is_some();
    let service_slot = Arc::clone(slot);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let slot =
            (has_engine && takeover::is_eligible(&request)).then(|| Arc::clone(&service_slot));
        answer_http1(router.call(request), send.clone(), slot)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(shared.settings.header_timeout)
        .max_buf_size(HTTP1_BUFFER_BYTES);
    let mut connection = Some(http.serve_connection(TokioIo::new(guard), service));
    let mut stopping = pin!(stopping.changed());
    let mut is_stopping = false;
    poll_fn(|context| {
        let Some(http) = &mut connection else { return Poll::Ready(Ok(Outcome::Over)) };
        if !is_stopping && stopping.as_mut().poll(context).is_ready() {
            is_stopping = true;
            Pin::new(&mut *http).graceful_shutdown();
        }
        if let Poll::Ready(ended) = Pin::new(&mut *http).poll(context) {
            return Poll::Ready(ended.map(|()| Outcome::Over).map_err(Into::into));
        }
        match (slot.take(), &mut connection) {
            (Some(taken), http @ Some(_)) => {
                let parts = http.take().expect("it is some").into_parts();
                let (socket, unread) = parts.io.into_inner().into_parts();
                let read = if unread.is_empty() { parts.read_buf } else { unread };
                Poll::Ready(Ok(Outcome::Taken(socket, read, Box::new(taken))))
            }
            _ => Poll::Pending,
        }
    })
    .await
}

/// Awaits a response. The socket is the response's alone, so it is watched for a stream; and a stream may
/// be put into the slot.
async fn answer_http1(
    response: impl Future<Output = Result<Response<Body>, Infallible>>,
    send: guard::Send,
    slot: Option<Arc<Slot>>,
) -> Result<Response<Reply>, Infallible> {
    let mut response = response.await?;
    send.begin(response.extensions_mut().remove::<Watch>());
    match slot {
        Some(slot) => Ok(takeover::answer(response, &slot).await),
        None => Ok(response.map(Reply::from)),
    }
}

/// Over HTTP/2 the socket carries many streams, and says nothing about one of them.
async fn serve_http2(
    guard: Guard<TcpStream>,
    peer: SocketAddr,
    shared: &Shared,
    mut stopping: watch::Receiver<()>,
) -> Result<(), BoxError> {
    let router = TowerToHyperService::new(shared.router.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        router.call(request)
    });
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_send_buf_size(HTTP2_SEND_BUFFER_BYTES)
        .max_header_list_size(HTTP2_HEADER_BYTES)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_INTERVAL);
    let mut connection = pin!(http.serve_connection(TokioIo::new(guard), service));
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        _ = stopping.changed() => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}
