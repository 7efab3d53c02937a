//! The target of a client command: a server, or Redis itself.

use std::env;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::anyhow;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use crate::access::keys::read_secret;
use crate::exit::Failure;
use crate::outbound::{self, AGENT, Answer, Client};
use crate::settings::{HttpUrl, RedisUrl, Secret};

const URL_DEFAULT: &str = "http://127.0.0.1:8000";
const URL_VARIABLE: &str = "HEADWATER_URL";
const TOKEN_VARIABLE: &str = "HEADWATER_TOKEN";

/// Timeout for a response, or for its head if it is a stream. A publish waits for Redis; chosen
/// arbitrarily.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest response that is read completely, in bytes. Receipts and problems are far shorter.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// The target of a command: a server, or Redis directly.
///
/// No `Debug`: arguments may contain a password.
#[derive(clap::Args)]
pub(super) struct Target {
    /// URL of the server, with its path prefix if any [env: HEADWATER_URL] [default: http://127.0.0.1:8000]
    ///
    /// With https://, the certificate authorities of the system are trusted, or those in the file
    /// that the environment variable SSL_CERT_FILE names.
    #[arg(long, value_name = "URL", conflicts_with = "redis")]
    url: Option<ServerUrl>,
    /// Connect to this Redis directly
    ///
    /// The URL has the forms of `headwater serve --redis`.
    // A string, because clap would repeat a rejected URL, with its password.
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// File with the token [env: HEADWATER_TOKEN, the token itself]
    #[arg(long, value_name = "FILE", conflicts_with = "redis")]
    token_file: Option<PathBuf>,
}

/// The resolved target.
pub(super) enum Destination {
    Server(Server),
    Redis(RedisUrl),
}

impl Target {
    /// A flag takes precedence over the environment. The variable is not read by clap, because it
    /// would then conflict with `--redis`; an empty one counts as unset.
    pub(super) fn destination(self) -> Result<Destination, Failure> {
        if let Some(text) = self.redis {
            let url = text.parse().map_err(|why| Failure::Usage(format!("--redis: {why}")))?;
            return Ok(Destination::Redis(url));
        }
        let token = match &self.token_file {
            Some(path) => read_secret(path)?,
            None => Secret::new(env::var(TOKEN_VARIABLE).unwrap_or_default()),
        };
        if let Some(url) = self.url {
            return Ok(Destination::Server(Server::new(&url, token)));
        }
        let text = env::var(URL_VARIABLE).unwrap_or_default();
        let text = if text.is_empty() { URL_DEFAULT } else { &text };
        let url: Result<ServerUrl, String> = text.parse();
        let url = url.map_err(|why| Failure::Usage(format!("{URL_VARIABLE}: {why}")))?;
        Ok(Destination::Server(Server::new(&url, token)))
    }
}

/// The URL of a server: `http://HOST:PORT` or `https://HOST`, or with a prefix of paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerUrl(HttpUrl);

impl FromStr for ServerUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url: HttpUrl = text.parse()?;
        if url.has_query() {
            return Err("it has a `?`: leave out what begins there".to_owned());
        }
        Ok(Self(url))
    }
}

/// Without a slash at its end.
impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_string().trim_end_matches('/'))
    }
}

/// A server, and the token for it.
#[derive(Clone)]
pub(super) struct Server {
    url: String,
    /// Empty for none.
    token: Secret,
    client: Client,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

/// Characters that need no escaping in a query (RFC 3986, unreserved).
const QUERY_VALUE: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl Server {
    fn new(url: &ServerUrl, token: Secret) -> Self {
        Self { url: url.to_string(), token, client: Client::new() }
    }

    /// A request for a path of this server.
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
            .uri(format!("{}{path}?{}", self.url, query.join("&")))
            .header(USER_AGENT, AGENT)
    }

    /// Sends a request, and waits for the head of the response.
    ///
    /// An error means that there was no response; retrying can help.
    pub(super) async fn open(
        &self,
        request: Request<Full<Bytes>>,
    ) -> anyhow::Result<Response<Incoming>> {
        self.client.open(request, &self.url, ANSWER_TIMEOUT).await
    }

    /// Sends a request, and reads the response.
    pub(super) async fn exchange(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        self.client.exchange(request, &self.url, ANSWER_TIMEOUT, ANSWER_BYTES_MAX).await
    }
}

/// A problem document of RFC 9457, as far as it is shown.
#[derive(Deserialize)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
}

/// The text of an unsuccessful response, in one line if it is a problem document.
pub(super) fn refusal(answer: &Answer) -> anyhow::Error {
    let said = answer.is_json().then(|| serde_json::from_slice::<Problem>(&answer.body).ok());
    let status = shown(answer.status);
    match said.flatten().and_then(|problem| problem.detail.or(problem.title)) {
        Some(said) => anyhow!("the server refused: {said} ({status})"),
        None => anyhow!("the server answered {status}: is it Headwater, and is the path right?"),
    }
}

/// The same of a response whose body was not read.
pub(super) async fn refusal_of(response: Response<Incoming>) -> anyhow::Error {
    let status = response.status();
    match outbound::read(response, ANSWER_TIMEOUT, ANSWER_BYTES_MAX).await {
        Ok(answer) => refusal(&answer),
        Err(error) => error.context(format!("the server answered {}", shown(status))),
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
    fn server_urls_are_checked() {
        #[track_caller]
        fn check(text: &str, expected: Result<&str, &str>) {
            match (text.parse::<ServerUrl>(), expected) {
                (Ok(url), Ok(shown)) => assert_eq!(url.to_string(), shown),
                (Err(message), Err(part)) => {
                    assert!(message.contains(part), "{message:?} lacks {part:?}");
                }
                (got, expected) => panic!("{text:?}: got {got:?}, expected {expected:?}"),
            }
        }
        check("http://127.0.0.1:8000", Ok("http://127.0.0.1:8000"));
        check("http://example.org/", Ok("http://example.org"));
        check("https://example.org/a/b/", Ok("https://example.org/a/b"));
        check("http://[::1]:81", Ok("http://[::1]:81"));
        check("localhost:8000", Err("does not begin with http:// or https://"));
        check("redis://127.0.0.1", Err("does not begin with http:// or https://"));
        check("http://me:s3cret@example.org", Err("leave them out"));
        check("http://example.org/?a=b", Err("leave out what begins there"));
        check("http://example.org/#a", Err("leave out what begins there"));
        check("http://", Err("not a URL"));
        check("", Err("not a URL"));
    }

    #[test]
    fn requests_escape_what_a_query_cannot_hold() {
        let url: ServerUrl = "http://h:1/p".parse().expect("it is a URL");
        let server = Server::new(&url, Secret::new(""));
        let request = server.request(Method::GET, "/x", &[("a", "1&b=2 #ü"), ("c", "~")]).body(());
        let request = request.expect("it is escaped");
        assert_eq!(request.uri(), "http://h:1/p/x?a=1%26b%3D2%20%23%C3%BC&c=~");
    }
}
