//! The HTTP of the server: which path leads where. Look here first for an endpoint.

mod demo;
mod door;
mod health;
pub mod ndjson;
mod problem;
mod publish;
pub mod query;
mod stream;
mod streams;
mod ticket;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::get;
use headwater::Hub;
use http::Uri;
use tokio::sync::Semaphore;

use crate::access::{Access, Cors};
use crate::client::{self, ClientAddress, ClientLimits};
use crate::metrics::Metrics;
use crate::settings::Settings;
use problem::Problem;

/// What handlers share.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) hub: Hub,
    pub(crate) settings: Arc<Settings>,
    pub(crate) access: Arc<Access>,
    pub(crate) limits: Arc<ClientLimits>,
    /// Permits for the bytes of bodies that are on their way.
    pub(crate) body_room: Arc<Semaphore>,
}

/// Streams, publishing and the demo page.
pub(crate) fn public(app: App) -> Router {
    let cors = Cors::new(&app.settings.access.cors_origins);
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

/// Finds out who sent each request, for [`public`] and [`admin`].
pub(crate) fn with_client_address(router: Router, settings: &Arc<Settings>) -> Router {
    router.layer(from_fn_with_state(Arc::clone(settings), client_address))
}

async fn client_address(
    State(settings): State<Arc<Settings>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let client = match settings.client_address_header {
        Some(header) => {
            client::client_address(peer.ip(), request.headers(), header, &settings.trusted_proxies)
        }
        None => ClientAddress::new(peer.ip()),
    };
    request.extensions_mut().insert(client);
    next.run(request).await
}

/// Health, metrics, and ending streams of others.
pub(crate) fn admin(app: App, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/admin/streams", streams::route())
        .with_state(app)
        .route("/metrics", get(move || async move { metrics.encode() }))
}

/// What is said on paths that lead nowhere, and to methods that a path does not have.
pub(crate) fn with_fallback(router: Router) -> Router {
    // Routes that explain more do it themselves, before this.
    let router = router.method_not_allowed_fallback(|uri: Uri| async move {
        Problem::method_not_allowed(
            "GET, HEAD",
            format!("{} can only be read: use GET", uri.path()),
        )
    });
    router.fallback(|uri: Uri| async move {
        Problem::not_found(format!(
            "there is nothing at {}: streams are at /sse/stream, publishing at /sse/publish, the demo page at /sse/demo",
            uri.path()
        ))
    })
}
