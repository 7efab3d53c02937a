//! A strict client for tests of your own handlers: any axum router, without a network. Feature `testing`.
//!
//! ```
//! use axum::{Router, extract::State, routing::get};
//! use headwater::testing::SseClient;
//! use headwater::{Channel, Event, EventSourceResponse, Hub, Problem};
//!
//! async fn news(State(hub): State<Hub>) -> Result<EventSourceResponse, Problem> {
//!     Ok(EventSourceResponse::new(hub.subscribe([Channel::new("news")?])?))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), headwater::Error> {
//! let hub = Hub::in_memory();
//! let app = Router::new().route("/news", get(news)).with_state(hub.clone());
//!
//! let mut client = SseClient::get(&app, "/news").await?;
//! hub.publish(&Channel::new("news")?, Event::new("hello")).await?;
//! assert_eq!(client.next().await?.expect("an event").data, "hello");
//! # Ok(()) }
//! ```

use std::fmt;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use tower::ServiceExt;

use crate::error::{Error, ErrorKind};
use crate::event::{Decoder, Item, Message};

/// How long a client waits for the next item, unless told otherwise. In a test with paused time it
/// passes at once.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// A client of one event stream. It is stricter than a browser: what a browser would quietly pass over
/// is an error, so that a test finds it.
///
/// Errors: a status other than 200, another content type, a cacheable answer, bytes that are not UTF-8, an unknown field,
/// a field without a space after its colon, a line end that is not LF, an end inside of an event, nothing within the
/// timeout.
pub struct SseClient {
    body: Body,
    headers: HeaderMap,
    decoder: Decoder,
    strict: Strict,
    timeout: Duration,
}

impl SseClient {
    /// Opens the stream at a path.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`] if the answer is no event stream; the message has its status and the
    /// beginning of its body.
    pub async fn get(router: &Router, path: &str) -> Result<Self, Error> {
        let request = Request::get(path)
            .header(ACCEPT, "text/event-stream")
            .body(Body::empty())
            .map_err(|error| Error::invalid(format!("{path:?} is no path")).with_source(error))?;
        Self::request(router, request).await
    }

    /// Opens the stream with a request of your own: with headers, as a client that comes back.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn request(router: &Router, request: Request<Body>) -> Result<Self, Error> {
        let response = match router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let (parts, body) = response.into_parts();
        let header = |name| parts.headers.get(&name).and_then(|value| value.to_str().ok());
        if parts.status != StatusCode::OK {
            let text = body.collect().await.map(http_body_util::Collected::to_bytes);
            let text = text.unwrap_or_default();
            let text = String::from_utf8_lossy(&text[..text.len().min(1000)]);
            return Err(broken(format!("the answer is {}, not 200: {text}", parts.status)));
        }
        if !header(CONTENT_TYPE).is_some_and(|value| value.starts_with("text/event-stream")) {
            return Err(broken("the answer's content-type is not text/event-stream"));
        }
        if !header(CACHE_CONTROL).is_some_and(|value| value.contains("no-cache")) {
            return Err(broken("the answer's cache-control lacks no-cache"));
        }
        Ok(Self {
            body,
            headers: parts.headers,
            decoder: Decoder::new(),
            strict: Strict::default(),
            timeout: TIMEOUT_DEFAULT,
        })
    }

    /// How long [`next`](Self::next) waits. Default 5 s.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The headers of the answer.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The next event; `None` at the end of the stream. Comments and `retry` are passed over.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`] for bytes that are no clean event stream; [`ErrorKind::Unavailable`]
    /// when nothing came within the timeout.
    pub async fn next(&mut self) -> Result<Option<Message>, Error> {
        loop {
            match self.next_item().await? {
                Some(Item::Event(message)) => return Ok(Some(message)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// The next item: an event, a comment such as a heartbeat, or a `retry`.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn next_item(&mut self) -> Result<Option<Item>, Error> {
        let timeout = self.timeout;
        tokio::time::timeout(timeout, self.read_item()).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Unavailable, format!("nothing came within {timeout:?}")))
        })
    }

    async fn read_item(&mut self) -> Result<Option<Item>, Error> {
        loop {
            if let Some(item) = self.decoder.next_item() {
                return Ok(Some(item));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    let chunk = frame.into_data().unwrap_or_default();
                    self.strict.push(&chunk)?;
                    self.decoder.push(&chunk)?;
                }
                Some(Err(error)) => {
                    return Err(broken("the body was cut").with_source(error));
                }
                None => {
                    self.strict.end()?;
                    return Ok(None);
                }
            }
        }
    }

    /// The id that a client would send as `Last-Event-ID` if it came back now.
    pub fn last_event_id(&self) -> &str {
        self.decoder.last_event_id()
    }

    /// How long a client would wait before it comes back, if the stream said so.
    pub fn retry(&self) -> Option<Duration> {
        self.decoder.retry()
    }
}

impl fmt::Debug for SseClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SseClient")
            .field("last_event_id", &self.last_event_id())
            .finish_non_exhaustive()
    }
}

/// Looks at every line before the decoder does.
#[derive(Default)]
struct Strict {
    line: Vec<u8>,
    in_block: bool,
}

impl Strict {
    fn push(&mut self, chunk: &[u8]) -> Result<(), Error> {
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let mut line = std::mem::take(&mut self.line);
                line.pop();
                self.check(&line)?;
            }
        }
        Ok(())
    }

    fn check(&mut self, line: &[u8]) -> Result<(), Error> {
        let line = std::str::from_utf8(line)
            .map_err(|error| broken("a line is not UTF-8").with_source(error))?;
        self.in_block = !line.is_empty();
        if line.contains('\r') {
            return Err(broken(format!("a line has a CR in it: {line:?}")));
        }
        if line.is_empty() || line.starts_with(':') {
            return Ok(());
        }
        let (field, value) =
            line.split_once(':').ok_or_else(|| broken(format!("a line has no colon: {line:?}")))?;
        if !matches!(field, "data" | "event" | "id" | "retry") {
            return Err(broken(format!("a line has the unknown field {field:?}")));
        }
        if !value.is_empty() && !value.starts_with(' ') {
            return Err(broken(format!("a line has no space after its colon: {line:?}")));
        }
        Ok(())
    }

    fn end(&self) -> Result<(), Error> {
        if self.in_block || !self.line.is_empty() {
            return Err(broken("the stream ended inside of an event"));
        }
        Ok(())
    }
}

fn broken(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Protocol, message)
}
