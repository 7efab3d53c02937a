//! The one HTTP client: for the application that authorises, sets of keys, ACME, and the client
//! commands. Look here for what bounds an exchange with another server.
//!
//! Connections are pooled. A redirect is a response like any other, and is not followed.

mod tls;

use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client as Pool, Error as PoolError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use instant_acme::{BodyWrapper, BytesResponse};
use rustls::ClientConfig;
use tokio::time::timeout;

use crate::limits::{
    ACME_ANSWER_BYTES_MAX, ACME_ANSWER_TIMEOUT, OUTBOUND_CONNECT_TIMEOUT, OUTBOUND_IDLE_TIMEOUT,
    OUTBOUND_KEEPALIVE,
};
use crate::settings::{HttpUrl, show_duration};

/// The value of `User-Agent`.
pub(crate) const AGENT: &str = concat!("headwater/", env!("CARGO_PKG_VERSION"));

type Connections = Pool<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A client for one runtime; clones share its connections.
#[derive(Clone)]
pub(crate) struct Client(Arc<Inner>);

struct Inner {
    plain: OnceLock<Connections>,
    /// Created for the first `https` URL: a system without certificates needs none before.
    secure: OnceLock<Connections>,
}

/// A response, read completely.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// Whether it is JSON by its media type.
    pub(crate) fn is_json(&self) -> bool {
        let media_type = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        media_type.is_some_and(|value| value.to_ascii_lowercase().contains("json"))
    }
}

/// A GET, with additional query and headers.
pub(crate) fn get(
    url: &HttpUrl,
    query: &str,
    headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
) -> anyhow::Result<Request<Full<Bytes>>> {
    let mut request = Request::get(url.with_query(query))
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, AGENT);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request.body(Full::default()).context("the request cannot be made")
}

impl Client {
    /// A client without connections.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner { plain: OnceLock::new(), secure: OnceLock::new() }))
    }

    /// Sends a request and reads the response, within a time. `shown` names the server in errors.
    pub(crate) async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        shown: &str,
        within: Duration,
        bytes_max: usize,
    ) -> anyhow::Result<Answer> {
        let exchange = async { collect(self.send(request).await?, bytes_max).await };
        let answer = in_time(exchange, within).await;
        answer.map_err(|error| error.shown(shown))
    }

    /// Sends a request and returns when the head of the response has arrived, within a time. Its
    /// body may be endless.
    pub(crate) async fn open(
        &self,
        request: Request<Full<Bytes>>,
        shown: &str,
        within: Duration,
    ) -> anyhow::Result<Response<Incoming>> {
        let answer = in_time(self.send(request), within).await;
        answer.map_err(|error| error.shown(shown))
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Fault> {
        let is_tls = request.uri().scheme() == Some(&http::uri::Scheme::HTTPS);
        let connections = self.connections(is_tls).map_err(Fault::NotReached)?;
        connections.request(request).await.map_err(|error| Fault::of(&error))
    }

    fn connections(&self, is_tls: bool) -> anyhow::Result<&Connections> {
        let (cell, config): (_, fn() -> anyhow::Result<ClientConfig>) = if is_tls {
            (&self.0.secure, tls::config)
        } else {
            (&self.0.plain, tls::unused_config)
        };
        if let Some(connections) = cell.get() {
            return Ok(connections);
        }
        let made = connections(config()?);
        Ok(cell.get_or_init(|| made))
    }
}

fn connections(config: ClientConfig) -> Connections {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(OUTBOUND_CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(OUTBOUND_KEEPALIVE));
    tcp.set_keepalive_interval(Some(OUTBOUND_KEEPALIVE / 3));
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp);
    Pool::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(OUTBOUND_IDLE_TIMEOUT)
        .build(connector)
}

/// Reads the response to an opened request, within a time.
pub(crate) async fn read(
    response: Response<Incoming>,
    within: Duration,
    bytes_max: usize,
) -> anyhow::Result<Answer> {
    match in_time(collect(response, bytes_max), within).await {
        Ok(answer) => Ok(answer),
        Err(Fault::NotReached(error) | Fault::NotAnswered(error)) => Err(error),
    }
}

async fn collect(response: Response<Incoming>, bytes_max: usize) -> Result<Answer, Fault> {
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, bytes_max).collect().await;
    let body =
        body.map_err(|error| Fault::NotAnswered(anyhow!("the answer broke off: {error}")))?;
    Ok(Answer { status: parts.status, headers: parts.headers, body: body.to_bytes() })
}

/// Why there is no response.
enum Fault {
    NotReached(anyhow::Error),
    NotAnswered(anyhow::Error),
}

impl Fault {
    /// The innermost cause states what happened; the outer ones only where.
    fn of(error: &PoolError) -> Self {
        let mut cause: &(dyn StdError + 'static) = error;
        while let Some(inner) = hidden_in(cause).or(cause.source()) {
            cause = inner;
        }
        let is_of_tls = cause.is::<rustls::Error>();
        let why = if is_of_tls { anyhow!("TLS failed: {cause}") } else { anyhow!("{cause}") };
        if error.is_connect() { Self::NotReached(why) } else { Self::NotAnswered(why) }
    }

    fn shown(self, server: &str) -> anyhow::Error {
        match self {
            Self::NotReached(error) => error.context(format!("cannot reach {server}")),
            Self::NotAnswered(error) => error.context(format!("no answer from {server}")),
        }
    }
}

/// The inner error of an I/O error, which is not its source.
fn hidden_in<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    let inner = error.downcast_ref::<io::Error>()?.get_ref()?;
    Some(inner)
}

async fn in_time<T>(
    exchange: impl Future<Output = Result<T, Fault>>,
    within: Duration,
) -> Result<T, Fault> {
    timeout(within, exchange).await.unwrap_or_else(|_| {
        Err(Fault::NotAnswered(anyhow!("it took longer than {}", show_duration(within))))
    })
}

impl instant_acme::HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move {
            let answer = client.exchange_with_acme(request).await;
            answer.map_err(|error| instant_acme::Error::Other(error.into()))
        })
    }
}

impl Client {
    async fn exchange_with_acme(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> anyhow::Result<BytesResponse> {
        let (parts, body) = request.into_parts();
        let url: HttpUrl = parts.uri.to_string().parse().map_err(anyhow::Error::msg)?;
        let url = url.to_string();
        if parts.uri.scheme() != Some(&http::uri::Scheme::HTTPS) {
            bail!("{url}: an ACME server must be spoken to over https://");
        }
        let body = Full::new(body.collect().await?.to_bytes());
        let request = Request::from_parts(parts, body);
        let answer =
            self.exchange(request, &url, ACME_ANSWER_TIMEOUT, ACME_ANSWER_BYTES_MAX).await?;
        if !answer.status.is_success() && !answer.is_json() {
            bail!("{url} answers {}, and says no more", answer.status);
        }
        let mut response = Response::new(Full::new(answer.body));
        (*response.status_mut(), *response.headers_mut()) = (answer.status, answer.headers);
        Ok(response.into())
    }
}
