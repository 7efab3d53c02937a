//! TLS on accepted sockets: the handshake, its bounds, and the response to plain HTTP. Look here
//! for what happens before the first request over TLS.

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

use super::counts::ServeCounts;
use super::deadline::{DeadlineSocket, WriteDeadline};
use crate::limits::{TLS_BUFFER_BYTES, TLS_HANDSHAKE_TIMEOUT, TLS_HANDSHAKES_MAX};

/// The first byte of a TLS handshake record. No HTTP request begins with it.
const HANDSHAKE: u8 = 0x16;

/// A socket after its handshake. The deadline is below TLS, where it observes whether the client
/// accepts data; above TLS, a write completes as soon as the bytes are in the buffer of the TLS
/// session.
pub(super) type TlsSocket = Box<TlsStream<DeadlineSocket<TcpStream>>>;

/// The TLS configuration of a server, and the limit on concurrent signatures.
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

    /// Performs the handshake. `None` if the client sent plain HTTP, which has been answered.
    ///
    /// # Errors
    /// If the handshake fails or times out, or the response to plain HTTP cannot be sent.
    pub(super) async fn accept(
        &self,
        socket: TcpStream,
        deadline: &WriteDeadline,
        counts: &ServeCounts,
    ) -> io::Result<Option<TlsSocket>> {
        let count = |counter: &std::sync::atomic::AtomicU64| {
            counter.fetch_add(1, Ordering::Relaxed);
        };
        let handshake = timeout(TLS_HANDSHAKE_TIMEOUT, self.handshake(socket, deadline)).await;
        let handshake = handshake.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, "TLS handshake timeout"))
        });
        match handshake {
            Ok(Handshake::Tls(socket)) => {
                count(&counts.0.tls_handshakes);
                Ok(Some(socket))
            }
            Ok(Handshake::Plain(socket)) => {
                count(&counts.0.tls_plain);
                answer_plain_http(socket, deadline).await?;
                Ok(None)
            }
            Err(error) => {
                count(&counts.0.tls_errors);
                Err(error)
            }
        }
    }

    async fn handshake(
        &self,
        socket: TcpStream,
        deadline: &WriteDeadline,
    ) -> io::Result<Handshake> {
        let mut first = [0];
        if socket.peek(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if first[0] != HANDSHAKE {
            return Ok(Handshake::Plain(socket));
        }
        let socket = DeadlineSocket::writes_only(socket, deadline.clone());
        // Reading the client's hello is cheap and needs no permit.
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), socket).await?;
        let limit = |session: &mut rustls::ServerConnection| {
            session.set_buffer_limit(Some(TLS_BUFFER_BYTES));
        };
        let mut rest = pin!(start.into_stream_with(Arc::clone(&self.config), limit));
        // The next step computes the signature. Only this step needs a permit, so that few of them
        // at a time delay the tasks of streams, and a client that stops halfway does not hold one.
        let signed = {
            let _permit = self.handshakes.acquire().await;
            poll_fn(|context| Poll::Ready(rest.as_mut().poll(context))).await
        };
        let socket = match signed {
            Poll::Ready(done) => done?,
            Poll::Pending => rest.await?,
        };
        Ok(Handshake::Tls(Box::new(socket)))
    }
}

/// What the client speaks.
enum Handshake {
    Tls(TlsSocket),
    Plain(TcpStream),
}

/// Answers one plain HTTP request, and closes the connection.
async fn answer_plain_http(socket: TcpStream, deadline: &WriteDeadline) -> io::Result<()> {
    let io = TokioIo::new(DeadlineSocket::new(
        socket,
        TLS_HANDSHAKE_TIMEOUT,
        deadline.clone(),
        Arc::default(),
    ));
    let service = service_fn(async |request| Ok::<_, Infallible>(https_hint(&request)));
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(TLS_HANDSHAKE_TIMEOUT)
        .serve_connection(io, service);
    // Once for the request head, once for the response.
    match timeout(2 * TLS_HANDSHAKE_TIMEOUT, connection).await {
        Ok(ended) => ended.map_err(io::Error::other),
        Err(_) => {
            Err(io::Error::new(io::ErrorKind::TimedOut, "send timeout: the client accepts no data"))
        }
    }
}

/// A redirect to the same URL over HTTPS for requests that are safe to repeat. An error for others:
/// they may already have exposed a secret, which a redirect would hide.
fn https_hint(request: &Request<Incoming>) -> Response<String> {
    let is_repeatable = matches!(*request.method(), Method::GET | Method::HEAD);
    let location = secure_location(request).filter(|_| is_repeatable);
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
