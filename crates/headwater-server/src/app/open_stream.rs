//! Opens a stream: authorises it, counts it, subscribes, and responds with its events. Streams of
//! every dialect pass through here.

use axum::response::{IntoResponse, Response};
use futures_util::stream;
use headwater::access::Action;
use headwater::response::Heartbeat;
use headwater::stream::CloseReason;
use headwater::{Channel, ErrorKind, Event, EventSourceResponse, Problem, Rewind};
use http::header::ACCEPT;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::gate;
use super::state::App;
use crate::client::{ClientAddress, Limit, LimitExceeded};
use crate::limits::FULL_RETRY_MIN;
use crate::settings::StreamSettings;

/// The ID of a stream that has an owner, by which it can be closed.
const STREAM_ID: HeaderName = HeaderName::from_static("headwater-stream");

/// A requested stream.
pub(crate) struct StreamRequest<'a> {
    pub(crate) client: ClientAddress,
    /// Contains its credentials.
    pub(crate) parts: &'a Parts,
    pub(crate) channels: &'a [Channel],
    pub(crate) last_event_id: Option<String>,
    /// How far back the stream starts if there is no last event ID.
    pub(crate) rewind: Option<Rewind>,
    pub(crate) name_by_channel: bool,
}

/// Opens a stream.
pub(crate) async fn open_stream(
    app: &App,
    request: StreamRequest<'_>,
) -> Result<Response, Problem> {
    let StreamRequest { client, parts, channels, last_event_id, rewind, name_by_channel } = request;
    app.limits.check_streams(client)?;
    let admission = match gate::check(app, client, Action::Subscribe, channels, parts).await {
        Ok(admission) => admission,
        Err(problem) => return denied(app, parts, problem),
    };
    let grant = &admission.grant;
    let place = match app.limits.acquire_stream(client, grant.user.as_deref()) {
        Ok(place) => place,
        // As above; and later, since the others would reconnect at once as well.
        Err(LimitExceeded { limit: Limit::Streams, .. }) => {
            let retry = app.streams.retry.max(FULL_RETRY_MIN);
            return Ok(empty(&app.streams).retry(retry).into_response());
        }
        Err(exceeded) => return Err(exceeded.into()),
    };
    let channels = grant.channels.len();
    let expires_at = grant.expires_at();
    let mut subscription = match app.hub.subscribe(grant.channels.iter().cloned()) {
        Ok(subscription) => subscription,
        // A browser does not reconnect after a 503, but it does after a stream that ended.
        Err(error) if error.kind() == ErrorKind::Draining => {
            return Ok(empty(&app.streams).into_response());
        }
        Err(error) => return Err(error.into()),
    };
    if grant.user.is_some() || grant.token_id.is_some() {
        subscription = subscription.owned_by(grant.user.as_deref(), grant.token_id.as_deref());
    }
    let id = subscription.id().and_then(|id| HeaderValue::try_from(id).ok());
    // A client that reconnects has a last ID; rewinding is for the first connection.
    subscription = match rewind {
        Some(rewind) if last_event_id.is_none() => subscription.rewind(rewind),
        _ => subscription.after(last_event_id),
    };
    // An event that is published once the stream is open must reach it.
    subscription.ready().await;
    // From when it has its owner, a revocation closes it. This is about those before.
    if let Err(revoked) = admission.check_not_revoked(&app.hub) {
        return denied(app, parts, revoked.into());
    }
    tracing::debug!(%client, channels, "stream opened");
    let response = configured(EventSourceResponse::new(subscription), &app.streams)
        .expires_at(expires_at)
        .name_by_channel(name_by_channel)
        .on_close(move |reason| {
            drop(place);
            match reason {
                CloseReason::Overflow | CloseReason::Stalled => {
                    tracing::info!(%client, channels, %reason, "stream closed: client too slow");
                }
                _ => tracing::debug!(%client, channels, %reason, "stream closed"),
            }
        });
    let mut response = response.into_response();
    if let Some(id) = id {
        response.headers_mut().insert(STREAM_ID, id);
    }
    Ok(response)
}

/// The headers that the stream would have, without opening it.
pub(crate) async fn show_stream(
    app: &App,
    client: ClientAddress,
    channels: &[Channel],
    parts: &Parts,
) -> Result<Response, Problem> {
    gate::check(app, client, Action::Subscribe, channels, parts).await?;
    Ok(empty(&app.streams).into_response())
}

/// If no decision was possible, a client that would not reconnect after a 503 gets a stream that
/// ends at once.
fn denied(app: &App, parts: &Parts, problem: Problem) -> Result<Response, Problem> {
    if is_unavailable(&problem) && wants_events(&parts.headers) {
        return Ok(empty(&app.streams).into_response());
    }
    Err(problem)
}

fn is_unavailable(problem: &Problem) -> bool {
    problem.status() == StatusCode::SERVICE_UNAVAILABLE
}

/// Whether the request is from an EventSource, by its `Accept`.
fn wants_events(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/event-stream"))
}

/// A stream that ends at once, with a reconnection delay.
fn empty(settings: &StreamSettings) -> EventSourceResponse {
    configured(EventSourceResponse::from_stream(stream::empty::<Event>()), settings)
}

fn configured(response: EventSourceResponse, settings: &StreamSettings) -> EventSourceResponse {
    response
        .heartbeat(settings.heartbeat.map(|interval| Heartbeat::comment().every(interval)))
        .retry(settings.retry)
        .send_timeout(settings.send_timeout)
        .lifetime_max(settings.max_lifetime)
}
