//! A small HTTP client: one request, one connection. Look here for what the client commands say when
//! a server cannot be reached or refuses.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::settings::Secret;

/// How long connecting may take. Longer than three lost SYN packets (1 + 2 + 4 s).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the head of an answer may take. A publish waits for Redis; chosen arbitrarily.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest answer that is read whole, in bytes. Receipts and problems are far shorter.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// When nothing came for this long, the kernel asks whether the other side is still there. Without
/// it a stream from a machine that lost its power would wait for ever.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// The URL of a server, without a path of its own: `http://HOST:PORT`, or with a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BaseUrl {
    /// Without the brackets of IPv6.
    host: String,
    port: u16,
    /// As it stands in the `host` header.
    authority: String,
    /// Empty, or begins with a slash and does not end with one.
    prefix: String,
    /// What allows the request; empty for nothing.
    token: Secret,
}

impl FromStr for BaseUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "write http://HOST:PORT";
        let uri: Uri = text.parse().map_err(|_| format!("it is not a URL: {FORM}"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err("https is not supported by this command yet: use the server's http \
                            address, or --redis"
                    .to_owned());
            }
            _ => return Err(format!("it does not begin with http://: {FORM}")),
        }
        let authority = uri.authority().ok_or_else(|| format!("it names no host: {FORM}"))?;
        if authority.as_str().contains('@') {
            return Err("a user and a password in it are not supported: leave them out".to_owned());
        }
        if uri.query().is_some() || text.contains('#') {
            return Err("it has a `?` or a `#`: leave out what begins there".to_owned());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        Ok(Self {
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(80),
            authority: authority.to_string(),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            token: Secret::new(""),
        })
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.prefix)
    }
}

/// What a query may hold as it is (RFC 3986, unreserved).
const QUERY_VALUE: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl BaseUrl {
    /// The same with a token for every request; an empty one is none.
    pub(super) fn with_token(mut self, token: Secret) -> Self {
        self.token = token;
        self
    }

    /// A request for a path below this URL.
    pub(super) fn request(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> http::request::Builder {
        let query: Vec<String> = query
            .iter()
            .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, QUERY_VALUE)))
            .collect();
        let mut request = Request::builder();
        if !self.token.expose().is_empty() {
            let bearer = HeaderValue::try_from(format!("Bearer {}", self.token.expose()));
            if let Ok(mut bearer) = bearer {
                bearer.set_sensitive(true);
                request = request.header(AUTHORIZATION, bearer);
            }
        }
        request
            .method(method)
            .uri(format!("{}{path}?{}", self.prefix, query.join("&")))
            .header(HOST, &self.authority)
            .header(USER_AGENT, concat!("headwater/", env!("CARGO_PKG_VERSION")))
    }

    /// Sends a request on a connection of its own, and waits for the head of the answer.
    ///
    /// An error means that there was no answer; trying again can help.
    pub(super) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> anyhow::Result<Response<Incoming>> {
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect((&*self.host, self.port)))
            .await
            .map_err(|_| anyhow!("no connection within {} s", CONNECT_TIMEOUT.as_secs()))
            .and_then(|result| result.map_err(Into::into))
            .with_context(|| format!("cannot reach {self}"))?;
        let keepalive =
            socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3);
        // Without them a dead server is noticed late, which is no reason not to talk to a live one.
        let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive);
        let _ = stream.set_nodelay(true);
        timeout(ANSWER_TIMEOUT, exchange(stream, request))
            .await
            .map_err(|_| anyhow!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))
            .and_then(|result| result.map_err(Into::into))
            .with_context(|| format!("no answer from {self}"))
    }
}

async fn exchange(
    stream: TcpStream,
    request: Request<Full<Bytes>>,
) -> hyper::Result<Response<Incoming>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the connection; what goes wrong there shows in the answer or its body.
    tokio::spawn(connection);
    sender.send_request(request).await
}

/// The answer's body as text.
pub(super) async fn text(response: Response<Incoming>) -> anyhow::Result<String> {
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect();
    let body = timeout(ANSWER_TIMEOUT, body)
        .await
        .map_err(|_| anyhow!("the answer did not end within {} s", ANSWER_TIMEOUT.as_secs()))?
        .map_err(|error| anyhow!("the answer broke off: {error}"))?;
    Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
}

/// A problem document of RFC 9457, as far as it is shown.
#[derive(Deserialize)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
}

/// What an answer that is no success says, in one line if the server speaks RFC 9457.
pub(super) async fn refusal(response: Response<Incoming>) -> anyhow::Error {
    let status = response.status();
    let is_json = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.contains("json"));
    let said = match text(response).await {
        Ok(body) if is_json => serde_json::from_str(&body)
            .ok()
            .and_then(|problem: Problem| problem.detail.or(problem.title)),
        _ => None,
    };
    match said {
        Some(said) => anyhow!("the server refused: {said} ({})", shown(status)),
        None => anyhow!(
            "the server answered {}: is it Headwater, and is the path right?",
            shown(status)
        ),
    }
}

fn shown(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_are_checked() {
        #[track_caller]
        fn check(text: &str, expected: Result<(&str, &str, u16), &str>) {
            match (text.parse::<BaseUrl>(), expected) {
                (Ok(url), Ok((shown, host, port))) => {
                    assert_eq!((&*url.to_string(), &*url.host, url.port), (shown, host, port));
                }
                (Err(message), Err(part)) => {
                    assert!(message.contains(part), "{message:?} lacks {part:?}");
                }
                (got, expected) => panic!("{text:?}: got {got:?}, expected {expected:?}"),
            }
        }
        check("http://127.0.0.1:8000", Ok(("http://127.0.0.1:8000", "127.0.0.1", 8000)));
        check("http://example.org/", Ok(("http://example.org", "example.org", 80)));
        check("http://example.org/a/b/", Ok(("http://example.org/a/b", "example.org", 80)));
        check("http://[::1]:81", Ok(("http://[::1]:81", "::1", 81)));
        check("https://example.org", Err("not supported by this command yet"));
        check("localhost:8000", Err("does not begin with http://"));
        check("redis://127.0.0.1", Err("does not begin with http://"));
        check("http://me:s3cret@example.org", Err("leave them out"));
        check("http://example.org/?a=b", Err("leave out what begins there"));
        check("http://", Err("not a URL"));
        check("", Err("not a URL"));
    }

    #[test]
    fn requests_escape_what_a_query_cannot_hold() {
        let base: BaseUrl = "http://h:1/p".parse().expect("it is a URL");
        let request = base.request(Method::GET, "/x", &[("a", "1&b=2 #ü"), ("c", "~")]).body(());
        let request = request.expect("it is escaped");
        assert_eq!(request.uri(), "/p/x?a=1%26b%3D2%20%23%C3%BC&c=~");
        assert_eq!(request.headers()["host"], "h:1");
    }
}
