//! The demo page and its files, which are part of the binary.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use headwater::Problem;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};

use crate::app::App;

const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

const PAGE: &[u8] = include_bytes!("../assets/demo.html");

/// A file of the page: its name, its media type, its content.
macro_rules! files {
    ($($name:literal: $media_type:expr,)*) => {
        &[$(($name, $media_type, include_bytes!(concat!("../assets/", $name)).as_slice())),*]
    };
}

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

const FILES: &[(&str, &str, &[u8])] = files! {
    "channel-list.js": JAVASCRIPT,
    "demo.css": "text/css; charset=utf-8",
    "demo.js": JAVASCRIPT,
    "element.js": JAVASCRIPT,
    "event-list.js": JAVASCRIPT,
    "icon.svg": "image/svg+xml",
    "pretty-json.js": JAVASCRIPT,
    "problem.js": JAVASCRIPT,
    "publish-form.js": JAVASCRIPT,
    "snippets.js": JAVASCRIPT,
    "sse.js": JAVASCRIPT,
};

pub(crate) async fn redirect() -> Redirect {
    Redirect::temporary("sse/demo")
}

pub(crate) async fn page() -> Response {
    asset("text/html; charset=utf-8", PAGE)
}

pub(crate) async fn file(
    State(app): State<App>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    // Fails when the name is not UTF-8; then there is no such file either.
    let name = name.map(|Path(name)| name).unwrap_or_default();
    if name == "info" {
        let info = serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "broker": app.broker_name,
        });
        return Ok(Json(info).into_response());
    }
    FILES
        .iter()
        .find(|(file, ..)| *file == name)
        .map(|(_, media_type, content)| asset(media_type, content))
        .ok_or_else(|| Problem::not_found("the demo page has no such file"))
}

fn asset(media_type: &'static str, content: &'static [u8]) -> Response {
    let headers = [
        (CONTENT_TYPE, media_type),
        // The files change with the binary, and have no version in their names.
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, CONTENT_POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (headers, content).into_response()
}
