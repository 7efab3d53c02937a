//! A strict SSE client for testing handlers: works on any axum router, without a network. Needs the
//! feature `testing`. Look here for what it rejects.
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

pub use headwater_core::testing::suite;

use crate::event::{Decoder, Item, Message};
use crate::{Error, ErrorKind};

/// How long a client waits for the next item by default. In a test with paused time it elapses
/// immediately.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// A client of one event stream. It is stricter than a browser: what a browser would silently
/// ignore is an error, so that a test finds it.
///
/// Errors are: a status other than 200, a content type other than `text/event-stream`, a cacheable
/// response, bytes that are not UTF-8, an unknown field, a field without a space after its colon, a
/// line ending other than LF, the end of the stream within an event, and no item within the
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
    /// [`ErrorKind::Protocol`] if the response is not an event stream; for a status other than 200,
    /// the message has the status and up to 1,000 bytes of the body. [`ErrorKind::Invalid`] if
    /// `path` is not a valid path.
    pub async fn get(router: &Router, path: &str) -> Result<Self, Error> {
        let request =
            Request::get(path).header(ACCEPT, "text/event-stream").body(Body::empty()).map_err(
                |error| Error::invalid(format!("{path} is not a valid path")).with_source(error),
            )?;
        Self::request(router, request).await
    }

    /// Opens the stream with a prepared request, for example with the headers of a reconnecting
    /// client.
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
            return Err(protocol_error(format!(
                "the status is {}, expected 200: {text}",
                parts.status
            )));
        }
        if !header(CONTENT_TYPE).is_some_and(|value| value.starts_with("text/event-stream")) {
            return Err(protocol_error("the response's content-type is not text/event-stream"));
        }
        if !header(CACHE_CONTROL).is_some_and(|value| value.contains("no-cache")) {
            return Err(protocol_error("the response's cache-control lacks no-cache"));
        }
        Ok(Self {
            body,
            headers: parts.headers,
            decoder: Decoder::new(),
            strict: Strict::default(),
            timeout: TIMEOUT_DEFAULT,
        })
    }

    /// How long [`next`](Self::next) and [`next_item`](Self::next_item) wait. Default 5 s.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The headers of the response.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The next event; `None` at the end of the stream. Comments and `retry` are skipped.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`] if the bytes are not a well-formed event stream;
    /// [`ErrorKind::Unavailable`] if no item arrives within the timeout.
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
            let message = format!("nothing received within {} s", timeout.as_secs_f64());
            Err(Error::new(ErrorKind::Unavailable, message))
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
                    return Err(protocol_error("the body was truncated").with_source(error));
                }
                None => {
                    self.strict.end()?;
                    return Ok(None);
                }
            }
        }
    }

    /// The ID that a client would send as `Last-Event-ID` if it reconnected now; empty if there was
    /// none.
    pub fn last_event_id(&self) -> &str {
        self.decoder.last_event_id()
    }

    /// How long a client would wait before it reconnects: the last `retry`, if there was one.
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

/// Validates every line before the decoder reads it.
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
            .map_err(|error| protocol_error("a line is not UTF-8").with_source(error))?;
        self.in_block = !line.is_empty();
        if line.contains('\r') {
            return Err(protocol_error(format!("a line contains a CR: {}", line.escape_debug())));
        }
        if line.is_empty() || line.starts_with(':') {
            return Ok(());
        }
        let Some((field, value)) = line.split_once(':') else {
            return Err(protocol_error(format!("a line has no colon: {}", line.escape_debug())));
        };
        if !matches!(field, "data" | "event" | "id" | "retry") {
            let field = field.escape_debug();
            return Err(protocol_error(format!("a line has the unknown field {field}")));
        }
        if !value.is_empty() && !value.starts_with(' ') {
            let line = line.escape_debug();
            return Err(protocol_error(format!("a line has no space after its colon: {line}")));
        }
        Ok(())
    }

    fn end(&self) -> Result<(), Error> {
        if self.in_block || !self.line.is_empty() {
            return Err(protocol_error("the stream ended within an event"));
        }
        Ok(())
    }
}

fn protocol_error(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Protocol, message)
}
