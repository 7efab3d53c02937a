//! `GET /sse/stream`: a client subscribes.

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{MethodRouter, get};
use headwater::{LastEventId, Problem};
use http::request::Parts;

use super::query::StreamQuery;
use crate::app::{self, App, StreamRequest};
use crate::client::ClientAddress;

pub(crate) fn route() -> MethodRouter<App> {
    get(subscribe).head(head).fallback(|| async {
        app::method_not_allowed(
            "GET, HEAD",
            "subscribe with GET /sse/stream?channel=NAME, publish with POST \
             /sse/publish?channel=NAME",
        )
    })
}

async fn subscribe(
    State(app): State<App>,
    Extension(client): Extension<ClientAddress>,
    LastEventId(last_event_id): LastEventId,
    parts: Parts,
) -> Result<Response, Problem> {
    let query = parse(&app, &parts)?;
    let request = StreamRequest {
        client,
        parts: &parts,
        channels: &query.channels,
        last_event_id,
        rewind: query.rewind,
        name_by_channel: query.name_by_channel,
    };
    app::open_stream(&app, request).await
}

/// The headers of a stream, without one.
async fn head(
    State(app): State<App>,
    Extension(client): Extension<ClientAddress>,
    parts: Parts,
) -> Result<Response, Problem> {
    let query = parse(&app, &parts)?;
    app::show_stream(&app, client, &query.channels, &parts).await
}

fn parse(app: &App, parts: &Parts) -> Result<StreamQuery, Problem> {
    let query = parts.uri.query().unwrap_or_default();
    StreamQuery::parse(query, app.streams.max_channels_per_stream).map_err(Problem::bad_request)
}
