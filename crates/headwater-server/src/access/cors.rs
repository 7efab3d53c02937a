//! What pages of other origins may do (CORS). Look here for which headers a preflight allows.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::settings::Origin;

/// Origins whose pages may use the server.
#[derive(Clone)]
pub(crate) struct Cors(Arc<[Origin]>);

/// What a page may send: the three that event streams and tokens need, and those of publishing.
const HEADERS: &str = "authorization, cache-control, last-event-id, content-type, idempotency-key";

impl Cors {
    pub(crate) fn new(origins: &[Origin]) -> Self {
        Self(origins.into())
    }

    /// Whether pages of other origins may do anything.
    pub(crate) fn is_off(&self) -> bool {
        self.0.is_empty()
    }

    /// Responds to preflights, and states which pages may read other responses.
    pub(crate) async fn layer(State(cors): State<Self>, request: Request, next: Next) -> Response {
        let origin = request.headers().get(ORIGIN).cloned();
        let is_preflight = request.method() == Method::OPTIONS
            && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        let mut response = if is_preflight {
            StatusCode::NO_CONTENT.into_response()
        } else {
            next.run(request).await
        };
        let headers = response.headers_mut();
        // The response depends on it, also for requests without it.
        headers.append(VARY, HeaderValue::from_static("origin"));
        let Some(origin) = origin else { return response };
        if cors.allow(&origin, headers) && is_preflight {
            headers
                .insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST"));
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(HEADERS));
            headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        }
        response
    }

    fn allow(&self, origin: &HeaderValue, headers: &mut HeaderMap) -> bool {
        let text = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        let is_named = self.0.iter().any(|it| matches!(it, Origin::One(one) if *one == text));
        if !is_named && !self.0.contains(&Origin::Any) {
            return false;
        }
        if is_named {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        } else {
            // Never together with cookies.
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        }
        let exposed = HeaderValue::from_static("headwater-stream, retry-after, www-authenticate");
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        true
    }
}
