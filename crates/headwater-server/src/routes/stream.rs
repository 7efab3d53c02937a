//! `GET /sse/stream`: a client listens.

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use futures_util::stream;
use headwater::{
    Action, Channel, CloseReason, ErrorKind, Event, EventSourceResponse, Grant, Heartbeat,
    LastEventId,
};
use http::header::ACCEPT;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::problem::Problem;
use super::query::StreamQuery;
use super::{App, door};
use crate::client::{ClientAddress, Limit, Refusal};
use crate::limits::FULL_RETRY_MIN;
use crate::settings::Settings;

/// The id of a stream that has an owner, for whoever may end it.
const STREAM_ID: HeaderName = HeaderName::from_static("headwater-stream");

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
    parts: Parts,
) -> Result<Response, Problem> {
    let query = parse(&app, &parts)?;
    let grant = match authorize(&app, client, &parts, &query.channels).await {
        Ok(grant) => grant,
        // Nobody could decide. A browser would never come back after a 503.
        Err(problem) if problem.is_unavailable() && wants_events(&parts.headers) => {
            return Ok(empty(&app.settings).into_response());
        }
        Err(problem) => return Err(problem),
    };
    let place = match app.limits.enter_stream(client, grant.user.as_deref()) {
        Ok(place) => place,
        // As above; and later, since the others would come back at once as well.
        Err(Refusal { limit: Limit::Streams, .. }) => {
            let retry = app.settings.retry.max(FULL_RETRY_MIN);
            return Ok(empty(&app.settings).retry(retry).into_response());
        }
        Err(refusal) => return Err(refusal.into()),
    };
    let channels = grant.channels.len();
    let expires_at = grant.expires_at();
    let mut subscription = match app.hub.subscribe(grant.channels) {
        Ok(subscription) => subscription,
        // A browser never comes back after a 503, but it does after a stream that ended.
        Err(error) if error.kind() == ErrorKind::Draining => {
            return Ok(empty(&app.settings).into_response());
        }
        Err(error) => return Err(error.into()),
    };
    if grant.user.is_some() || grant.token_id.is_some() {
        subscription = subscription.owned_by(grant.user.as_deref(), grant.token_id.as_deref());
    }
    let id = subscription.id().and_then(|id| HeaderValue::try_from(id).ok());
    // A client that comes back says where it left off; rewinding is for those that come first.
    subscription = match query.rewind {
        Some(rewind) if last_event_id.is_none() => subscription.rewind(rewind),
        _ => subscription.after(last_event_id),
    };
    // Whoever publishes when the stream is open must reach it.
    subscription.ready().await;
    tracing::debug!(%client, channels, "a stream opened");
    let response = set_up(EventSourceResponse::new(subscription), &app.settings)
        .expires_at(expires_at)
        .name_by_channel(query.name_by_channel)
        .on_close(move |reason| {
            drop(place);
            match reason {
                CloseReason::Overflow | CloseReason::Stalled => {
                    tracing::info!(%client, channels, %reason, "a stream ended: its client is too slow");
                }
                _ => tracing::debug!(%client, channels, %reason, "a stream ended"),
            }
        });
    let mut response = response.into_response();
    if let Some(id) = id {
        response.headers_mut().insert(STREAM_ID, id);
    }
    Ok(response)
}

/// The headers of a stream, without one.
async fn head(
    State(app): State<App>,
    Extension(client): Extension<ClientAddress>,
    parts: Parts,
) -> Result<Response, Problem> {
    let query = parse(&app, &parts)?;
    authorize(&app, client, &parts, &query.channels).await?;
    Ok(empty(&app.settings).into_response())
}

fn parse(app: &App, parts: &Parts) -> Result<StreamQuery, Problem> {
    let query = parts.uri.query().unwrap_or_default();
    StreamQuery::parse(query, app.settings.max_channels_per_stream).map_err(Problem::bad_request)
}

async fn authorize(
    app: &App,
    client: ClientAddress,
    parts: &Parts,
    channels: &[Channel],
) -> Result<Grant, Problem> {
    door::check(app, client, Action::Subscribe, channels, parts).await
}

/// Whether it is an EventSource that asks, which says so.
fn wants_events(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/event-stream"))
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
