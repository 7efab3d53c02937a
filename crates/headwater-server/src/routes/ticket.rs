//! `POST /sse/ticket`: somebody with credentials gets a ticket for one stream.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use axum::{Extension, Json};
use headwater::{AccessRequest, Action, Denied};
use http::header::CACHE_CONTROL;
use http::request::Parts;

use super::problem::Problem;
use super::query::TicketQuery;
use super::{App, door};
use crate::access::{Access, random_ticket};
use crate::client::ClientAddress;
use crate::limits::TICKET_TIME;

pub(super) fn route() -> MethodRouter<App> {
    post(make).fallback(|| async {
        Problem::method_not_allowed(
            "POST",
            "get a ticket with POST /sse/ticket and your credentials, then listen with GET /sse/stream?channel=NAME&ticket=TICKET",
        )
    })
}

async fn make(
    State(app): State<App>,
    Extension(client): Extension<ClientAddress>,
    parts: Parts,
) -> Result<Response, Problem> {
    let query = parts.uri.query().unwrap_or_default();
    let query = TicketQuery::parse(query, app.settings.max_channels_per_stream)
        .map_err(Problem::bad_request)?;
    let ticket = match &*app.access {
        // Nobody looks at it, and a page need not know.
        Access::Open => random_ticket().ok_or_else(Denied::unavailable)?,
        Access::Rules(rules) => {
            let request = AccessRequest::new(Action::Subscribe, &query.channels, &parts);
            let request = request.from_address(client.ip());
            let ticket = rules.make_ticket(&request, &app.access);
            door::counted(&app, client, &request, ticket).await?
        }
    };
    let body = Json(serde_json::json!({
        "ticket": ticket.expose(),
        "expires_in": TICKET_TIME.as_secs(),
    }));
    Ok(([(CACHE_CONTROL, "no-store")], body).into_response())
}
