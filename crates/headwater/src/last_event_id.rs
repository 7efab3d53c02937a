//! The last event ID of a reconnecting client. Look here for `Last-Event-ID` and `last_event_id`.

use std::convert::Infallible;

use axum_core::extract::FromRequestParts;
use http::request::Parts;

/// The ID of the last event that the client received, as the client states it: the value of the
/// `Last-Event-ID` header, which browsers send when they reconnect, or else of the query parameter
/// `last_event_id`, for a first connection.
///
/// `None` if it is absent or empty: the stream then starts now. The text is not validated; bytes
/// that are not UTF-8 are replaced by U+FFFD.
///
/// ```
/// use axum::{Router, routing::get};
/// use headwater::LastEventId;
///
/// let app: Router = Router::new().route(
///     "/events",
///     get(|LastEventId(id): LastEventId| async move { id.unwrap_or("none".into()) }),
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LastEventId(pub Option<String>);

impl<S: Sync> FromRequestParts<S> for LastEventId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        let from_header = parts
            .headers
            .get("last-event-id")
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let id = from_header.or_else(|| from_query(parts));
        Ok(Self(id.filter(|id| !id.is_empty())))
    }
}

fn from_query(parts: &Parts) -> Option<String> {
    let mut pairs = form_urlencoded::parse(parts.uri.query()?.as_bytes());
    pairs.find(|(name, _)| name == "last_event_id").map(|(_, id)| id.into_owned())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    async fn check(header: Option<&[u8]>, uri: &str, expected: Option<&str>) {
        let mut request = Request::get(uri);
        if let Some(header) = header {
            request = request.header("Last-Event-ID", header);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let LastEventId(id) = LastEventId::from_request_parts(&mut parts, &()).await.unwrap();
        assert_eq!(id.as_deref(), expected);
    }

    #[tokio::test]
    async fn the_header_takes_precedence_and_empty_is_none() {
        check(None, "/", None).await;
        check(Some(b"7"), "/", Some("7")).await;
        check(None, "/?a=b&last_event_id=8", Some("8")).await;
        check(None, "/?last_event_id=a%20b", Some("a b")).await;
        check(Some(b"7"), "/?last_event_id=8", Some("7")).await;
        check(Some(b""), "/?last_event_id=8", None).await;
        check(None, "/?last_event_id=", None).await;
        check(Some("…".as_bytes()), "/", Some("…")).await;
        check(Some(b"a\xff"), "/", Some("a\u{fffd}")).await;
    }
}
