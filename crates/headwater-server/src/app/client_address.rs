//! Determines the sender of each request, before any handler.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;

use crate::client::{self, ClientAddress};
use crate::settings::ListenSettings;

/// Puts the [`ClientAddress`] into the extensions of every request.
pub(crate) fn with_client_address(router: Router, settings: &ListenSettings) -> Router {
    router.layer(from_fn_with_state(Arc::new(settings.clone()), client_address))
}

async fn client_address(
    State(settings): State<Arc<ListenSettings>>,
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
