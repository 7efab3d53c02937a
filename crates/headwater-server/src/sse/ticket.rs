//! `POST /sse/ticket`: a client with credentials gets a ticket for one stream.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use axum::{Extension, Json};
use headwater::Problem;
use http::header::CACHE_CONTROL;
use http::request::Parts;

use super::query::TicketQuery;
use crate::app::{self, App};
use crate::client::ClientAddress;
use crate::limits::TICKET_TIME;

pub(crate) fn route() -> MethodRouter<App> {
    post(issue).fallback(|| async {
        app::method_not_allowed(
            "POST",
            "get a ticket with POST /sse/ticket and your credentials, then subscribe with \
             GET /sse/stream?channel=NAME&ticket=TICKET",
        )
    })
}

async fn issue(
    State(app): State<App>,
    Extension(client): Extension<ClientAddress>,
    parts: Parts,
) -> Result<Response, Problem> {
    let query = parts.uri.query().unwrap_or_default();
    let query = TicketQuery::parse(query, app.streams.max_channels_per_stream)
        .map_err(Problem::bad_request)?;
    let ticket = app::issue_ticket(&app, client, &query.channels, &parts).await?;
    let body = Json(serde_json::json!({
        "ticket": ticket.expose(),
        "expires_in": TICKET_TIME.as_secs(),
    }));
    Ok(([(CACHE_CONTROL, "no-store")], body).into_response())
}
