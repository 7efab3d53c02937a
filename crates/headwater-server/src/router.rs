//! Which path leads where. Look here first for an endpoint.

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use headwater::Problem;
use http::Uri;

use crate::access::Cors;
use crate::admin::{health, streams};
use crate::app::{App, method_not_allowed};
use crate::demo;
use crate::metrics::Metrics;
use crate::settings::Origin;
use crate::sse::{publish, stream, ticket};

/// Streams, publishing and the demo page.
pub(crate) fn public(app: App, cors_origins: &[Origin]) -> Router {
    let cors = Cors::new(cors_origins);
    let shared = Router::new()
        .route("/sse/stream", stream::route())
        .route("/sse/publish", publish::route())
        .route("/sse/ticket", ticket::route());
    let shared =
        if cors.is_off() { shared } else { shared.layer(from_fn_with_state(cors, Cors::layer)) };
    Router::new()
        .merge(shared)
        .route("/", get(demo::redirect))
        .route("/sse/demo", get(demo::page))
        .route("/sse/demo/{file}", get(demo::file))
        .with_state(app)
}

/// Health, metrics, and closing other clients' streams.
pub(crate) fn admin(app: App, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/admin/streams", streams::route())
        .with_state(app)
        .route("/metrics", get(move || async move { metrics.encode() }))
}

/// Responses to unknown paths and to unsupported methods.
pub(crate) fn with_fallback(router: Router) -> Router {
    // Routes that explain more do it themselves, before this.
    let router = router.method_not_allowed_fallback(|uri: Uri| async move {
        method_not_allowed("GET, HEAD", format!("{} can only be read: use GET", uri.path()))
    });
    router.fallback(|uri: Uri| async move {
        Problem::not_found(format!(
            "there is nothing at {}: streams are at /sse/stream, publishing at /sse/publish, the \
             demo page at /sse/demo",
            uri.path()
        ))
    })
}
