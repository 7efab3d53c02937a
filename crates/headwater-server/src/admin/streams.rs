//! `DELETE /admin/streams`: closes other clients' streams, on all nodes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Extension;
use axum::extract::State;
use axum::routing::{MethodRouter, delete};
use headwater::Problem;
use headwater::access::{Action, Revocation};
use http::StatusCode;
use http::request::Parts;

use crate::app::{self, App};
use crate::client::ClientAddress;
use crate::limits::REVOKED_TIME_DEFAULT;
use crate::sse::query::RevokeQuery;

pub(crate) fn route() -> MethodRouter<App> {
    delete(revoke).fallback(|| async {
        app::method_not_allowed(
            "DELETE",
            "end streams with DELETE /admin/streams?user=USER, ?channel=NAME, ?stream=ID or \
             ?token=JTI&expires=SECONDS",
        )
    })
}

async fn revoke(
    State(app): State<App>,
    Extension(client): Extension<ClientAddress>,
    parts: Parts,
) -> Result<StatusCode, Problem> {
    app::check(&app, client, Action::Admin, &[], &parts).await?;
    let query = RevokeQuery::parse(parts.uri.query().unwrap_or_default());
    let revocation = match query.map_err(Problem::bad_request)? {
        RevokeQuery::User(user) => Revocation::User(user),
        RevokeQuery::Channel(channel) => Revocation::Channel(channel),
        RevokeQuery::Stream(id) => Revocation::Stream(id),
        RevokeQuery::Token { id, expires } => {
            let expires = expires.map(Duration::from_secs);
            let until = match expires {
                Some(expires) => UNIX_EPOCH.checked_add(expires),
                None => SystemTime::now().checked_add(REVOKED_TIME_DEFAULT),
            };
            let until = until.ok_or_else(|| Problem::bad_request("expires is too far away"))?;
            Revocation::Token { id, until }
        }
    };
    let what = match &revocation {
        Revocation::User(_) => "user",
        Revocation::Channel(_) => "channel",
        Revocation::Stream(_) => "stream",
        _ => "token",
    };
    app.hub.revoke(&revocation).await?;
    tracing::info!(by = what, "streams revoked");
    Ok(StatusCode::NO_CONTENT)
}
