//! TLS on accepted sockets: the handshake, its bounds, and the answer to those who speak HTTP without TLS. Look here for
//! what a client gets before its first request over TLS.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use http::header::{CONTENT_TYPE, HOST, LOCATION};
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::deadline::{DeadlineSocket, WriteDeadline};
use super::preface::ServeCounts;
use crate::limits::{TLS_BUFFER_BYTES, TLS_HANDSHAKE_TIMEOUT, TLS_HANDSHAKES_MAX};

/// The first byte of a TLS record with a handshake in it, and of no request of HTTP.
const HANDSHAKE: u8 = 0x16;

/// A socket after its handshake. The guard is below TLS, where it sees whether the client takes
/// anything: above, a write is done when TLS has it in its buffer.
pub(super) type TlsSocket = Box<TlsStream<DeadlineSocket<TcpStream>>>;

/// What is needed to speak TLS.
#[derive(Clone)]
pub(super) struct Tls {
    config: Arc<ServerConfig>,
    /// Permits for the expensive step of a handshake.
    handshakes: Arc<Semaphore>,
}

impl Tls {
    pub(super) fn new(config: Arc<ServerConfig>) -> Self {
        Self { config, handshakes: Arc::new(Semaphore::new(TLS_HANDSHAKES_MAX)) }
    }

    /// Does the handshake. `None` if the client spoke HTTP without TLS, and got its answer.
    pub(super) async fn enter(
        &self,
        socket: TcpStream,
        send: &WriteDeadline,
        counts: &ServeCounts,
    ) -> io::Result<Option<TlsSocket>> {
        let count = |counter: &std::sync::atomic::AtomicU64| {
            counter.fetch_add(1, Ordering::Relaxed);
        };
        let handshake = timeout(TLS_HANDSHAKE_TIMEOUT, self.begin(socket, send)).await;
        let handshake = handshake.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long"))
        });
        match handshake {
            Ok(Begun::Tls(socket)) => {
                count(&counts.0.tls_handshakes);
                Ok(Some(socket))
            }
            Ok(Begun::Plain(socket)) => {
                count(&counts.0.tls_plain);
                send_away(socket, send).await?;
                Ok(None)
            }
            Err(error) => {
                count(&counts.0.tls_errors);
                Err(error)
            }
        }
    }

    async fn begin(&self, socket: TcpStream, send: &WriteDeadline) -> io::Result<Begun> {
        let mut first = [0];
        if socket.peek(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if first[0] != HANDSHAKE {
            return Ok(Begun::Plain(socket));
        }
        let socket = DeadlineSocket::of_writes(socket, send.clone());
        // What the client wants is read first, and costs next to nothing.
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), socket).await?;
        let limit = |session: &mut rustls::ServerConnection| {
            session.set_buffer_limit(Some(TLS_BUFFER_BYTES));
        };
        let mut rest = pin!(start.into_stream_with(Arc::clone(&self.config), limit));
        // The next step is the one with the signature. A permit for this step alone: the tasks of
        // streams wait behind few of them, and a client that stops in the middle keeps none.
        let signed = {
            let _permit = self.handshakes.acquire().await;
            poll_fn(|context| Poll::Ready(rest.as_mut().poll(context))).await
        };
        let socket = match signed {
            Poll::Ready(done) => done?,
            Poll::Pending => rest.await?,
        };
        Ok(Begun::Tls(Box::new(socket)))
    }
}

enum Begun {
    Tls(TlsSocket),
    Plain(TcpStream),
}

/// Answers one request that came without TLS, and closes.
async fn send_away(socket: TcpStream, send: &WriteDeadline) -> io::Result<()> {
    let io = TokioIo::new(DeadlineSocket::new(
        socket,
        TLS_HANDSHAKE_TIMEOUT,
        send.clone(),
        Arc::default(),
    ));
    let service = service_fn(async |request| Ok::<_, Infallible>(where_to(&request)));
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(TLS_HANDSHAKE_TIMEOUT)
        .serve_connection(io, service);
    // Twice: for the head, and for the answer.
    match timeout(2 * TLS_HANDSHAKE_TIMEOUT, connection).await {
        Ok(ended) => ended.map_err(io::Error::other),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")),
    }
}

/// The same place with TLS, for requests that can be repeated there; for others, which may have sent a
/// secret already, the plain truth.
fn where_to(request: &Request<Incoming>) -> Response<String> {
    let repeatable = matches!(*request.method(), Method::GET | Method::HEAD);
    let location = secure_location(request).filter(|_| repeatable);
    let mut response =
        Response::new("This port speaks HTTPS: use https:// in the URL.\n".to_owned());
    *response.status_mut() = StatusCode::BAD_REQUEST;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if let Some(location) = location {
        headers.insert(LOCATION, location);
        *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    }
    response
}

fn secure_location(request: &Request<Incoming>) -> Option<HeaderValue> {
    let host = request.headers().get(HOST)?.to_str().ok()?;
    let authority: Authority = host.parse().ok()?;
    if authority.as_str().contains('@') {
        return None;
    }
    let path = request.uri().path_and_query()?;
    HeaderValue::try_from(format!("https://{authority}{path}")).ok()
}
