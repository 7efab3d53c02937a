//! What only programs of this machine may ask for, on an address that others may reach through a
//! proxy. Look here for how a request that was forwarded is recognized.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use headwater::Problem;
use http::{HeaderMap, StatusCode};

use crate::access::is_of_this_machine;
use crate::client::ClientAddress;
use crate::settings::DomainName;

/// Headers that proxies add, configured or not.
const OF_PROXIES: [&str; 6] =
    ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"];

/// Rejects what was forwarded from another machine, or names a host that is neither this machine's
/// nor allowed.
pub(crate) fn for_this_machine(router: Router, allowed: &[DomainName]) -> Router {
    let allowed: Arc<[DomainName]> = allowed.into();
    router.layer(from_fn_with_state(allowed, check))
}

async fn check(
    State(allowed): State<Arc<[DomainName]>>,
    Extension(client): Extension<ClientAddress>,
    request: Request,
    next: Next,
) -> Response {
    let is_own = client.ip().is_loopback()
        && !is_forwarded(request.headers())
        && is_of_this_machine(request.uri(), request.headers(), &allowed);
    if is_own {
        return next.run(request).await;
    }
    let detail = "health, metrics and administration are for programs of this machine here: set \
                  admin to serve them on an address of their own";
    Problem::new(StatusCode::FORBIDDEN, detail).into_response()
}

fn is_forwarded(headers: &HeaderMap) -> bool {
    OF_PROXIES.iter().any(|name| headers.contains_key(*name))
}
