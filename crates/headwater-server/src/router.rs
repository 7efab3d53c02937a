//! Which path leads where, and what a request there may cost. Look here first for an endpoint.

use std::sync::Arc;

use axum::middleware::{from_fn_with_state, map_request};
use axum::routing::{MethodRouter, get};
use axum::{Extension, Router};
use headwater::Problem;
use http::Uri;

use crate::access::Cors;
use crate::admin::{health, streams};
use crate::app::{App, discard_rest, method_not_allowed};
use crate::demo;
use crate::metrics::{self, Metrics};
use crate::price::{self, Price};
use crate::settings::Origin;
use crate::sse::{publish, stream, ticket};

/// What is at one path.
pub struct Route {
    /// For whom it is.
    pub part: Part,
    /// Its methods, as `Allow` has them.
    pub methods: &'static str,
    /// Its path, with parameters in braces.
    pub path: &'static str,
    /// What a request may cost.
    pub price: Price,
    serve: fn() -> MethodRouter<App>,
}

/// For whom a route is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Clients, and pages of the origins that `cors-origins` lists.
    Api,
    /// People who try it out.
    Demo,
    /// Operators: on the address `admin`, or for programs of this machine.
    Admin,
}

/// Everything that is served. There is no other way to add a path, so each has its price.
pub static ROUTES: &[Route] = &[
    Route::new(Part::Api, "GET, HEAD", "/sse/stream", price::STREAM, stream::route),
    Route::new(Part::Api, "POST", "/sse/publish", price::PUBLISH, publish::route),
    Route::new(Part::Api, "POST", "/sse/ticket", price::TICKET, ticket::route),
    Route::new(Part::Demo, "GET, HEAD", "/", price::READ, || get(demo::redirect)),
    Route::new(Part::Demo, "GET, HEAD", "/sse/demo", price::READ, || get(demo::page)),
    Route::new(Part::Demo, "GET, HEAD", "/sse/demo/{file}", price::READ, || get(demo::file)),
    Route::new(Part::Admin, "GET, HEAD", "/health/live", price::READ, || get(health::live)),
    Route::new(Part::Admin, "GET, HEAD", "/health/ready", price::READ, || get(health::ready)),
    Route::new(Part::Admin, "GET, HEAD", "/metrics", price::READ, || get(metrics::show)),
    Route::new(Part::Admin, "DELETE", "/admin/streams", price::REVOKE, streams::route),
];

impl Route {
    const fn new(
        part: Part,
        methods: &'static str,
        path: &'static str,
        price: Price,
        serve: fn() -> MethodRouter<App>,
    ) -> Self {
        Self { part, methods, path, price, serve }
    }
}

/// The table of prices in docs/limits.md.
pub fn price_table() -> String {
    price::table(ROUTES.iter().map(|it| (format!("`{} {}`", it.methods, it.path), &it.price)))
}

fn routes(part: Part) -> Router<App> {
    let routes = ROUTES.iter().filter(|route| route.part == part);
    routes.fold(Router::new(), |router, route| router.route(route.path, (route.serve)()))
}

/// Streams, publishing and the demo page.
pub(crate) fn public(app: App, cors_origins: &[Origin]) -> Router {
    let cors = Cors::new(cors_origins);
    let api = routes(Part::Api);
    let api = if cors.is_off() { api } else { api.layer(from_fn_with_state(cors, Cors::layer)) };
    api.merge(routes(Part::Demo)).with_state(app)
}

/// Health, metrics, and closing other clients' streams.
pub(crate) fn admin(app: App, metrics: Arc<Metrics>) -> Router {
    routes(Part::Admin).layer(Extension(metrics)).with_state(app)
}

/// Responses to unknown paths and to unsupported methods.
pub(crate) fn with_fallback(router: Router) -> Router {
    // Routes that explain more do it themselves, before this.
    let router = router.method_not_allowed_fallback(|uri: Uri| async move {
        method_not_allowed("GET, HEAD", format!("{} can only be read: use GET", uri.path()))
    });
    let router = router.fallback(|uri: Uri| async move {
        Problem::not_found(format!(
            "there is nothing at {}: streams are at /sse/stream, publishing at /sse/publish, the \
             demo page at /sse/demo",
            uri.path()
        ))
    });
    router.layer(map_request(discard_rest))
}
