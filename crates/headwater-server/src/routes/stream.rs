//! `GET /sse/stream`: a client listens.

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use futures_util::stream;
use headwater::{Closed, ErrorKind, Event, EventSourceResponse, Heartbeat, LastEventId};

use super::App;
use super::problem::Problem;
use super::query::StreamQuery;
use crate::client::{ClientAddress, Limit, Refusal};
use crate::limits::FULL_RETRY_MIN;
use crate::settings::Settings;

pub(super) fn route() -> MethodRouter<App> {
    get(listen).head(head).fallback(|| async {
        Problem::method_not_allowed(
            "GET, HEAD",
            "listen with GET /sse/stream?channel=NAME, publish with POST /sse/publish?channel=NAME",
        )
    })
}

async fn listen(
    State(app): State<App>,
    Extension(client): Extension<ClientAddress>,
    LastEventId(last_event_id): LastEventId,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let query = parse(&app, query)?;
    let channels = query.channels.len();
    let place = match app.limits.enter_stream(client, None) {
        Ok(place) => place,
        // As below; and later, since the others would come back at once as well.
        Err(Refusal { limit: Limit::Streams, .. }) => {
            let retry = app.settings.retry.max(FULL_RETRY_MIN);
            return Ok(empty(&app.settings).retry(retry).into_response());
        }
        Err(refusal) => return Err(refusal.into()),
    };
    let mut subscription = match app.hub.subscribe(query.channels) {
        Ok(subscription) => subscription,
        // A browser never comes back after a 503, but it does after a stream that ended.
        Err(error) if error.kind() == ErrorKind::Draining => {
            return Ok(empty(&app.settings).into_response());
        }
        Err(error) => return Err(error.into()),
    };
    // A client that comes back says where it left off; rewinding is for those that come first.
    subscription = match query.rewind {
        Some(rewind) if last_event_id.is_none() => subscription.rewind(rewind),
        _ => subscription.since(last_event_id),
    };
    // Whoever publishes when the stream is open must reach it.
    subscription.confirmed().await;
    tracing::debug!(%client, channels, "a stream opened");
    let response = set_up(EventSourceResponse::new(subscription), &app.settings)
        .name_by_channel(query.name_by_channel)
        .on_close(move |reason| {
            drop(place);
            match reason {
                Closed::Overflow | Closed::Stalled => {
                    tracing::info!(%client, channels, %reason, "a stream ended: its client is too slow");
                }
                _ => tracing::debug!(%client, channels, %reason, "a stream ended"),
            }
        });
    Ok(response.into_response())
}

/// The headers of a stream, without one.
async fn head(State(app): State<App>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    parse(&app, query)?;
    Ok(empty(&app.settings).into_response())
}

fn parse(app: &App, query: Option<String>) -> Result<StreamQuery, Problem> {
    StreamQuery::parse(&query.unwrap_or_default(), app.settings.max_channels_per_stream)
        .map_err(Problem::bad_request)
}

/// A stream that ends at once, and says when to come back.
fn empty(settings: &Settings) -> EventSourceResponse {
    set_up(EventSourceResponse::from_stream(stream::empty::<Event>()), settings)
}

fn set_up(response: EventSourceResponse, settings: &Settings) -> EventSourceResponse {
    response
        .heartbeat(settings.heartbeat.map(|interval| Heartbeat::comment().every(interval)))
        .retry(settings.retry)
        .send_timeout(settings.send_timeout)
        .lifetime_max(settings.max_lifetime)
}
