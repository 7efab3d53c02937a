//! A small HTTP client for the server itself: one request, one connection, no redirect. Look here for
//! what bounds a question to another server.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::settings::HttpUrl;

/// An answer, read whole.
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

/// A GET, with more of a query and headers.
pub(crate) fn get(
    url: &HttpUrl,
    query: &str,
    headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
) -> anyhow::Result<Request<Full<Bytes>>> {
    let mut request = Request::get(url.target(query))
        .header(HOST, url.authority())
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, concat!("headwater/", env!("CARGO_PKG_VERSION")));
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request.body(Full::default()).context("the request cannot be made")
}

/// Sends a request and reads the answer, all within a time. A redirect is an answer like another.
pub(crate) async fn send(
    url: &HttpUrl,
    request: Request<Full<Bytes>>,
    within: Duration,
    bytes_max: usize,
) -> anyhow::Result<Answer> {
    timeout(within, exchange(url, request, bytes_max))
        .await
        .map_err(|_| anyhow!("no answer within {within:?}"))
        .flatten()
        .with_context(|| format!("{url}"))
}

async fn exchange(
    url: &HttpUrl,
    request: Request<Full<Bytes>>,
    bytes_max: usize,
) -> anyhow::Result<Answer> {
    let stream = TcpStream::connect((url.host(), url.port())).await.context("cannot reach it")?;
    let _ = stream.set_nodelay(true);
    if url.is_tls() {
        let name = ServerName::try_from(url.host().to_owned()).context("its name is no host")?;
        let stream = tls()?.connect(name, stream).await.context("TLS failed")?;
        return over(stream, request, bytes_max).await;
    }
    over(stream, request, bytes_max).await
}

async fn over(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
    bytes_max: usize,
) -> anyhow::Result<Answer> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It must end with us, also when we give up.
    let connection = AbortOnDrop(tokio::spawn(connection));
    let response = sender.send_request(request).await?;
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, bytes_max).collect().await;
    let body = body.map_err(|error| anyhow!("the answer broke off: {error}"))?.to_bytes();
    drop(connection);
    Ok(Answer { status: parts.status, headers: parts.headers, body })
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// TLS with the system's certificates, read once.
fn tls() -> anyhow::Result<TlsConnector> {
    static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(TlsConnector::from(Arc::clone(config)));
    }
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        bail!(
            "this system has no certificates of authorities: install ca-certificates, or name a file with SSL_CERT_FILE"
        );
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::clone(CONFIG.get_or_init(|| Arc::new(config)))))
}
